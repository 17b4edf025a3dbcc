"""Nothing leaks: what the decision permits, as clauses over index entries, against an oracle that only splits texts
and compares.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from fhirserver.auth.access import decide
from fhirserver.auth.principal import Principal
from fhirserver.fhir import Resource
from fhirserver.fhir.definitions import Definitions
from fhirserver.fhir.problem import Problem
from fhirserver.search.index import indexer
from fhirserver.search.match import matches
from fhirserver.search.query import And

PROFILES = Path(__file__).parents[2] / "profiles"
DEFINITIONS = Definitions.load().extended([json.loads(f.read_text()) for f in sorted(PROFILES.glob("*.json"))], 1)
ORGANIZATIONS, CLIENTS, PATIENTS = ("h1", "h2"), ("c1", "c2"), ("p1", "p2")
LETTERS, TYPES, VALUES = "cruds", ("Patient", "Observation", "Organization"), ("exam", "laboratory")

# Drawn so that many calls are permitted (one in six): what is always refused would agree with any decision.
some_letters = st.sets(st.sampled_from(LETTERS), min_size=1).map(lambda s: "".join(x for x in LETTERS if x in s))
letters = st.just(LETTERS) | st.just(LETTERS) | some_letters
types = st.sampled_from(("*", "*", "Observation", *TYPES))


def scope_of(levels: tuple[str, ...]) -> st.SearchStrategy[str]:
    """A text of scopes, mostly of these levels."""
    level = st.sampled_from((*levels * 3, "system", "user", "patient"))
    plain = st.builds("{}/{}.{}".format, level, types, letters)
    narrow = st.builds("{}/Observation.{}?category={}".format, level, letters, st.sampled_from(VALUES))
    return st.lists(plain | narrow | st.just("openid"), min_size=1, max_size=2).map(" ".join)


@st.composite
def resources(draw: st.DrawFn) -> Resource:
    type_ = draw(st.sampled_from(("Observation", "Observation", *TYPES)))
    id_ = draw(st.sampled_from(PATIENTS)) if type_ == "Patient" else "x"
    resource: Resource = {"resourceType": type_, "id": id_}
    if type_ == "Observation":
        codes = draw(st.sets(st.sampled_from(VALUES)))
        resource["category"] = [{"coding": [{"code": code}]} for code in sorted(codes)]
        resource["subject"] = {"reference": f"Patient/{draw(st.sampled_from(PATIENTS))}"}
    return resource


@st.composite
def calls(draw: st.DrawFn) -> tuple[Principal, str, dict[str, Any]]:
    """Who calls, in which organization, and what clients registered and organizations decided."""
    is_client = draw(st.booleans())
    scope = scope_of(("system",) if is_client else ("user", "patient"))
    status = st.sampled_from(("approved",) * 6 + ("disabled", "rejected", "waiting-for-approval"))
    pairs = [(client, organization) for client in CLIENTS for organization in ORGANIZATIONS]
    decided = {pair: (draw(status), draw(scope)) for pair in pairs if draw(st.integers(0, 5))}
    world = {"registered": {client: draw(scope) for client in CLIENTS}, "authorizations": decided}
    organization, client = draw(st.sampled_from(ORGANIZATIONS)), draw(st.sampled_from(CLIENTS))
    if is_client:
        return Principal("client", client, "acme", scopes=draw(scope)), organization, world
    through = draw(st.sampled_from(("", client, client)))
    role = st.sampled_from(("admin", "admin", "member", "none"))
    user = Principal(
        "user",
        "u1",
        roles={draw(st.sampled_from((organization, *ORGANIZATIONS))): draw(role)},
        scopes=draw(scope) if through else "",
        client=through,
        patient=draw(st.sampled_from((*PATIENTS, ""))),
    )
    return user, organization, world


def oracle(caller: Principal, organization: str, world: dict[str, Any], resource: Resource, letter: str) -> bool:
    """Whether the caller may do it, by the plainest reading of docs/oauth.md."""
    client = caller.id if caller.kind == "client" else caller.client
    texts = []
    if client:
        status, approved = world["authorizations"].get((client, organization), ("", ""))
        if status != "approved":
            return False
        texts = [caller.scopes, world["registered"][client], approved]
    if caller.kind == "user":
        role = caller.roles.get(organization)
        if role not in ("admin", "member") or (role == "member" and letter not in "rs"):
            return False
    usable = ("system",) if caller.kind == "client" else ("user", "patient")
    return all(any(_permits(word, usable, caller.patient, resource, letter) for word in text.split()) for text in texts)


def _permits(word: str, usable: tuple[str, ...], patient: str, resource: Resource, letter: str) -> bool:
    if "/" not in word:
        return False
    level, rest = word.split("/")
    rest, _, category = rest.partition("?category=")
    type_, spelled = rest.split(".")
    allowed = {"read": "rs", "write": "cud", "*": LETTERS}.get(spelled, spelled)
    if level not in usable or type_ not in ("*", resource["resourceType"]) or letter not in allowed:
        return False
    codes = [coding["code"] for concept in resource.get("category", []) for coding in concept["coding"]]
    if category and category not in codes:
        return False
    return level != "patient" or (bool(patient) and _is_of(patient, resource))


def _is_of(patient: str, resource: Resource) -> bool:
    if resource["resourceType"] == "Patient":
        return bool(resource["id"] == patient)
    return bool(resource.get("subject", {}).get("reference") == f"Patient/{patient}")


@settings(max_examples=1000, deadline=None)
@given(calls(), resources(), st.sampled_from(LETTERS))
def test_the_decision_permits_what_the_plain_reading_permits_and_nothing_else(
    call: tuple[Principal, str, dict[str, Any]], resource: Resource, letter: str
) -> None:
    assert _decided(*call, resource, letter) == oracle(*call, resource, letter)


def _decided(caller: Principal, organization: str, world: dict[str, Any], resource: Resource, letter: str) -> bool:
    """What our decision says, asked of the resource's index entry as the database is."""
    id_ = caller.id if caller.kind == "client" else caller.client
    client = {"resourceType": "ClientApplication", "id": id_, "scope": world["registered"][id_]} if id_ else None
    found = world["authorizations"].get((id_, organization))
    authorization = {"status": found[0], "scope": found[1]} if found else None
    try:
        access = decide(caller, organization, definitions=DEFINITIONS, client=client, authorization=authorization)
    except Problem:
        return False
    clauses = access.clauses(resource["resourceType"], letter)
    entry = indexer(DEFINITIONS, resource["resourceType"])(resource)
    return clauses is not None and matches(And(clauses), entry, resource["id"])
