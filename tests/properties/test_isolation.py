"""Nothing leaks, held against the whole API: random organizations, clients, scopes, decisions, policies and requests.

The oracle knows no clause and no index: it splits the texts of scopes and compares what is in the resources.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhirserver import app
from fhirserver.auth.principal import Principal
from fhirserver.rules.organization import kind_concept
from fhirserver.settings import Secret, Settings
from tests.api.client import Answer, Api
from tests.properties.worlds import (
    BRIEF,
    CATEGORIES,
    GENDERS,
    LONG,
    Drawn,
    Resource,
    category,
    covers,
    policies,
    scopes,
)


@dataclass
class World:
    """An installation, and the operator who sets everything up in it."""

    installation: app.Installation = field(repr=False)
    registry: Api = field(repr=False)

    def at(self, organization: str, principal: Principal) -> Api:
        token = self.installation.tokens.issue(principal, 3600)
        return Api(self.registry.app, f"/1/health/organizations/{organization}/fhir/4", token)

    def operator(self, organization: str) -> Principal:
        return Principal("operator", "operator", organization, operator=True, scopes="system/*.cruds")


@pytest.fixture(scope="module")
def world(mongo_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    given_settings = Settings(
        data=tmp_path_factory.mktemp("isolation"),
        mongo_url=Secret(mongo_url),
        mongo_database=f"isolation-{uuid.uuid4().hex[:8]}",
        master_key=Secret("k" * 40),
        public_url="http://api.test",
    )
    made = app.build(given_settings)
    operator = Principal("operator", "operator", operator=True, scopes="system/*.cruds")
    flask_app: Any = app.create_app(made)
    yield World(made, Api(flask_app, "/1/health/fhir/4", made.tokens.issue(operator, 3600)))
    made.close()


# What is drawn


@dataclass(frozen=True)
class Case:
    """One world to try: what the token, the client and the two organizations say."""

    token: str
    approved: str
    registered: str
    steps: tuple[tuple[str, ...], tuple[str, ...]]
    policies: tuple[Drawn, ...]


status = st.sampled_from((("approve",), ("approve",), ("approve", "disable"), ("reject",), (), ("none",)))
cases = st.builds(
    Case,
    scopes | st.just("system/*.cruds"),
    scopes | st.just("system/*.cruds"),
    scopes | st.just("system/*.cruds"),
    st.tuples(st.just(("approve",)) | status, status),
    policies.map(tuple),
)

# The oracle


@dataclass
class Oracle:
    """What the client may do in the organizations, and what lies there."""

    case: Case
    data: dict[str, dict[str, Resource]]
    """Organization -> Type/id -> resource."""
    open: dict[str, bool]

    def permits(self, organization: str, letter: str, resource: Resource) -> bool:
        type_ = resource["resourceType"]
        texts = (self.case.token, self.case.approved, self.case.registered)
        return (
            self.open[organization]
            and all(covers(text, type_, letter, resource) for text in texts)
            and all(policy.permits(type_, letter, resource) for policy in self.case.policies)
        )

    def seen(self, organization: str, letter: str, type_: str) -> set[str]:
        return {
            name
            for name, resource in self.data[organization].items()
            if name.startswith(f"{type_}/") and self.permits(organization, letter, resource)
        }


# The world of a case


def resources() -> list[Resource]:
    found: list[Resource] = []
    for gender in GENDERS:
        found.append({"resourceType": "Patient", "id": gender, "gender": gender})
        found += [
            {
                "resourceType": "Observation",
                "id": f"{gender}-{code}",
                "status": "final",
                "code": {"text": "x"},
                "category": [{"coding": [{"code": code}]}],
                "subject": {"reference": f"Patient/{gender}"},
            }
            for code in CATEGORIES
        ]
    return found


def organization(world: World) -> tuple[str, dict[str, Resource]]:
    kind = {"resourceType": "Organization", "name": "H", "type": [kind_concept("provider")]}
    id = str(world.registry.create(kind)["id"])
    entries = [
        {"resource": each, "request": {"method": "PUT", "url": f"{each['resourceType']}/{each['id']}"}}
        for each in resources()
    ]
    stored = world.at(id, world.operator(id)).post(
        "", {"resourceType": "Bundle", "type": "transaction", "entry": entries}
    )
    assert stored.status == 200, stored.data
    return id, {f"{each['resourceType']}/{each['id']}": each for each in resources()}


def client(world: World, case: Case, organizations: list[str]) -> str:
    given_client = {
        "resourceType": "ClientApplication",
        "name": "C",
        "kind": "production",
        "grantType": ["client_credentials"],
        "scope": case.approved,
    }
    made = world.registry.create(given_client)
    for id, steps in zip(organizations, case.steps, strict=True):
        if steps == ("none",):
            continue
        body = {
            "resourceType": "Parameters",
            "parameter": [
                {"name": "organization", "valueReference": {"reference": f"Organization/{id}"}},
                {"name": "reason", "valueString": "to try"},
            ],
        }
        asked = world.registry.post(f"ClientApplication/{made['id']}/$request-authorization", body).json
        admin = Api(world.registry.app, world.registry.base, world.installation.tokens.issue(world.operator(id), 3600))
        for step in steps:
            note = {"resourceType": "Parameters", "parameter": [{"name": "note", "valueString": "n"}]}
            assert admin.post(f"ClientAuthorization/{asked['id']}/${step}", note).status == 200
    made.pop("secret")
    assert world.registry.put(f"ClientApplication/{made['id']}", {**made, "scope": case.registered}).status == 200
    return str(made["id"])


@BRIEF
@given(case=cases, wrote=st.sampled_from(CATEGORIES))
def test_the_api_permits_what_the_oracle_permits_and_nothing_else(world: World, case: Case, wrote: str) -> None:
    check(world, case, wrote)


@pytest.mark.slow
@pytest.mark.timeout(900)
@LONG
@given(case=cases, wrote=st.sampled_from(CATEGORIES))
def test_the_api_permits_what_the_oracle_permits_in_a_hundred_worlds(world: World, case: Case, wrote: str) -> None:
    check(world, case, wrote)


def check(world: World, case: Case, wrote: str) -> None:
    """Sets up the world of a case, and holds every way to its data against the oracle."""
    made = [organization(world) for _ in range(2)]
    names = [id for id, _ in made]
    open_ = {id: steps == ("approve",) for id, steps in zip(names, case.steps, strict=True)}
    oracle = Oracle(case, dict(made), open_)
    id = client(world, case, names)
    link = [{"reference": f"ClientApplication/{id}"}]
    written = [
        world.registry.create({"resourceType": "AccessPolicy", "name": "p", "link": link, **policy.elements})["id"]
        for policy in case.policies
    ]
    try:
        for name in names:
            api = world.at(name, Principal("client", id, scopes=case.token))
            check_reads(api, oracle, name)
            check_searches(api, oracle, name)
            check_bundles(api, oracle, name, next(other for other in names if other != name))
            check_writes(api, world.at(name, world.operator(name)), oracle, name, wrote)
    finally:
        for policy_id in written:
            world.registry.delete(f"AccessPolicy/{policy_id}")


def check_reads(api: Api, oracle: Oracle, name: str) -> None:
    entries = []
    for reference, resource in oracle.data[name].items():
        permitted = oracle.permits(name, "r", resource)
        assert (api.get(reference).status == 200) is permitted, reference
        assert (api.get(f"{reference}/_history/1").status == 200) is permitted, reference
        entries.append({"request": {"method": "GET", "url": reference}})
    answer = api.post("", {"resourceType": "Bundle", "type": "batch", "entry": entries})
    if answer.status == 200:
        shown = {
            f"{e['resource']['resourceType']}/{e['resource']['id']}" for e in answer.json["entry"] if "resource" in e
        }
        assert shown == oracle.seen(name, "r", "Patient") | oracle.seen(name, "r", "Observation")
    else:
        assert not oracle.open[name]


def found(api: Api, url: str) -> tuple[set[str], set[str]]:
    """Type/id of the matches and of what is included; nothing where it was refused."""
    answer = api.get(url)
    assert answer.status in (200, 403), answer.data
    entries = answer.json.get("entry", []) if answer.status == 200 else []
    by_mode: dict[str, set[str]] = {"match": set(), "include": set(), "outcome": set()}
    for entry in entries:
        resource = entry["resource"]
        by_mode[entry["search"]["mode"]].add(f"{resource['resourceType']}/{resource.get('id')}")
    return by_mode["match"], by_mode["include"]


def check_searches(api: Api, oracle: Oracle, name: str) -> None:
    patients, observations = (oracle.seen(name, "s", type_) for type_ in ("Patient", "Observation"))
    readable = {*oracle.seen(name, "r", "Patient"), *oracle.seen(name, "r", "Observation"), *patients, *observations}
    data = oracle.data[name]
    assert found(api, "Patient")[0] == patients
    assert found(api, "Observation")[0] == observations
    assert found(api, "Observation?category=exam")[0] == {o for o in observations if category(data[o]) == "exam"}
    female = {o for o in observations if o.startswith("Observation/female") and "Patient/female" in patients}
    assert found(api, "Observation?subject:Patient.gender=female")[0] == female
    having = {p for p in patients if f"Observation/{p.partition('/')[2]}-exam" in observations}
    assert found(api, "Patient?_has:Observation:subject:category=exam")[0] == having
    matched, included = found(api, "Patient?_revinclude=Observation:subject")
    assert (matched, included <= readable) == (patients, True)
    matched, included = found(api, "Observation?_include=Observation:subject")
    assert (matched, included <= readable) == (observations, True)
    assert found(api, "Patient/female/Observation")[0] == {
        o for o in observations if o.startswith("Observation/female")
    }
    for url in ("Observation/_history", "_history", "Patient/female/$everything", "?_type=Patient,Observation"):
        answer = api.get(url)
        entries = answer.json.get("entry", []) if answer.status == 200 else []
        shown = {
            f"{e['resource']['resourceType']}/{e['resource']['id']}" for e in entries if "id" in e.get("resource", {})
        }
        assert shown <= readable, url


def entries_of(answer: Answer) -> list[Resource]:
    return list(answer.json["entry"]) if answer.status == 200 else []


def check_bundles(api: Api, oracle: Oracle, name: str, other: str) -> None:
    """Searches, writes and another organization's addresses as entries of a batch; a transaction is all or nothing."""
    data = oracle.data[name]
    asked = {
        "Observation?category=exam": {
            each for each in oracle.seen(name, "s", "Observation") if category(data[each]) == "exam"
        },
        "Patient?gender=male": oracle.seen(name, "s", "Patient") & {"Patient/male"},
    }
    gets: list[Resource] = [{"request": {"method": "GET", "url": url}} for url in asked]
    elsewhere = f"{api.origin}/1/health/organizations/{other}/fhir/4/Patient/male"
    gets.append({"request": {"method": "GET", "url": elsewhere}})
    answers = entries_of(api.post("", {"resourceType": "Bundle", "type": "batch", "entry": gets}))
    for answer, expected in zip(answers, asked.values(), strict=False):
        entries = answer.get("resource", {}).get("entry", [])
        matches = [entry["resource"] for entry in entries if entry["search"]["mode"] == "match"]
        assert {f"{found['resourceType']}/{found['id']}" for found in matches} == expected
    assert not answers or answers[-1]["response"]["status"][:1] == "4"
    kept, changed = data["Patient/male"], {**data["Patient/male"], "active": True}
    put = {"resource": changed, "request": {"method": "PUT", "url": "Patient/male"}}
    done = api.post("", {"resourceType": "Bundle", "type": "transaction", "entry": [put]})
    permitted = oracle.permits(name, "u", kept)
    assert (done.status == 200) is permitted, done.data
    patch = [{"op": "add", "path": "/active", "value": False}]
    patched = api.patch("Patient/female", patch, Content_Type="application/json-patch+json")
    # What a patch tests, copies and answers shows what is there: it needs the right to read as well.
    may = oracle.permits(name, "r", data["Patient/female"]) and oracle.permits(name, "u", data["Patient/female"])
    assert (patched.status == 200) is may, patched.data


def check_writes(api: Api, operator: Api, oracle: Oracle, name: str, wrote: str) -> None:
    """What a client wrote is looked at with an operator's eyes."""
    data = oracle.data[name]
    new = {**data["Observation/female-exam"], "category": [{"coding": [{"code": wrote}]}]}
    created = api.post("Observation", {key: value for key, value in new.items() if key != "id"})
    assert (created.status == 201) is oracle.permits(name, "c", new), created.data
    for reference in ("Observation/female-exam", "Observation/male-laboratory"):
        before = data[reference]
        after = {**before, "category": new["category"]}
        done = api.put(reference, after)
        permitted = oracle.permits(name, "u", before) and oracle.permits(name, "u", after)
        assert (done.status == 200) is permitted, (reference, done.data)
        data[reference] = after if permitted else before
        api.delete(reference)
        assert (operator.get(reference).status == 410) is oracle.permits(name, "d", data[reference]), reference
