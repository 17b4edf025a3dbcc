"""A person of an application provider at a hospital: the subscriptions of its own clients, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from werkzeug.test import TestResponse

from fhirserver import app
from fhirserver.auditing.recording import ship
from fhirserver.auth.access import CLIENT_SYSTEM
from fhirserver.auth.principal import Principal
from fhirserver.bulk.work import work
from fhirserver.exchange import guests
from tests.api.exchange import PASSWORD, REGISTRY, Exchange, exchange_of
from tests.api.subscribing import asked

NARROW = "system/Patient.rs"
PREVIEW = "Subscription/$preview"


@pytest.fixture(scope="module")
def exchange(mongo_url: str) -> Iterator[Exchange]:
    with exchange_of(mongo_url, "test_guests") as made:
        made.people["member"] = person(made, "member", made.acme, "member")
        other = made.call("POST", f"{REGISTRY}/Organization", made.operator(), ORGANIZATION).json["id"]  # type: ignore[index]
        made.people["other"] = person(made, "other", other, "admin")
        made.call(
            "POST", f"{made.base}/Patient", made.people["hospital"], {"resourceType": "Patient", "gender": "male"}
        )
        yield made


ORGANIZATION = {
    "resourceType": "Organization",
    "name": "Other Apps",
    "type": [
        {"coding": [{"system": "https://fhirserver.example/fhir/CodeSystem/organization-kind", "code": "application"}]}
    ],
}


def person(exchange: Exchange, name: str, organization: str, role: str) -> str:
    user = {
        "resourceType": "User",
        "email": f"{name}@example.org",
        "role": role,
        "organization": {"reference": f"Organization/{organization}"},
        "password": PASSWORD,
    }
    made = exchange.call("POST", f"{REGISTRY}/User", exchange.operator(), user)
    assert made.status_code == 201, made.text
    return exchange.installation.tokens.issue(Principal("user", made.json["id"]))  # type: ignore[index]


def make(exchange: Exchange, who: str, client: str, criteria: str = "create.patient") -> TestResponse:
    return exchange.call("POST", f"{exchange.base}/Subscription", exchange.people[who], asked(client, criteria))


def see(exchange: Exchange, who: str, path: str) -> TestResponse:
    return exchange.call("GET", f"{exchange.base}/{path}", exchange.people[who])


def ids(answer: TestResponse) -> set[str]:
    assert answer.status_code == 200, answer.text
    return {entry["resource"]["id"] for entry in dict(answer.json or {}).get("entry", ())}


@pytest.fixture(scope="module")
def client(exchange: Exchange) -> dict[str, Any]:
    made = exchange.register(scope=NARROW)
    made["authorization"] = exchange.authorize(made)
    return made


@pytest.fixture(scope="module")
def subscription(exchange: Exchange, client: dict[str, Any]) -> str:
    answer = make(exchange, "acme", client["id"])
    assert answer.status_code == 201, answer.text
    assert "whsec_" in answer.text
    id: str = answer.json["id"]  # type: ignore[index]
    return id


def test_an_administrator_asks_for_a_subscription_of_his_client_and_the_organization_decides(
    exchange: Exchange, client: dict[str, Any], subscription: str
) -> None:
    found = see(exchange, "hospital", f"Subscription/{subscription}").json
    assert found["status"] == "requested"  # type: ignore[index]
    assert found["extension"][0]["valueReference"]["identifier"]["value"] == client["id"]  # type: ignore[index]
    path = f"{exchange.base}/Subscription/{subscription}/$approve"
    assert exchange.call("POST", path, exchange.people["acme"], {"resourceType": "Parameters"}).status_code == 403


def test_its_people_see_it_and_nobody_elses(exchange: Exchange, client: dict[str, Any], subscription: str) -> None:
    exchange.call("POST", f"{exchange.base}/Subscription", exchange.people["hospital"], asked(criteria="Patient"))
    assert ids(see(exchange, "acme", "Subscription")) == ids(see(exchange, "member", "Subscription")) == {subscription}
    assert subscription in ids(see(exchange, "hospital", "Subscription"))
    assert ids(see(exchange, "acme", "NotificationDelivery")) == set()
    other = see(exchange, "other", "Subscription")
    assert (other.status_code, "no role in organization" in other.text) == (403, True)


def test_a_stranger_whose_own_client_is_there_sees_only_that_clients(exchange: Exchange, subscription: str) -> None:
    made = exchange.register("other", name="Theirs", scope=NARROW)
    path = f"{REGISTRY}/ClientApplication/{made['id']}/$request-authorization"
    organization = {"name": "organization", "valueReference": {"reference": f"Organization/{exchange.hospital}"}}
    given = {"resourceType": "Parameters", "parameter": [organization, {"name": "reason", "valueString": "To look"}]}
    assert exchange.call("POST", path, exchange.people["other"], given).status_code == 200

    assert ids(see(exchange, "other", "Subscription")) == set()
    assert see(exchange, "other", f"Subscription/{subscription}").status_code == 404
    assert see(exchange, "other", f"Subscription/{subscription}/$status").status_code == 404
    assert make(exchange, "other", made["id"]).status_code == 403  # it waits for approval
    deleted = exchange.call("DELETE", f"{exchange.base}/Subscription/{subscription}", exchange.people["other"])
    assert deleted.status_code in (200, 204)
    assert see(exchange, "acme", f"Subscription/{subscription}").status_code == 200


@pytest.mark.parametrize("path", ["Patient", "Observation", "AuditEvent", "InboundMessage", "Encounter?_id=1", "Task"])
def test_nothing_else_of_the_organization_is_seen(exchange: Exchange, subscription: str, path: str) -> None:
    assert see(exchange, "acme", path).status_code == 403


@pytest.mark.parametrize("query", [
    "Subscription?_revinclude=Provenance:target",
    "NotificationDelivery?_include=NotificationDelivery:focus",
    "Subscription?_has:NotificationDelivery:subscription:status=delivered",
])  # fmt: skip
def test_what_is_joined_shows_nothing_else(exchange: Exchange, subscription: str, query: str) -> None:
    assert ids(see(exchange, "acme", query)) <= {subscription}


@pytest.mark.parametrize(
    ("who", "whose", "status"), [("acme", "", 400), ("member", "own", 403), ("acme", "theirs", 403)]
)
def test_a_subscription_is_asked_for_by_administrators_for_their_own_clients_alone(
    exchange: Exchange, client: dict[str, Any], who: str, whose: str, status: int
) -> None:
    theirs = exchange.register("other", name="Theirs too", scope=NARROW)["id"]
    named = {"own": client["id"], "theirs": theirs}.get(whose, "")

    assert make(exchange, who, named).status_code == status


def test_an_organizations_own_people_name_nobody(exchange: Exchange, client: dict[str, Any]) -> None:
    made = make(exchange, "hospital", client["id"])
    assert made.status_code == 201
    assert "extension" not in made.json  # type: ignore[operator]


def preview(exchange: Exchange, who: str, given: Any) -> TestResponse:
    body = {"resourceType": "Parameters", "parameter": [{"name": "subscription", "resource": given}]}
    return exchange.call("POST", f"{exchange.base}/{PREVIEW}", exchange.people[who], body)


def test_a_draft_is_tried_with_the_eyes_of_the_client_before_it_is_asked_for(
    exchange: Exchange, client: dict[str, Any]
) -> None:
    told = preview(exchange, "acme", asked(client["id"], "Patient?gender=male")).json["parameter"]  # type: ignore[index]
    values = {part["name"]: next(value for name, value in part.items() if name != "name") for part in told}
    assert (values["events"], values["matched"]) == (1, 1)
    hidden = preview(exchange, "acme", asked(client["id"], "Observation?status=final")).json["parameter"]  # type: ignore[index]
    assert hidden[0]["valueInteger"] == 0


@pytest.mark.parametrize(
    ("criteria", "status"), [("Patient?colour=red", 400), ("create.nonsense", 400), ("Patient?gender", 400)]
)
def test_a_draft_that_would_be_refused_is(
    exchange: Exchange, client: dict[str, Any], criteria: str, status: int
) -> None:
    assert preview(exchange, "acme", asked(client["id"], criteria)).status_code == status


@pytest.mark.parametrize("who", ["member", "other"])
def test_a_draft_is_tried_by_those_alone_who_may_ask(exchange: Exchange, client: dict[str, Any], who: str) -> None:
    assert preview(exchange, who, asked(client["id"])).status_code == 403


def test_the_owner_pauses_deletes_and_is_recorded_there(exchange: Exchange, client: dict[str, Any]) -> None:
    id = make(exchange, "acme", client["id"]).json["id"]  # type: ignore[index]
    path = f"{exchange.base}/Subscription/{id}"
    exchange.call("POST", f"{path}/$approve", exchange.people["hospital"], {"resourceType": "Parameters"})
    stored = exchange.call("GET", path, exchange.people["acme"]).json
    assert exchange.call("PUT", path, exchange.people["member"], {**stored, "status": "off"}).status_code == 403  # type: ignore[dict-item]
    paused = exchange.call("PUT", path, exchange.people["acme"], {**stored, "status": "off"})  # type: ignore[dict-item]
    assert (paused.status_code, paused.json["status"]) == (200, "off")  # type: ignore[index]
    assert exchange.call("DELETE", path, exchange.people["acme"]).status_code in (200, 204)
    server, settings = exchange.installation.server, exchange.installation.settings
    while ship(server, settings.data / app.SPOOL):
        pass
    records = see(exchange, "hospital", f"AuditEvent?entity=Subscription/{id}").text
    assert "Acme" in records


def test_a_disabled_client_can_be_looked_at_and_ask_for_nothing(exchange: Exchange) -> None:
    client = exchange.register(name="Stopped", scope=NARROW)
    authorization = exchange.authorize(client)
    id = make(exchange, "acme", client["id"]).json["id"]  # type: ignore[index]
    assert exchange.step(authorization, "disable").status_code == 200

    assert see(exchange, "acme", f"Subscription/{id}").status_code == 200
    assert make(exchange, "acme", client["id"]).status_code == 403
    refused = see(exchange, "acme", f"Subscription/{id}/$preview")
    assert (refused.status_code, "disabled" in refused.text) == (403, True)


def test_a_client_that_was_given_away_is_no_business_of_its_old_owner(exchange: Exchange) -> None:
    client = exchange.register(name="Sold", scope=NARROW)
    exchange.authorize(client)
    id = make(exchange, "acme", client["id"]).json["id"]  # type: ignore[index]
    path = f"{REGISTRY}/ClientApplication/{client['id']}"
    stored = exchange.call("GET", path, exchange.people["acme"]).json
    moved = {**stored, "managingOrganization": {"reference": f"Organization/{exchange.hospital}"}}  # type: ignore[dict-item]
    assert exchange.call("PUT", path, exchange.operator(), moved).status_code == 200

    assert see(exchange, "acme", f"Subscription/{id}").status_code == 404


def test_what_is_about_one_client_is_found_however_many_there_are(
    exchange: Exchange, client: dict[str, Any], subscription: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = exchange.register(scope=NARROW)
    exchange.authorize(other)
    monkeypatch.setattr(guests, "MOST_CLIENTS", 1)
    made = make(exchange, "acme", other["id"])
    assert made.status_code == 201, made.text
    held = {client["id"]: subscription, other["id"]: dict(made.json or {})["id"]}
    for owner, id in held.items():
        assert see(exchange, "acme", f"Subscription/{id}").status_code == 200
        assert id in ids(see(exchange, "acme", f"Subscription?client:identifier={owner}"))
        assert see(exchange, "acme", f"NotificationDelivery?subscription=Subscription/{id}").status_code == 200
        stranger, absent = (see(exchange, "other", f"Subscription/{one}") for one in (id, "nothing"))
        assert (stranger.status_code, stranger.text.replace(id, "nothing")) == (absent.status_code, absent.text)
    path = f"{exchange.base}/Subscription/{held[other['id']]}"
    assert exchange.call("DELETE", path, exchange.people["acme"]).status_code == 200


def test_what_can_be_subscribed_to_is_listed_for_those_who_may_ask(exchange: Exchange, client: dict[str, Any]) -> None:
    retired = {
        "resourceType": "SubscriptionTopic",
        "url": "https://fhirserver.example/fhir/SubscriptionTopic/ADT-A01",
        "status": "retired",
    }
    exchange.call("POST", f"{exchange.base}/SubscriptionTopic", exchange.people["hospital"], retired)
    entries = see(exchange, "acme", "Subscription/$topics").json["entry"]  # type: ignore[index]
    urls = {entry["resource"]["url"].rpartition("/")[2] for entry in entries}
    assert {"create.patient", "ADT-A03"} <= urls
    assert "ADT-A01" not in urls
    assert see(exchange, "member", "Subscription/$topics").status_code == 200


GOVERN = {"resourceType": "Parameters", "parameter": [{"name": "governed", "valueBoolean": True}]}
MESSAGE = {"resourceType": "Bundle", "type": "message", "entry": []}


@pytest.mark.parametrize(
    ("method", "path", "body", "statuses"),
    [
        ("POST", "Patient", {"resourceType": "Patient"}, {403}),
        ("POST", "$process-message", MESSAGE, {403}),
        ("POST", "Bundle", {"resourceType": "Bundle", "type": "collection"}, {403}),
        ("POST", "SubscriptionTopic", {"resourceType": "SubscriptionTopic", "url": "urn:t", "status": "active"}, {403}),
        ("POST", "SubscriptionTopic/$govern", GOVERN, {403}),
        ("POST", "InboundMessage/$convert", {"resourceType": "Parameters"}, {403}),
        ("POST", "ConceptMap/$compare", {"resourceType": "Parameters"}, {403}),
        ("POST", "Patient/{patient}/$validate", {"resourceType": "Parameters"}, {403, 404}),
        ("GET", "Patient/{patient}", None, {403}),
        ("GET", "Patient/{patient}/$everything", None, {403}),
        ("GET", "Patient/{patient}/$trace", None, {403}),
        ("GET", "Patient/{patient}/_history", None, {403}),
        ("GET", "AuditEvent/$verify-seals", None, {403}),
        ("GET", "Patient/{patient}/Subscription", None, {200, 400, 403, 404}),
        ("GET", "?_type=Patient,Subscription", None, {200, 403}),
        ("GET", "_history", None, {200}),
        ("GET", "$meta", None, {200, 403}),
    ],
)
def test_nothing_of_the_data_is_had_by_any_other_way(
    method: str, path: str, body: Any, statuses: set[int], exchange: Exchange, client: dict[str, Any]
) -> None:
    found = exchange.call("GET", f"{exchange.base}/Patient", exchange.people["hospital"]).json
    patient = found["entry"][0]["resource"]["id"]  # type: ignore[index]
    address = f"{exchange.base}/{path.format(patient=patient)}"
    answer = exchange.call(method, address, exchange.people["acme"], body)

    assert answer.status_code in statuses, answer.text
    assert '"gender"' not in answer.text
    kinds = {
        each["resource"]["resourceType"] for each in dict(answer.json or {}).get("entry", ()) if "resource" in each
    }
    assert kinds <= {"Subscription", "NotificationDelivery", "SubscriptionTopic", "OperationOutcome"}


def test_how_the_catalogue_is_governed_names_no_subscription_of_others(
    exchange: Exchange, client: dict[str, Any]
) -> None:
    path = f"{exchange.base}/SubscriptionTopic/$govern"
    id = make(exchange, "hospital", "", "create.patient").json["id"]  # type: ignore[index]
    exchange.call(
        "POST",
        f"{exchange.base}/Subscription/{id}/$approve",
        exchange.people["hospital"],
        {"resourceType": "Parameters"},
    )
    told = exchange.call("POST", path, exchange.people["hospital"], GOVERN).text
    seen = exchange.call("GET", path, exchange.people["acme"]).text
    stopped = {"resourceType": "Parameters", "parameter": [{"name": "governed", "valueBoolean": False}]}
    exchange.call("POST", path, exchange.people["hospital"], stopped)

    assert id in told
    assert "Subscription/" not in seen


# Exports


@pytest.fixture
def export(exchange: Exchange, client: dict[str, Any]) -> str:
    """The id of an export that the client has asked for."""
    token = exchange.token(client).json["access_token"]  # type: ignore[index]
    headers = {"Authorization": f"Bearer {token}", "Prefer": "respond-async"}
    begun = exchange.http.get(f"{exchange.base}/Patient/$export", headers=headers)
    assert begun.status_code == 202, begun.text
    return begun.headers["Content-Location"].rpartition("/")[2]


@pytest.mark.parametrize("who", ["acme", "member"])
def test_the_people_of_a_client_see_how_its_exports_stand_and_not_what_is_in_them(
    exchange: Exchange, client: dict[str, Any], export: str, who: str
) -> None:
    status = see(exchange, who, f"bulk/{export}")
    assert (status.status_code, "0 resources" in status.headers["X-Progress"]) == (202, True)
    assert export in ids(see(exchange, who, f"BulkExport?client:identifier={CLIENT_SYSTEM}|{client['id']}"))
    work(exchange.installation.server, exchange.hospital, export)
    assert see(exchange, who, f"BulkExport/{export}").json["status"] == "completed"  # type: ignore[index]
    assert [each["type"] for each in see(exchange, who, f"bulk/{export}").json["output"]] == ["Patient"]  # type: ignore[index]
    assert see(exchange, who, f"bulk/{export}/0").status_code == 404
    ended = exchange.call("DELETE", f"{exchange.base}/bulk/{export}", exchange.people[who])
    assert ended.status_code == 404
    assert see(exchange, "hospital", f"bulk/{export}").status_code == 200


def test_an_export_is_no_business_of_another_application_provider(exchange: Exchange, export: str) -> None:
    for path in (f"bulk/{export}", f"bulk/{export}/0", f"BulkExport/{export}"):
        assert see(exchange, "other", path).status_code in (403, 404), path
    assert export not in see(exchange, "other", "BulkExport").text  # 403, or none once it has a client there
