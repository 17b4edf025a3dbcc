"""Seeded Patients and Observations: the same ones for the same numbers, on every machine. Nobody in here exists."""

from __future__ import annotations

import gzip
import random
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from fhirserver.fhir.json import encode

MRN = "https://hospital.example/mrn"
LOINC = "http://loinc.org"
UCUM = "http://unitsofmeasure.org"
CATEGORY = "http://terminology.hl7.org/CodeSystem/observation-category"

_STARTS, _MIDDLES, _ENDS, _GIVEN = (
    tuple(words.split())
    for words in (
        "Al Ban Cor Dre El Far Gan Hol Is Jan Kor Lin Mar Nor Ol Pel Quin Ros Sten Tor Ul Ver Wes Yar Zim",
        "a e i o u an en in or er ar is os ett ill and ing ol am em",
        "son berg man ley ford ton ski dottir ez ini ova sen wick worth dal mer ner tis rade lund",
        "Ada Bela Carl Dora Emil Fina Gero Hana Ivan Juna Kai Lea Milo Nora Otto Pia Quin Rosa Sami Tea Udo Vera Wim "
        "Xenia Yves Zoe Anton Berta Cosmo Dana Erik Flora Gil Helga Igor Jette Klaus Luisa Marek Nina",
    )
)
_CITIES = [
    (f"{start}{end}", f"{region}") for start in _STARTS for end, region in (("burg", "North"), ("haven", "Coast"))
]
# code, display, unit, lowest, highest, how often
_MEASURED = (
    ("8867-4", "Heart rate", "/min", 45, 140, 30),
    ("9279-1", "Respiratory rate", "/min", 8, 30, 15),
    ("8310-5", "Body temperature", "Cel", 35, 41, 15),
    ("29463-7", "Body weight", "kg", 40, 140, 10),
    ("8302-2", "Body height", "cm", 140, 205, 8),
    ("2339-0", "Glucose", "mg/dL", 60, 300, 8),
    ("718-7", "Hemoglobin", "g/dL", 7, 18, 6),
    ("2160-0", "Creatinine", "mg/dL", 0, 4, 4),
    ("2951-2", "Sodium", "mmol/L", 120, 155, 3),
    ("4548-4", "Hemoglobin A1c", "%", 4, 13, 1),
)
_WEIGHTS = [row[-1] for row in _MEASURED]
_FIRST_DAY = date(1930, 1, 1)
_FIRST_MEASURED = date(2021, 1, 1)


def patient(number: int) -> dict[str, Any]:
    """Patient p<number>: about 2 KB of JSON."""
    chance = random.Random(number)
    family = chance.choice(_STARTS) + chance.choice(_MIDDLES) + chance.choice(_ENDS)
    given = chance.sample(_GIVEN, 2)
    city, state = chance.choice(_CITIES)
    gender = chance.choice(("female", "male"))
    street = f"{chance.randint(1, 300)} {chance.choice(_STARTS)}{chance.choice(_ENDS)} Street"
    telephone = f"+1 555 {chance.randint(1000000, 9999999)}"
    return {
        "resourceType": "Patient",
        "id": f"p{number:07d}",
        "text": {
            "status": "generated",
            "div": f'<div xmlns="http://www.w3.org/1999/xhtml"><p>{given[0]} {given[1]} {family}, {gender}</p></div>',
        },
        "identifier": [
            {
                "use": "usual",
                "type": {
                    "coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "MR"}],
                    "text": "Medical record number",
                },
                "system": MRN,
                "value": f"MRN{number:08d}",
                "assigner": {"display": "General Hospital"},
            },
            {"use": "secondary", "system": "https://payer.example/member", "value": f"M-{chance.getrandbits(40):012d}"},
        ],
        "active": True,
        "name": [
            {"use": "official", "family": family, "given": given, "text": f"{given[0]} {given[1]} {family}"},
            {"use": "nickname", "given": [given[0][:3]]},
        ],
        "telecom": [
            {"system": "phone", "value": telephone, "use": "home"},
            {"system": "email", "value": f"{given[0]}.{family}.{number}@mail.example".lower(), "use": "home"},
        ],
        "gender": gender,
        "birthDate": (_FIRST_DAY + timedelta(days=chance.randrange(34_000))).isoformat(),
        "address": [
            {
                "use": "home",
                "type": "both",
                "line": [street],
                "city": city,
                "state": state,
                "postalCode": f"{chance.randrange(10_000, 99_999)}",
                "country": "US",
            },
            {
                "use": "work",
                "line": [f"{chance.randint(1, 90)} Harbour Road", "Third floor"],
                "city": chance.choice(_CITIES)[0],
                "postalCode": f"{chance.randrange(10_000, 99_999)}",
                "country": "US",
                "period": {"start": "2019-04-01"},
            },
        ],
        "maritalStatus": {
            "coding": [
                {
                    "system": "http://terminology.hl7.org/CodeSystem/v3-MaritalStatus",
                    "code": chance.choice(("M", "S", "D", "W")),
                }
            ]
        },
        "contact": [
            {
                "relationship": [
                    {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0131", "code": "N"}]}
                ],
                "name": {"family": family, "given": [chance.choice(_GIVEN)]},
                "telecom": [{"system": "phone", "value": f"+1 555 {chance.randint(1000000, 9999999)}"}],
            }
        ],
        "communication": [
            {
                "language": {
                    "coding": [{"system": "urn:ietf:bcp:47", "code": chance.choice(("en", "es", "de", "fr"))}]
                },
                "preferred": True,
            }
        ],
        "generalPractitioner": [{"reference": f"Practitioner/d{number % 200:04d}", "display": f"Dr. {family}"}],
        "managingOrganization": {"reference": "Organization/general", "display": "General Hospital"},
    }


def observation(number: int, patients: int) -> dict[str, Any]:
    """Observation o<number> of one of `patients` patients: about 1 KB of JSON."""
    chance = random.Random(-number - 1)
    code, display, unit, low, high, _ = chance.choices(_MEASURED, _WEIGHTS)[0]
    about = number % patients
    day = _FIRST_MEASURED + timedelta(days=chance.randrange(1_800))
    instant = f"{day.isoformat()}T{chance.randrange(24):02d}:{chance.randrange(60):02d}:00+00:00"
    return {
        "resourceType": "Observation",
        "id": f"o{number:08d}",
        "identifier": [{"system": "https://hospital.example/result", "value": f"R{number:09d}"}],
        "status": chance.choice(("final", "final", "final", "amended")),
        "category": [{"coding": [{"system": CATEGORY, "code": "vital-signs" if unit != "mg/dL" else "laboratory"}]}],
        "code": {"coding": [{"system": LOINC, "code": code, "display": display}], "text": display},
        "subject": {"reference": f"Patient/p{about:07d}"},
        "encounter": {"reference": f"Encounter/e{number // 5:08d}"},
        "effectiveDateTime": instant,
        "issued": instant,
        "performer": [{"reference": f"Practitioner/d{chance.randrange(200):04d}"}],
        "valueQuantity": {
            "value": round(chance.uniform(low, high), 1),
            "unit": unit,
            "system": UCUM,
            "code": unit,
        },
        "interpretation": [
            {
                "coding": [
                    {
                        "system": "http://terminology.hl7.org/CodeSystem/v3-ObservationInterpretation",
                        "code": chance.choice(("N", "N", "N", "H", "L")),
                    }
                ]
            }
        ],
    }


def practitioner(number: int) -> dict[str, Any]:
    """Practitioner d<number>, whom Patients and Observations refer to."""
    chance = random.Random(number + 7)
    name = {"family": chance.choice(_STARTS) + chance.choice(_ENDS), "given": [chance.choice(_GIVEN)]}
    return {"resourceType": "Practitioner", "id": f"d{number:04d}", "active": True, "name": [name]}


def resources(patients: int, observations: int) -> Iterator[dict[str, Any]]:
    """Everything of a data set of that size: 200 Practitioners, the Patients, the Observations."""
    yield from (practitioner(number) for number in range(200))
    yield from (patient(number) for number in range(patients))
    yield from (observation(number, patients) for number in range(observations))


def write(path: Path, patients: int, observations: int) -> Path:
    """The data set as an NDJSON file (gzip), made once."""
    if not path.exists():
        fresh = path.with_suffix(".new")
        with gzip.open(fresh, "wb", compresslevel=1) as file:
            for resource in resources(patients, observations):
                file.write(encode(resource) + b"\n")
        fresh.replace(path)
    return path
