"""No search by a supported parameter scans a collection: MongoDB's own plan says so. FHIR R4: search."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import parse_qsl

import pytest

from fhirserver.app import Installation
from fhirserver.auth.access import everything
from fhirserver.auth.principal import SYSTEM
from fhirserver.interactions.model import Request
from fhirserver.interactions.search import prepare
from fhirserver.search.query import Clause, Leaf, Or, References, compartment
from fhirserver.store.plans import plan
from fhirserver.store.search import compile_search, narrowed
from tests.api.client import Api
from tests.api.plans import stages
from tests.api.samples import observation, patient

SEARCHES = [
    "Patient?_id=p1",
    "Patient?_lastUpdated=ge2020",
    "Patient?family=adler",
    "Patient?family=adler,bauer&given=ida",
    "Patient?family:exact=Adler",
    "Patient?name=ida",
    "Patient?identifier=urn:mrn|1",
    "Patient?identifier=urn:mrn|",
    "Patient?identifier=1",
    "Patient?identifier:of-type=urn:t|MR|1",
    "Patient?birthdate=1980",
    "Patient?birthdate=gt1980&birthdate=lt1990",
    "Patient?_tag=urn:t|x",
    "Patient?organization=Organization/o",
    "Patient?organization:identifier=urn:x|1",
    "Observation?subject=Patient/p1",
    "Observation?patient=p1,p2",
    "Observation?code=http://loinc.org|8867-4&date=ge2020",
    "Observation?date=2020-01-15",
    "Observation?value-quantity=5|http://unitsofmeasure.org|mg",
    "Observation?value-quantity=gt5|http://unitsofmeasure.org|mg",
    "Observation?code-value-quantity=8867-4$gt5",
    "Observation?value-concept:text=high",
    "ValueSet?url=http://example.org/vs",
    "ValueSet?url:below=http://example.org/",
    "RiskAssessment?probability=gt0.5",
    "Observation?subject.family=adler",
    "Patient?_has:Observation:subject:code=8867-4",
    "Patient",
]


@pytest.fixture(scope="module")
def filled(new_base: Callable[..., Api]) -> Api:
    """Enough that a plan by index is worth it, and some of it matching."""
    api = new_base()
    entries = []
    for number in range(60):
        one = patient(
            id=f"p{number}",
            identifier=[{"system": "urn:mrn", "value": str(number)}],
            birthDate=f"{1950 + number}",
            managingOrganization={"reference": "Organization/o"},
        )
        two = observation(
            f"Patient/p{number}",
            id=f"o{number}",
            effectiveDateTime=f"2020-01-{number % 28 + 1:02}",
            valueQuantity={"value": number, "system": "http://unitsofmeasure.org", "code": "mg"},
        )
        entries += [
            {"request": {"method": "PUT", "url": f"{each['resourceType']}/{each['id']}"}, "resource": each}
            for each in (one, two)
        ]
    assert api.post("", {"resourceType": "Bundle", "type": "batch", "entry": entries}).status == 200
    return api


@pytest.mark.parametrize("path", SEARCHES)
def test_a_search_goes_by_an_index(filled: Api, installation: Installation, path: str) -> None:
    server = installation.server
    assert filled.get(path, Prefer="handling=strict").status == 200, "this also builds the indexes"
    type, _, text = path.partition("?")
    access = everything(filled.organization)
    request = Request("search-type", filled.organization, server.base(filled.organization), SYSTEM, type=type)
    query = prepare(server, request, type, tuple(parse_qsl(text)))
    search = compile_search(server.store, access, type, query.clauses, None)
    assert search is not None
    found = {"find": type, "filter": search.filter, "sort": {"_id": 1}, "limit": 20}
    explained = server.store.database.raw.command("explain", found, verbosity="queryPlanner")
    used = set(stages(explained["queryPlanner"]["winningPlan"]))
    assert "COLLSCAN" not in used, explained["queryPlanner"]["winningPlan"]
    assert used & {"IXSCAN", "IDHACK", "EOF", "CLUSTERED_IXSCAN"}


@pytest.mark.parametrize("sort", ["birthdate", "-birthdate", "_lastUpdated", "-_lastUpdated", "_id", "-_id"])
def test_a_sort_by_one_key_walks_an_index_in_either_direction(
    filled: Api, installation: Installation, sort: str
) -> None:
    assert filled.get(f"Patient?_sort={sort}").status == 200, "this also builds the index"
    server = installation.server
    request = Request("search-type", filled.organization, server.base(filled.organization), SYSTEM, type="Patient")
    query = prepare(server, request, "Patient", (("_sort", sort),))
    search = compile_search(server.store, everything(filled.organization), "Patient", query.clauses, None)
    assert search is not None
    found = plan(server.store, search, query.sort, 5)
    assert not found.sorts, found


@pytest.mark.parametrize("field", ["_id", "m"])
def test_a_page_is_one_query_whether_mongod_sorts_or_not(filled: Api, installation: Installation, field: str) -> None:
    database = installation.server.store.database
    database.raw.command("profile", 2)
    try:
        found = database.documents("Patient", {"o": filled.organization}, {"i": 1}, limit=2, sort=[(field, 1)])
    finally:
        database.raw.command("profile", 0)
    commands = list(database.raw["system.profile"].find({"ns": f"{database.raw.name}.Patient"}))
    database.raw.drop_collection("system.profile")
    assert len(found) == 2
    assert len(commands) == 1, commands


@pytest.mark.parametrize("sort", ["birthdate,gender", "-birthdate,_lastUpdated"])
def test_a_sort_by_several_keys_looks_no_further_than_a_page_does(
    filled: Api, installation: Installation, sort: str
) -> None:
    assert filled.get(f"Patient?_sort={sort}").status == 200, "this also builds the index"
    database = installation.server.store.database.raw
    database.command("profile", 2)
    try:
        first = filled.get(f"Patient?_sort={sort}&_count=5")
        assert len(first.ids) == 5
        assert len(filled.get(first.link("next") or "").ids) == 5
    finally:
        database.command("profile", 0)
    looked = {"ns": f"{database.name}.Patient", "planSummary": {"$exists": True}}
    examined = [each["docsExamined"] for each in database["system.profile"].find(looked)]
    database.drop_collection("system.profile")
    assert examined
    assert max(examined) <= 7, examined


NARROWED: dict[str, list[Clause]] = {
    "alone": [],
    "by a code": [Leaf("code", "token", ("http://loinc.org|8867-4",))],
    "by two kinds of reference": [
        Or((References("encounter", frozenset({"Encounter/1"})), Leaf("code", "token", ("8867-4",))))
    ],
}


@pytest.mark.parametrize("name", NARROWED)
@pytest.mark.parametrize("start", [None, "o0"])
def test_a_compartment_is_found_by_the_references_that_make_it(
    filled: Api, installation: Installation, name: str, start: str | None
) -> None:
    assert filled.get("Patient/p1/Observation?code=8867-4&encounter=Encounter/1").status == 200, (
        "this builds the indexes"
    )
    store, organization = installation.server.store, filled.organization
    clause = compartment(installation.server.definitions, "Patient", "p1", "Observation")
    assert isinstance(clause, Or), "of several references"
    search = compile_search(store, everything(organization), "Observation", [clause, *NARROWED[name]], None)
    assert search is not None
    filter = narrowed(search.filter, [{"_id": {"$gt": f"{organization}/{start}"}}] if start else [])
    found = {"find": "Observation", "filter": filter, "sort": {"_id": 1}, "limit": 5}
    done = store.database.raw.command("explain", found, verbosity="executionStats")["executionStats"]
    assert done["totalDocsExamined"] <= 2, done
    assert done["nReturned"] == 1, done


COSTS = [
    ("Patient", 5, 5),
    ("Patient?gender:not=male", 5, 5),
    ("Patient?gender:missing=true", 5, 5),
    ("Patient?identifier=urn:mrn|7", 1, 1),
    # MongoDB races the index of the parameter against a walk by `_id`, which may win while it reads no more than this.
    ("Patient?birthdate=1980", 1, 40),
    ("Patient?_id=p1", 1, 1),
    ("Observation?subject=Patient/p1", 1, 1),
    ("Observation?code=http://loinc.org|8867-4&subject=Patient/p1", 1, 1),
    ("Observation?value-quantity=7|http://unitsofmeasure.org|mg", 1, 2),
]


@pytest.mark.parametrize(("path", "returned", "most_examined"), COSTS)
def test_a_page_costs_a_page_however_much_the_organization_has(
    filled: Api, installation: Installation, path: str, returned: int, most_examined: int
) -> None:
    type, _, text = path.partition("?")
    assert filled.get(path).status == 200
    server = installation.server
    request = Request("search-type", filled.organization, server.base(filled.organization), SYSTEM, type=type)
    query = prepare(server, request, type, tuple(parse_qsl(text)))
    search = compile_search(server.store, everything(filled.organization), type, query.clauses, None)
    assert search is not None
    found = {"find": type, "filter": search.filter, "sort": {"_id": 1}, "limit": 5}
    done = server.store.database.raw.command("explain", found, verbosity="executionStats")["executionStats"]
    assert done["nReturned"] == returned, done
    assert done["totalDocsExamined"] <= most_examined, done
