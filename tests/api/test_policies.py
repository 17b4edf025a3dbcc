"""AccessPolicies: each engine, on each way to a resource; they narrow and never open."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fhirserver import app
from fhirserver.auth.principal import Principal
from fhirserver.interactions.dispatch import dispatch
from fhirserver.interactions.model import Request
from tests.api.client import Api
from tests.api.exchange import OPERATOR


@pytest.fixture
def client(registry: Api, api: Api, token: Callable[[Principal], str]) -> Api:
    """A client with every scope that the organization of `api` approved."""
    return approved(registry, api, token, "Lab reader")


def approved(registry: Api, api: Api, token: Callable[[Principal], str], name: str) -> Api:
    given = {
        "resourceType": "ClientApplication", "name": name, "kind": "production",
        "grantType": ["client_credentials"], "scope": "system/*.cruds",
    }  # fmt: skip
    id = registry.create(given)["id"]
    body = {
        "resourceType": "Parameters",
        "parameter": [
            {"name": "organization", "valueReference": {"reference": f"Organization/{api.organization}"}},
            {"name": "reason", "valueString": "to try policies"},
        ],
    }
    asked = registry.post(f"ClientApplication/{id}/$request-authorization", body).json
    admin = Principal("operator", "op", api.organization, operator=True, scopes="system/*.cruds")
    assert (
        Api(registry.app, registry.base, token(admin)).post(f"ClientAuthorization/{asked['id']}/$approve").status == 200
    )
    return Api(api.app, api.base, token(Principal("client", id, scopes="system/*.cruds", name=name)))


@pytest.fixture
def policy(registry: Api, api: Api) -> Iterator[Callable[..., dict[str, Any]]]:
    """Writes a policy for the base of `api`; it is gone after the test."""
    made = []

    def make(**elements: Any) -> dict[str, Any]:
        where = {"reference": f"Organization/{api.organization}"}
        given = {"resourceType": "AccessPolicy", "name": "tried", "organization": where, **elements}
        made.append(registry.create(given))
        return dict(made[-1])

    yield make
    for each in made:
        registry.delete(f"AccessPolicy/{each['id']}")


def observation(category: str, **elements: Any) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "status": "final",
        "code": {"text": "x"},
        "category": [{"coding": [{"code": category}]}],
        **elements,
    }


def test_criteria_hold_on_every_way_to_a_resource(api: Api, client: Api, policy: Callable[..., Any]) -> None:
    patient = api.create({"resourceType": "Patient"})["id"]
    subject = {"reference": f"Patient/{patient}"}
    seen = api.create(observation("laboratory", subject=subject))["id"]
    hidden = api.create(observation("exam", subject=subject))["id"]
    report = {"resourceType": "DiagnosticReport", "status": "final", "code": {"text": "r"},
              "result": [{"reference": f"Observation/{id}"} for id in (seen, hidden)]}  # fmt: skip
    report_id = api.create(report)["id"]
    assert client.get(f"Observation/{hidden}").status == 200
    policy(engine="allow", criteria=["Observation?category=laboratory"])

    assert client.get(f"Observation/{seen}").status == 200
    assert client.get(f"Observation/{hidden}").status == 404
    assert client.get(f"Observation/{hidden}/_history").status == 404
    assert client.get(f"Observation/{hidden}/_history/1").status == 404
    assert client.get("Observation").ids == [seen]
    assert [e["resource"]["id"] for e in client.get("Observation/_history").json["entry"]] == [seen]
    assert client.get(f"DiagnosticReport?_id={report_id}&_include=DiagnosticReport:result").included == [
        f"Observation/{seen}"
    ]
    assert client.get(f"Patient?_id={patient}&_revinclude=Observation:subject").included == [f"Observation/{seen}"]
    assert client.get("DiagnosticReport?result.category=exam").ids == []
    assert client.get("Patient?_has:Observation:subject:category=exam").ids == []
    assert client.get(f"Patient/{patient}/Observation").ids == [seen]
    everything = client.get(f"Patient/{patient}/$everything").json
    assert f"Observation/{hidden}" not in json.dumps(everything)
    batch = {"resourceType": "Bundle", "type": "batch",
             "entry": [{"request": {"method": "GET", "url": f"Observation/{hidden}"}}]}  # fmt: skip
    assert client.post("", batch).json["entry"][0]["response"]["status"][:3] == "404"
    assert client.post("Observation", observation("exam")).status == 403
    assert client.put(f"Observation/{seen}", {**observation("exam"), "id": seen}).status == 403
    assert client.put(f"Observation/{hidden}", {**observation("laboratory"), "id": hidden}).status == 403
    client.delete(f"Observation/{hidden}")
    assert api.get(f"Observation/{hidden}").status == 200
    assert client.post("Observation", observation("laboratory")).status == 201
    assert len(api.get("Observation").ids) == 3  # the organization's own people are operators here


@pytest.mark.parametrize("condition", [
    {"engine": "matcho", "pattern": '{"request": {"type": {"$enum": ["Patient", "Encounter"]}}}'},
    {"engine": "fhirpath", "expression": "request.type in ('Patient' | 'Encounter')"},
    {"engine": "fhirpath", "expression": "%request.type = 'Patient' and %client.name = 'Lab reader'"},
    {"engine": "json-schema", "schema": '{"properties": {"request": {"properties": {"type": {"enum": ["Patient"]}}}}}'},
    {"engine": "complex", "or": [
        {"engine": "matcho", "pattern": '{"request": {"type": "Patient"}}'},
        {"engine": "matcho", "pattern": '{"client": {"name": "Somebody else"}}'},
    ]},
    {"engine": "complex", "and": [
        {"engine": "matcho", "pattern": '{"request": {"type": "#^P"}}'},
        {"engine": "complex", "or": [{"engine": "fhirpath", "expression": "request.type = 'Patient'"}]},
    ]},
])  # fmt: skip
def test_every_engine_can_say_patients_only(
    condition: dict[str, Any], api: Api, client: Api, policy: Callable[..., Any]
) -> None:
    patient = api.create({"resourceType": "Patient"})["id"]
    api.create(observation("exam", subject={"reference": f"Patient/{patient}"}))
    made = policy(**condition)
    assert client.get("Patient").ids == [patient]
    refused = client.get("Observation")
    assert refused.status == 403
    assert made["id"] in refused.json["issue"][0]["diagnostics"]
    assert client.get(f"Patient?_id={patient}&_revinclude=Observation:subject").included == []
    assert client.post("Observation", observation("exam")).status == 403


@pytest.mark.parametrize("condition", [
    {"engine": "matcho", "pattern": '{"resource": {"status": "preliminary"}}'},
    {"engine": "fhirpath", "expression": "resource.status = 'preliminary'"},
    {"engine": "json-schema", "schema": '{"required": ["resource"], "properties": {"resource":'
     ' {"properties": {"status": {"const": "preliminary"}}}}}'},
])  # fmt: skip
def test_what_is_written_is_judged_as_it_will_be_stored(
    condition: dict[str, Any], api: Api, client: Api, policy: Callable[..., Any]
) -> None:
    policy(action=["create", "update"], type=["Observation"], **condition)
    id = client.create(observation("exam", status="preliminary"))["id"]
    assert client.post("Observation", observation("exam")).status == 403
    patch = [{"op": "replace", "path": "/status", "value": "final"}]
    assert client.patch(f"Observation/{id}", patch, Content_Type="application/json-patch+json").status == 403
    assert client.put(f"Observation/{id}", {**observation("exam", status="preliminary"), "id": id}).status == 200
    assert client.get(f"Observation/{id}").status == 200
    assert client.post("Patient", {"resourceType": "Patient"}).status == 201
    answer = client.post("", {"resourceType": "Bundle", "type": "transaction", "entry": [
        {"resource": observation("exam"), "request": {"method": "POST", "url": "Observation"}}]})  # fmt: skip
    assert answer.status == 403


def test_policies_add_up(api: Api, client: Api, policy: Callable[..., Any]) -> None:
    api.create({"resourceType": "Patient", "gender": "male", "active": True})
    both = api.create({"resourceType": "Patient", "gender": "female", "active": True})["id"]
    api.create({"resourceType": "Patient", "gender": "female", "active": False})
    policy(engine="allow", criteria=["Patient?gender=female"])
    policy(engine="allow", criteria=["Patient?active=true"])
    assert client.get("Patient").ids == [both]


def test_criteria_under_a_condition_are_alternatives(api: Api, client: Api, policy: Callable[..., Any]) -> None:
    ids = [api.create({"resourceType": "Patient", "gender": gender})["id"] for gender in ("male", "female", "other")]
    policy(engine="complex", **{"or": [
        {"engine": "fhirpath", "expression": "client.name = 'Lab reader'", "criteria": ["Patient?gender=male"]},
        {"engine": "allow", "criteria": ["Patient?gender=female"]},
    ]})  # fmt: skip
    assert sorted(client.get("Patient").ids) == sorted(ids[:2])


def test_a_policy_concerns_whom_it_links_and_operations_that_it_names(
    registry: Api, api: Api, client: Api, token: Callable[[Principal], str], policy: Callable[..., Any]
) -> None:
    other = approved(registry, api, token, "Other")
    id = api.create({"resourceType": "Patient"})["id"]
    mine = next(c["id"] for c in registry.get("ClientApplication?name=Lab%20reader&_sort=-_lastUpdated").resources)
    policy(engine="matcho", pattern='{"request": {"action": "search"}}', operation=["$everything"],
           link=[{"reference": f"ClientApplication/{mine}"}])  # fmt: skip
    assert client.get(f"Patient/{id}").status == 200
    assert client.get(f"Patient/{id}/$everything").status in (403, 404)
    assert other.get(f"Patient/{id}/$everything").status == 200


def test_a_policy_holds_from_the_next_request_on_and_no_longer_than_it_is_there(
    registry: Api, api: Api, client: Api, policy: Callable[..., Any]
) -> None:
    assert client.get("Patient").status == 200
    made = policy(engine="matcho", pattern='{"request": {"type": "Observation"}}')
    assert client.get("Patient").status == 403
    registry.put(f"AccessPolicy/{made['id']}", {**made, "active": False})
    assert client.get("Patient").status == 200
    registry.put(f"AccessPolicy/{made['id']}", {**made, "active": True})
    assert client.get("Patient").status == 403
    registry.delete(f"AccessPolicy/{made['id']}")
    assert client.get("Patient").status == 200


def test_a_policy_opens_nothing(
    registry: Api, new_base: Callable[..., Api], client: Api, policy: Callable[..., Any]
) -> None:
    policy(engine="allow")
    stranger = Api(client.app, new_base().base, client.token)
    assert stranger.get("Patient").status == 403
    assert client.get("InboundMessage").status == 403


@pytest.mark.parametrize(("elements", "where"), [
    ({"engine": "matcho"}, "pattern"),
    ({"engine": "matcho", "pattern": "{"}, "pattern"),
    ({"engine": "matcho", "pattern": '{"requests": {}}'}, "pattern"),
    ({"engine": "matcho", "pattern": '{"request": {"type": "#("}}'}, "pattern"),
    ({"engine": "matcho", "pattern": '{"request": {"type": {"$no": 1}}}'}, "pattern"),
    ({"engine": "fhirpath", "expression": "request.("}, ""),
    ({"engine": "json-schema", "schema": '{"$ref": "http://169.254.169.254/schema"}'}, "schema"),
    ({"engine": "json-schema", "schema": '{"allOf": [{"$ref": "#"}]}'}, "schema"),
    ({"engine": "json-schema", "schema": '{"type": "objekt"}'}, "schema"),
    ({"engine": "fhirpath", "expression": "request.type = " + "'x" + "x" * 20_000 + "'"}, "expression"),
    ({"engine": "complex"}, "and"),
    ({"engine": "allow", "criteria": ["Observation?subject:Patient.name=x"]}, "criteria"),
    ({"engine": "allow", "criteria": ["Observation?nothing=x"]}, "criteria"),
    ({"engine": "allow", "criteria": ["Nothing?code=x"]}, "criteria"),
    ({"engine": "sql"}, "engine"),
    ({"engine": "allow", "link": [{"reference": "Patient/1"}]}, "link"),
])  # fmt: skip
def test_what_cannot_be_evaluated_is_refused_when_it_is_written(
    elements: dict[str, Any], where: str, registry: Api
) -> None:
    answer = registry.post("AccessPolicy", {"resourceType": "AccessPolicy", "name": "bad", **elements})
    assert answer.status in (400, 422), answer.data
    assert where in json.dumps(answer.json["issue"])


def test_an_organization_writes_policies_for_its_own_base_only(
    installation: app.Installation,
    registry: Api,
    api: Api,
    new_base: Callable[..., Api],
    token: Callable[[Principal], str],
) -> None:
    other = new_base().organization
    user = {"resourceType": "User", "email": f"{api.organization}@example.org", "role": "admin",
            "organization": {"reference": f"Organization/{api.organization}"}}  # fmt: skip
    server = installation.server
    request = Request("create", "registry", server.base("registry"), OPERATOR, type="User", body=user)
    made = dispatch(server, request)
    assert made.text
    admin = Api(registry.app, registry.base, token(Principal("user", json.loads(made.text)["id"])))
    written = admin.create({"resourceType": "AccessPolicy", "name": "own", "engine": "allow"})
    assert written["organization"]["reference"] == f"Organization/{api.organization}"
    foreign = {"resourceType": "AccessPolicy", "name": "x", "engine": "allow",
               "organization": {"reference": f"Organization/{other}"}}  # fmt: skip
    assert admin.post("AccessPolicy", foreign).status == 403
    id = registry.create(foreign)["id"]
    assert admin.get(f"AccessPolicy/{id}").status == 404
    assert admin.put(f"AccessPolicy/{id}", {**written, "id": id}).status == 403
    admin.delete(f"AccessPolicy/{id}")
    assert registry.get(f"AccessPolicy/{id}").status == 200
    assert admin.get("AccessPolicy").ids == [written["id"]]
    assert admin.delete(f"AccessPolicy/{written['id']}").status in (200, 204)
    registry.delete(f"AccessPolicy/{id}")


def test_why_names_every_party_to_a_decision_and_the_policy_that_refuses(
    registry: Api, api: Api, client: Api, token: Callable[[Principal], str], policy: Callable[..., Any]
) -> None:
    made = policy(engine="matcho", pattern='{"request": {"id": "nil?", "query": {"category": "present?"}}}')
    mine = registry.get("ClientApplication?name=Lab%20reader&_sort=-_lastUpdated").ids[0]
    (authorization,) = registry.get(f"ClientAuthorization?client=ClientApplication/{mine}").ids
    admin = Principal("operator", "op", api.organization, operator=True, scopes="system/*.cruds")
    hospital = Api(registry.app, registry.base, token(admin))

    def why(method: str, url: str) -> tuple[bool, dict[str, str]]:
        given = [{"name": "method", "valueCode": method}, {"name": "url", "valueString": url}]
        asked = {"resourceType": "Parameters", "parameter": given}
        answer = hospital.post(f"ClientAuthorization/{authorization}/$why", asked).json["parameter"]
        parties = [{p["name"]: p.get("valueCode") or p.get("valueString") for p in each["part"]}
                   for each in answer if each["name"] == "party"]  # fmt: skip
        return answer[0]["valueBoolean"], {p["name"]: p.get("reason") or "" for p in parties}

    assert why("GET", "Observation?category=exam")[0] is True
    permitted, parties = why("GET", "Observation/1")
    assert permitted is False
    assert {"scope", "authorization", "role", "policy"} <= set(parties)
    assert made["id"] in parties["policy"]


PAGE = Path(__file__).parents[2] / "docs" / "policies.md"
EXAMPLES = re.findall(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.mark.parametrize("text", EXAMPLES, ids=lambda text: json.loads(text)["name"])
def test_the_examples_of_the_guide_are_policies(text: str, registry: Api) -> None:
    made = registry.create(json.loads(text))
    assert registry.delete(f"AccessPolicy/{made['id']}").status in (200, 204)


def test_the_example_that_keeps_applications_from_deleting_does(
    api: Api, client: Api, policy: Callable[..., Any]
) -> None:
    example = next(json.loads(text) for text in EXAMPLES if "No deletions" in text)
    policy(**{name: example[name] for name in ("action", "engine", "pattern")})
    id = client.create({"resourceType": "Patient"})["id"]
    assert client.delete(f"Patient/{id}").status == 403
    assert client.get(f"Patient/{id}").status == 200


OBSERVED = {"resourceType": "Observation", "code": {"text": "x"}, "category": [{"coding": [{"code": "exam"}]}]}
PRELIMINARY, FINAL = ({**OBSERVED, "status": status} for status in ("preliminary", "final"))

# Name of the example -> a call that it lets through, and one that it refuses or hides, each with the status.
HELD: dict[str, tuple[tuple[str, str, Any, int], tuple[str, str, Any, int]]] = {
    "Laboratory only": (("GET", "Observation/lab", None, 200), ("GET", "Observation/exam", None, 404)),
    "No deletions": (("GET", "Observation/lab", None, 200), ("DELETE", "Observation/lab", None, 403)),
    "Appointments": (("GET", "Patient", None, 200), ("GET", "Observation", None, 403)),
    "From inside": (("GET", "metadata", None, 200), ("GET", "Patient", None, 403)),
    "Preliminary only": (("POST", "Observation", PRELIMINARY, 201), ("POST", "Observation", FINAL, 403)),
    "Active patients for members": (("GET", "Patient/active", None, 200), ("GET", "Patient/passive", None, 404)),
    "Not everything at once": (("GET", "Patient/active", None, 200), ("GET", "Patient/active/$everything", None, 403)),
}


@pytest.mark.parametrize("name", [json.loads(text)["name"] for text in EXAMPLES])
def test_each_example_of_the_guide_does_what_it_says(
    name: str, api: Api, client: Api, policy: Callable[..., Any]
) -> None:
    for given in (
        {"resourceType": "Patient", "id": "active", "active": True},
        {"resourceType": "Patient", "id": "passive", "active": False},
        observation("laboratory", id="lab"),
        observation("exam", id="exam"),
    ):
        assert api.put(f"{given['resourceType']}/{given['id']}", given).status == 201
    example = next(json.loads(text) for text in EXAMPLES if json.loads(text)["name"] == name)
    policy(**{key: value for key, value in example.items() if key not in ("resourceType", "organization", "link")})
    for method, path, body, status in HELD[name]:
        assert client.call(method, path, body).status == status, (method, path)


@pytest.mark.parametrize(("expression", "status"), [
    ("request.address = '127.0.0.1' and request.method = 'POST'", 200),
    ("request.address.startsWith('10.20.')", 403),
])  # fmt: skip
def test_a_message_over_http_is_judged_by_where_it_comes_from(
    expression: str, status: int, api: Api, client: Api, policy: Callable[..., Any]
) -> None:
    policy(engine="fhirpath", expression=expression, type=["InboundMessage"])
    message = (
        b"MSH|^~\\&|LAB|GH|HIE|RX|20260101120000||ADT^A04^ADT_A01|C1|P|2.5.1\rEVN||20260101120000\rPID|1||7^^^GH^MR\r"
    )
    headers = {"Authorization": f"Bearer {client.token}", "Content-Type": "application/hl7-v2"}
    path = f"/1/health/organizations/{api.organization}/hl7v2"
    assert client.app.test_client().post(path, data=message, headers=headers).status_code == status


@pytest.mark.parametrize("condition", [
    {"engine": "fhirpath", "expression": "resource.contact.select(%resource.contact.select(%resource.contact.gender))"
     ".count() > 0"},
    {"engine": "matcho", "pattern": json.dumps(
        {"resource": {"contact": {"$not": {"$contains": {"$one-of": [{"gender": str(n)} for n in range(500)]}}}}})},
])  # fmt: skip
def test_a_condition_that_takes_too_long_permits_nothing(
    condition: dict[str, Any], client: Api, policy: Callable[..., Any]
) -> None:
    policy(**condition, action=["create"], type=["Patient"])
    start = time.perf_counter()
    body = {"resourceType": "Patient", "contact": [{"gender": "female", "name": {"text": "x"}}] * 300}
    assert client.post("Patient", body).status == 403
    assert time.perf_counter() - start < 10
    assert client.post("Patient", {"resourceType": "Patient", "contact": body["contact"][:2]}).status == 201


def test_what_may_be_read_but_not_changed_is_not_brought_inside_by_its_labels(
    api: Api, client: Api, policy: Callable[..., dict[str, Any]]
) -> None:
    policy(engine="allow", action=["update"], criteria=["Observation?_tag=urn:x|mine"])
    made = api.create({"resourceType": "Observation", "status": "final", "code": {"text": "x"}})
    path, mine = f"Observation/{made['id']}", {"tag": [{"system": "urn:x", "code": "mine"}]}
    patch = [{"op": "add", "path": "/meta/tag", "value": mine["tag"]}]
    assert client.get(path).status == 200
    assert client.put(path, {**made, "meta": mine}).status == 403
    assert client.patch(path, patch, Content_Type="application/json-patch+json").status in (403, 404)
    added = client.post(f"{path}/$meta-add", labels(mine))
    assert added.status == 403
    assert api.get(path).json == made
    assert api.post(f"{path}/$meta-add", labels(mine)).status == 200
    more = {"tag": [{"system": "urn:x", "code": "more"}]}
    assert client.post(f"{path}/$meta-add", labels(more)).status == 200


def labels(meta: dict[str, Any]) -> dict[str, Any]:
    return {"resourceType": "Parameters", "parameter": [{"name": "meta", "valueMeta": meta}]}
