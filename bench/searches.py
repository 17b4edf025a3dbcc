"""The twenty searches that must not grow with the number of patients. `{n}` stands for the number of a Patient."""

from __future__ import annotations

from bench.people import LOINC, MRN

SEARCHES: dict[str, str] = {
    "patient.identifier": f"Patient?identifier={MRN}|MRN{{n:08d}}&_count=20",
    "patient.identifier.value": "Patient?identifier=MRN{n:08d}&_count=20",
    "patient.id": "Patient?_id=p{n:07d}",
    "patient.family": "Patient?family={family}&_count=20",
    "patient.family.exact": "Patient?family:exact={family}&_count=20",
    "patient.name.prefix": "Patient?name={family:.4}&_count=20",
    "patient.given": "Patient?given={given}&_count=20",
    "patient.gender": "Patient?gender=female&_count=20",
    "patient.birthdate": "Patient?birthdate={birthdate}&_count=20",
    "patient.email": "Patient?email={email}&_count=20",
    "patient.address-city": "Patient?address-city={city}&_count=20",
    "patient.general-practitioner": "Patient?general-practitioner=Practitioner/d{doctor:04d}&_count=20",
    "patient.all.recent": "Patient?_sort=-_lastUpdated&_count=20",
    "patient.all.birthdate": "Patient?_sort=birthdate&_count=20",
    "observation.patient": "Observation?patient=Patient/p{n:07d}&_count=20",
    "observation.patient.code": f"Observation?patient=Patient/p{{n:07d}}&code={LOINC}|8867-4&_count=20",
    "observation.patient.date": "Observation?patient=Patient/p{n:07d}&_sort=-date&_count=20",
    "observation.code": f"Observation?code={LOINC}|8867-4&_count=20",
    "observation.patient.include": "Observation?patient=Patient/p{n:07d}&_include=Observation:subject&_count=20",
    "observation.chain": f"Observation?subject:Patient.identifier={MRN}|MRN{{n:08d}}&_count=20",
}
