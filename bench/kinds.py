"""Searches of many kinds on all the data: what an application really asks, and what makes a search dear.

For each: the median and the longest time over one connection, and what mongod looked at for one page (its profiler): a
search that examines far more keys than it shows is one to mend. `search.kinds` is the dearest of all; to reach: 100 ms.
"""

from __future__ import annotations

import http.client
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pymongo import MongoClient
from pymongo.database import Database

from bench import people
from bench.figures import line
from bench.installation import Installation
from bench.people import CATEGORY, LOINC, MRN, UCUM

FORM = "application/x-www-form-urlencoded"
HEART, A1C, GLUCOSE = (f"{LOINC}|{code}" for code in ("8867-4", "4548-4", "2339-0"))
INTERPRETATION = "http://terminology.hl7.org/CodeSystem/v3-ObservationInterpretation"
TIMES = 25
MOST_SECONDS = 8.0
PATIENCE_SECONDS = 300.0

# `{...}` are of a person of the data (`_filled`). What begins with POST is sent as a form.
KINDS: dict[str, str] = {
    # US Core Patient and Practitioner, alone and combined
    "patient by id": "Patient?_id=p{n:07d}",
    "patient by identifier": f"Patient?identifier={MRN}|MRN{{n:08d}}",
    "patient by name": "Patient?name={family}",
    "patient by birthdate, name": "Patient?birthdate={birthdate}&name={family}",
    "patient by birthdate, family": "Patient?birthdate={birthdate}&family={family}",
    "patient by family, gender": "Patient?family={family}&gender=female",
    "patient by gender, name": "Patient?gender=male&name={given}",
    "patient by death-date, family": "Patient?death-date=ge2020&family={family}",
    "practitioner by name": "Practitioner?name=al",
    # more of Patient
    "patient by a part of the name": "Patient?name:contains={middle}",
    "patient by a part of no name": "Patient?family:contains=xyzzy",
    "patient by phone": "Patient?phone={phone}",
    "patient by city, postal code": "Patient?address-city={city}&address-postalcode={postcode}",
    "patient by a year of birth": "Patient?birthdate=1980",
    "patient by a range of births": "Patient?birthdate=ge1980-03-01&birthdate=lt1980-04-01",
    "patient born later, female": "Patient?birthdate=ge1970&gender=female",
    "patient deceased (none is)": "Patient?deceased=true&gender=female",
    "patient without a name (none)": "Patient?name:missing=true",
    "patient by a code nobody has": "Patient?identifier=urn:nobody|0",
    "patient changed lately": "Patient?_lastUpdated=gt2020&_sort=-_lastUpdated",
    "patients sorted by family": "Patient?_sort=family&_count=50",
    "patients sorted by family, given": "Patient?_sort=family,given&_count=50",
    "women sorted by birthdate": "Patient?gender=female&_sort=-birthdate",
    "a family sorted by given": "Patient?family={family:.4}&_sort=given",
    "200 patients by id": "POST Patient?_id={ids}&_count=200",
    "200 patients by identifier": "POST Patient?identifier={identifiers}&_count=200",
    "patients counted": "Patient?gender=female&_total=accurate",
    "count of patients": "Patient?_summary=count",
    "patient by practitioner's name": "Patient?general-practitioner.family={doctorname}",
    "patient with any A1c": f"Patient?_has:Observation:patient:code={A1C}",
    "patient with any heart rate": f"Patient?_has:Observation:patient:code={HEART}",
    "patient of a result": "Patient?_has:Observation:patient:identifier=R{o:09d}",
    "patient with all observations": "Patient?_id=p{n:07d}&_revinclude=Observation:subject",
    # US Core Observation
    "observation by patient, code": f"Observation?patient=p{{n:07d}}&code={HEART}",
    "observation by patient, category": f"Observation?patient=p{{n:07d}}&category={CATEGORY}|laboratory",
    "observation by patient, category, date": (
        f"Observation?patient=p{{n:07d}}&category={CATEGORY}|vital-signs&date=ge2023-01-01"
    ),
    "observation by patient, category, status": (
        f"Observation?patient=p{{n:07d}}&category={CATEGORY}|laboratory&status=final"
    ),
    "observation by patient, codes, date": (
        f"Observation?patient=p{{n:07d}}&code={HEART},{A1C},{GLUCOSE}&date=ge2022&date=lt2024"
    ),
    "the latest of a code": f"Observation?patient=p{{n:07d}}&code={HEART}&_sort=-date&_count=1",
    # more of Observation
    "observations of 200 patients": "POST Observation?patient={ids}",
    "observations of 200 patients, newest": "POST Observation?patient={ids}&_sort=-date",
    "observation by identifier": "Observation?identifier=R{o:09d}",
    "observation by encounter": "Observation?encounter=Encounter/e{e:08d}",
    "observation by code": f"Observation?code={HEART}",
    "observation by an unknown code": f"Observation?code={LOINC}|0000-0",
    "observation by code, a day": f"Observation?code={HEART}&date=2023-05-05",
    "observation by code, newest": f"Observation?code={A1C}&_sort=-date",
    "observation by common code, newest": f"Observation?code={HEART}&_sort=-date",
    "observation by code, since the beginning": f"Observation?code={A1C}&date=ge2000",
    "observation by code, before any": f"Observation?code={HEART}&date=lt2000",
    "observation by a day": "Observation?date=2023-05-05",
    "observation by a month": "Observation?date=2023-05",
    "observations, newest": "Observation?_sort=-date",
    "observations, changed lately": "Observation?_sort=-_lastUpdated&_count=100",
    "laboratory of a week, newest": (
        f"Observation?category={CATEGORY}|laboratory&date=ge2023-05-01&date=lt2023-05-08&_sort=-date"
    ),
    "observation by performer": "Observation?performer=Practitioner/d{doctor:04d}",
    "observation by performer, status, code": (
        f"Observation?performer=Practitioner/d{{doctor:04d}}&status=amended&code={A1C}"
    ),
    "observation by three common codes": f"Observation?status=amended&category={CATEGORY}|laboratory&code={GLUCOSE}",
    "observation by text of the code": "Observation?code:text=heart",
    "observation by text of no code": "Observation?code:text=liver",
    "observation, another code": f"Observation?patient=p{{n:07d}}&code:not={HEART}",
    "observations, another code": f"Observation?code:not={HEART}",
    "high glucose": f"Observation?code={GLUCOSE}&value-quantity=gt250|{UCUM}|mg/dL",
    "the highest glucose": f"Observation?code={GLUCOSE}&value-quantity=gt299.9|{UCUM}|mg/dL",
    "glucose that nobody has": f"Observation?code={GLUCOSE}&value-quantity=gt400|{UCUM}|mg/dL",
    "a value of a patient": f"Observation?patient=p{{n:07d}}&value-quantity=gt100|{UCUM}|/min",
    "high glucose, composite": f"Observation?code-value-quantity={GLUCOSE}$gt250",
    "the highest glucose, composite": f"Observation?code-value-quantity={GLUCOSE}$gt299.9",
    "glucose nobody has, composite": f"Observation?code-value-quantity={GLUCOSE}$gt400",
    "observation without a value (none)": "Observation?value-quantity:missing=true",
    "observation by family of the patient": "Observation?subject:Patient.family={family}",
    "observation by birthdate, code": f"Observation?subject:Patient.birthdate={{birthdate}}&code={HEART}",
    "observation by city of the patient": "Observation?subject:Patient.address-city={city}",
    "observation by gender of the patient": "Observation?subject:Patient.gender=female",
    "observations counted": f"Observation?code={A1C}&_total=accurate",
    "observations of a common code counted": f"Observation?code={HEART}&_summary=count",
    "with patient and performer": (
        "Observation?patient=p{n:07d}&_include=Observation:subject&_include=Observation:performer"
    ),
    "with all it points at": "Observation?patient=p{n:07d}&_include=*",
    "elements of a page": f"Observation?code={HEART}&_elements=subject,valueQuantity",
    "compartment": "Patient/p{n:07d}/Observation",
    "a code of a compartment": f"Patient/p{{n:07d}}/Observation?code={HEART}",
    "all of a compartment": "Patient/p{n:07d}/*",
    "everything of a patient": "Patient/p{n:07d}/$everything",
    "1000 observations": f"Observation?code={HEART}&_count=1000",
}  # fmt: skip


def measure(
    one: Installation, url: str, patients: int, observations: int, cpu: Callable[[], tuple[float, float]]
) -> None:
    """Asks every kind TIMES times over one connection, each time about other people; and once with the profiler on.
    `cpu` tells the seconds of processor time of the server and of mongod so far.
    """
    chance = random.Random(11)
    database: Database[dict[str, Any]] = MongoClient(url)[one.database]
    connection = http.client.HTTPConnection("127.0.0.1", one.port, timeout=120)
    dearest = 0.0
    for name, kind in KINDS.items():
        asked = [_filled(kind, patients, observations, chance) for _ in range(TIMES)]
        status = _ready(connection, one, asked[0])
        server, mongod = cpu()
        times = sorted(_times(connection, one, asked))
        spent = tuple((now - before) / len(times) * 1e6 for now, before in zip(cpu(), (server, mongod), strict=True))
        with _profiled(database) as looked:
            status, text = _ask(connection, one, asked[0])
        p50, p99 = times[len(times) // 2], times[-1]  # of 25 the longest is what there is of a 99th percentile
        dearest = max(dearest, p50)
        shown = text.count(b'"search":{"mode":')
        said = {"kind": name, "status": status, "shown": shown, "bytes": len(text), **looked, "to_reach": 100}
        line("search.kind", p50, "ms", p50, p99, (spent[0], spent[1]), said)
    line("search.kinds", dearest, "ms", None, None, None, {"kinds": len(KINDS), "to_reach": 100})
    connection.close()


def _filled(kind: str, patients: int, observations: int, chance: random.Random) -> tuple[str, str, bytes | None]:
    """Method, path and body."""
    number = chance.randrange(patients)
    who = people.patient(number)
    name = who["name"][0]
    several = chance.sample(range(patients), min(200, patients))
    text = kind.format(
        n=number,
        o=chance.randrange(observations),
        e=chance.randrange(observations // 5),
        family=name["family"],
        middle=name["family"][2:7].lower(),
        given=name["given"][0],
        birthdate=who["birthDate"],
        phone=who["telecom"][0]["value"].replace("+", "%2B").replace(" ", "%20"),
        city=who["address"][0]["city"],
        postcode=who["address"][0]["postalCode"],
        doctor=number % 200,
        doctorname=people.practitioner(number % 200)["name"][0]["family"],
        ids=",".join(f"p{each:07d}" for each in several),
        identifiers=",".join(f"{MRN}|MRN{each:08d}" for each in several),
    )
    if not text.startswith("POST "):
        return "GET", text, None
    path, _, form = text.removeprefix("POST ").partition("?")
    return "POST", f"{path}/_search", form.encode()


def _ask(
    connection: http.client.HTTPConnection, one: Installation, call: tuple[str, str, bytes | None]
) -> tuple[int, bytes]:
    method, path, body = call
    headers = {"Authorization": f"Bearer {one.token}"} | ({"Content-Type": FORM} if body else {})
    connection.request(method, f"{one.base}/{path}", body, headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


def _ready(connection: http.client.HTTPConnection, one: Installation, call: tuple[str, str, bytes | None]) -> int:
    """The status once the indexes are built: until then it is 503."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (status := _ask(connection, one, call)[0]) == 503 and time.monotonic() < deadline:
        time.sleep(1)
    return status


def _times(
    connection: http.client.HTTPConnection, one: Installation, asked: list[tuple[str, str, bytes | None]]
) -> Iterator[float]:
    """Milliseconds of each, as many as fit into MOST_SECONDS."""
    began = time.monotonic()
    for call in asked:
        begin = time.monotonic()
        _ask(connection, one, call)
        now = time.monotonic()
        yield round((now - begin) * 1e3, 2)
        if now - began > MOST_SECONDS:
            return


@contextmanager
def _profiled(database: Database[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """What mongod looked at for the resources asked for meanwhile: keys, documents, and the plans it went by."""
    looked: dict[str, Any] = {}
    database.command("profile", 0)
    database.drop_collection("system.profile")
    database.command("profile", 2)
    try:
        yield looked
    finally:
        database.command("profile", 0)
        seen = [each for each in database["system.profile"].find() if _of_resources(each.get("ns", ""))]
        for field, key in (("keys", "keysExamined"), ("documents", "docsExamined"), ("returned", "nreturned")):
            looked[field] = sum(each.get(key, 0) for each in seen)
        looked["sorted"] = any(each.get("hasSortStage") for each in seen)
        looked["queries"] = len(seen)
        looked["plans"] = [each.get("planSummary", "")[:200] for each in seen]


def _of_resources(namespace: str) -> bool:
    return namespace.partition(".")[2] in ("Patient", "Observation", "Practitioner", "Encounter", "Organization")
