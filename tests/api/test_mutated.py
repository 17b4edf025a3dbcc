"""Bodies that are almost right: what stands where something else belongs is the caller's fault and never one of ours.
Rules and operations look at what is sent before it has been validated.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fhirserver.fhir.json import decode
from fhirserver.rules.organization import kind_concept
from fhirserver.settings import folder
from tests.api.client import Api
from tests.api.submitting import submission

OTHERS: tuple[Any, ...] = (5, "x", [1], {})
MOST = 400
"""Bodies that are made of one; of a larger one they are taken from all over it."""


def mutants(body: Any) -> Iterator[Any]:
    """The body with something else at one place of it, at a time."""
    made = [(path, other) for path in _paths(body) if path for other in OTHERS]
    for path, other in made[:: len(made) // MOST + 1]:
        mutant = copy.deepcopy(body)
        inner = mutant
        for step in path[:-1]:
            inner = inner[step]
        inner[path[-1]] = copy.deepcopy(other)
        yield mutant


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, inner in steps:
        yield from _paths(inner, (*path, step))


def parameters(**values: Any) -> dict[str, Any]:
    parts = [{"name": name.replace("_", "-"), **value} for name, value in values.items()]
    return {"resourceType": "Parameters", "parameter": parts}


def organization(kind: str) -> dict[str, Any]:
    return {"resourceType": "Organization", "name": kind, "type": [kind_concept(kind)]}


CLIENT = {
    "resourceType": "ClientApplication",
    "name": "Results",
    "kind": "test",
    "grantType": ["client_credentials", "authorization_code"],
    "redirectUri": ["https://app.example/back"],
    "scope": "system/Patient.rs user/Observation.rs?category=exam",
    "iheProfile": ["pdqm-consumer"],
    "accessTokenLifetime": 60,
    "secret": "0123456789abcdefghij0123456789abcdefghij",
}
KEYS = {
    **{name: value for name, value in CLIENT.items() if name != "secret"},
    "jwks": json.dumps({"keys": [{"kty": "EC", "crv": "P-384", "kid": "k", "x": "AA", "y": "AA"}]}),
}
POLICY = {
    "resourceType": "AccessPolicy",
    "name": "p",
    "link": [{"reference": "ClientApplication/none"}],
    "action": ["read"],
    "type": ["Patient"],
    "operation": ["everything"],
    "engine": "complex",
    "criteria": ["Patient?gender=male"],
    "and": [
        {"engine": "allow"},
        {"engine": "matcho", "pattern": json.dumps({"request": {"type": {"$enum": ["Patient"]}}})},
        {"engine": "fhirpath", "expression": "request.type = 'Patient'"},
        {"engine": "json-schema", "schema": json.dumps({"type": "object"})},
    ],
}
USER = {
    "resourceType": "User",
    "email": "mutant@example.org",
    "name": "Ida",
    "role": "admin",
    "organization": {"reference": "Organization/none"},
    "person": {"reference": "Practitioner/1"},
    "password": "correct-horse-battery-9",
}
ENDPOINT = {
    "resourceType": "Endpoint",
    "status": "active",
    "name": "Ward",
    "connectionType": {
        "system": "http://terminology.hl7.org/CodeSystem/endpoint-connection-type", "code": "hl7v2-mllp",
    },
    "managingOrganization": {"reference": "Organization/none"},
    "payloadType": [{"text": "HL7 v2"}],
    "address": "mllp://localhost:2575",
}  # fmt: skip
SUBSCRIPTION = {
    "resourceType": "Subscription",
    "status": "requested",
    "reason": "to know",
    "criteria": "create.patient",
    "end": "2099-01-01T00:00:00Z",
    "channel": {
        "type": "rest-hook",
        "endpoint": "https://hooks.example/in",
        "payload": "application/fhir+json",
        "header": ["X-One: two"],
    },
}
PATIENT = {
    "resourceType": "Patient",
    "identifier": [{"system": "urn:mrn", "value": "m1"}],
    "link": [{"type": "replaced-by", "other": {"identifier": {"system": "urn:mrn", "value": "m2"}}}],
}
TASK = {
    "resourceType": "Task",
    "status": "requested",
    "intent": "order",
    "code": {"coding": [{"system": "urn:x", "code": "y"}]},
    "input": [{"type": {"text": "t"}, "valueString": "v"}],
}
AUDIT = {
    "resourceType": "AuditEvent",
    "type": {"system": "http://dicom.nema.org/resources/ontology/DCM", "code": "110112"},
    "action": "R",
    "recorded": "2026-04-01T10:00:00Z",
    "agent": [{"requestor": True, "who": {"display": "Ida"}, "network": {"address": "10.0.0.1", "type": "2"}}],
    "source": {"observer": {"display": "us"}},
    "entity": [{"what": {"reference": "Patient/1"}, "query": "bmFtZT14"}],
}
COMMUNICATION = {
    "resourceType": "Communication",
    "status": "completed",
    "about": [{"reference": "Patient/1"}],
    "recipient": [{"reference": "Organization/1"}],
    "payload": [{"contentString": "x"}],
}
BUNDLE = {
    "resourceType": "Bundle",
    "type": "batch",
    "entry": [
        {
            "fullUrl": "urn:uuid:0c3151bd-1cbf-4d64-b04d-cd9187a4c6e0",
            "resource": {"resourceType": "Patient", "gender": "male"},
            "request": {"method": "POST", "url": "Patient", "ifNoneExist": "identifier=urn:mrn|none"},
        },
        {"request": {"method": "PATCH", "url": "Patient/none", "ifMatch": 'W/"1"'}, "resource": PATIENT},
    ],
}
REGISTRY_WRITES: dict[str, dict[str, Any]] = {
    "client": CLIENT,
    "client with keys": KEYS,
    "policy": POLICY,
    "user": USER,
    "endpoint": ENDPOINT,
    "organization": organization("provider"),
    "notice": COMMUNICATION,
    "audit record": AUDIT,
}
BASE_WRITES: dict[str, dict[str, Any]] = {
    "subscription": SUBSCRIPTION,
    "task": TASK,
    "audit record": AUDIT,
    "overlay": decode((folder("examples") / "hl7v2" / "overlay.json").read_bytes()),
}
ON_A_CLIENT: dict[str, dict[str, Any]] = {
    "$request-authorization": parameters(
        organization={"valueReference": {"reference": "Organization/none"}}, reason={"valueString": "why"}
    ),
    "$rotate-secret": parameters(overlap={"valueInteger": 5}),
    "$why": parameters(
        organization={"valueReference": {"reference": "Organization/none"}},
        method={"valueString": "GET"},
        url={"valueString": "Patient?name=x"},
    ),
}
ON_A_USER: dict[str, dict[str, Any]] = {
    "$change-password": parameters(current={"valueString": "x"}, password={"valueString": "y"}),
    "$reset-password": parameters(mail={"valueBoolean": False}),
    "$withdraw-grant": parameters(client={"valueReference": {"reference": "ClientApplication/1"}}),
}


def hold(call: Callable[[Any], Any], body: Any) -> None:
    """Fails with every mutant that was answered with a fault of ours."""
    wrong = [mutant for mutant in mutants(body) if call(mutant).status >= 500]
    assert wrong == []


@pytest.mark.parametrize("name", REGISTRY_WRITES)
def test_what_the_registry_keeps_is_refused_or_stored(registry: Api, name: str) -> None:
    body = REGISTRY_WRITES[name]
    hold(lambda mutant: registry.post(body["resourceType"], mutant), body)


@pytest.mark.parametrize("name", BASE_WRITES)
def test_what_a_base_keeps_is_refused_or_stored(api: Api, name: str) -> None:
    body = BASE_WRITES[name]
    hold(lambda mutant: api.post(body["resourceType"], mutant), body)


def test_changes_are_refused_or_stored(registry: Api) -> None:
    for body in (CLIENT, USER):
        more = {"organization": _place(registry), "email": "changed@example.org"} if body is USER else {}
        made = registry.create({**body, **more})
        path = f"{made['resourceType']}/{made['id']}"
        hold(lambda mutant, path=path: registry.put(path, mutant), {**made, "password": "x", "secret": "x"})  # type: ignore[misc]


def _place(registry: Api) -> dict[str, str]:
    return {"reference": f"Organization/{registry.create(organization('application'))['id']}"}


@pytest.mark.parametrize("operation", ON_A_CLIENT)
def test_what_is_asked_of_a_client_is_refused_or_done(registry: Api, operation: str) -> None:
    id = registry.create(CLIENT)["id"]
    hold(lambda mutant: registry.post(f"ClientApplication/{id}/{operation}", mutant), ON_A_CLIENT[operation])


@pytest.mark.parametrize("operation", ON_A_USER)
def test_what_is_asked_of_a_user_is_refused_or_done(registry: Api, operation: str) -> None:
    user = {**USER, "email": f"{operation[1:]}@example.org", "organization": _place(registry)}
    id = registry.create(user)["id"]
    hold(lambda mutant: registry.post(f"User/{id}/{operation}", mutant), ON_A_USER[operation])


def test_a_submission_of_documents_is_refused_or_stored(api: Api) -> None:
    patient = f"Patient/{api.create({'resourceType': 'Patient'})['id']}"
    replaced = [{"code": "replaces", "target": {"reference": "DocumentReference/none"}}]
    hold(lambda mutant: api.post("", mutant), submission(patient, relatesTo=replaced, kind="Comprehensive"))


def test_a_patient_that_is_fed_is_refused_or_stored(api: Api) -> None:
    hold(lambda mutant: api.put("Patient?identifier=urn:mrn|m1", mutant), PATIENT)


def test_a_batch_is_refused_or_run(api: Api) -> None:
    hold(lambda mutant: api.post("", mutant), BUNDLE)


def test_a_question_about_identifiers_is_refused_or_answered(api: Api) -> None:
    asked = parameters(
        sourceIdentifier={"valueIdentifier": {"system": "urn:mrn", "value": "m1"}},
        targetSystem={"valueUri": "urn:x"},
    )
    hold(lambda mutant: api.post("Patient/$ihe-pix", mutant), asked)
