"""The audit record repository for others' records: ITI-20 in, ITI-81 out; and each side's own view of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fhirserver import app
from fhirserver.auditing import owners
from fhirserver.auditing.recording import ship
from fhirserver.auth.principal import Principal
from fhirserver.exchange import errands
from fhirserver.store import errands as kept_errands
from fhirserver.store.owned import NOTE
from tests.api.client import Api
from tests.api.exchange import REGISTRY, Exchange, exchange_of
from tests.api.records import DCM, ENTITY, ROLE, event
from tests.api.relaying import relay_events


def test_records_are_posted_alone_and_in_a_batch_with_the_one_scope_that_it_needs(
    api: Api, scoped: Callable[[str], Api]
) -> None:
    node = scoped("system/AuditEvent.c")
    assert node.post("AuditEvent", event("Patient/1")).status == 201
    entries = [{"resource": event(f"Patient/{n}"), "request": {"method": "POST", "url": "AuditEvent"}} for n in (2, 3)]
    answer = node.post("", {"resourceType": "Bundle", "type": "batch", "entry": entries}).json
    assert [entry["response"]["status"][:3] for entry in answer["entry"]] == ["201", "201"]
    assert node.get("AuditEvent").status == 403
    assert len(api.get("AuditEvent?type=110112").ids) == 3


@pytest.fixture
def repository(api: Api) -> Api:
    mine = api.create({"resourceType": "Patient", "identifier": [{"system": "urn:mrn", "value": "m1"}]})["id"]
    other = api.create({"resourceType": "Patient", "identifier": [{"system": "urn:mrn", "value": "m2"}]})["id"]
    api.create(event(f"Patient/{mine}"))
    api.create(event(f"Patient/{other}", recorded="2026-07-01T10:00:00Z", outcome="4"))
    return api


@pytest.mark.parametrize("criteria", [
    "date=ge2026-04-01&date=le2026-06-01",
    "date=2026-05-01",
    "patient.identifier=urn:mrn|m1",
    "patient:Patient.identifier=m1",
    "entity:Patient.identifier=urn:mrn|m1",
    "outcome=0",
])  # fmt: skip
def test_iti_81_finds_the_one(criteria: str, repository: Api) -> None:
    (found,) = repository.get(f"AuditEvent?{criteria}&type=110112", Prefer="handling=strict").resources
    assert found["recorded"].startswith("2026-05-01")


@pytest.mark.parametrize("criteria", [
    "address=10.1.2.3",
    "agent:identifier=urn:staff|n77",
    "entity:identifier=urn:docs|d-9",
    f"entity-type={ENTITY}|1",
    f"entity-role={ROLE}|1",
    "source:identifier=urn:devices|gateway-1",
    f"type={DCM}|110112",
    "subtype=urn:ihe:event-type-code|ITI-78",
    "action=E",
])  # fmt: skip
def test_iti_81_finds_both(criteria: str, repository: Api) -> None:
    found = repository.get(f"AuditEvent?{criteria}&type=110112", Prefer="handling=strict")
    assert len(found.ids) == 2


# Each side's own view


@pytest.fixture(scope="module")
def exchange(mongo_url: str) -> Iterator[Exchange]:
    with exchange_of(mongo_url, "test_audit_repository") as made:
        owners.begin(made.installation.server)
        yield made


def calls(exchange: Exchange, **elements: Any) -> dict[str, Any]:
    """A client that reads a patient that is not there, at the hospital."""
    client = exchange.register(**elements)
    exchange.authorize(client)
    token = exchange.token(client).json["access_token"]  # type: ignore[index]
    assert exchange.call("GET", f"{exchange.base}/Patient/{client['name'].lower()}", token).status_code == 404
    return {**client, "token": token}


def views(exchange: Exchange, token: str, search: str = "") -> list[dict[str, Any]]:
    answer = exchange.call("GET", f"{REGISTRY}/AuditEvent?_count=100{search}", token)
    assert answer.status_code == 200, answer.text
    return [entry for entry in answer.json.get("entry", []) if entry["search"]["mode"] == "match"]  # type: ignore[union-attr]


def about(entries: list[dict[str, Any]]) -> set[str]:
    return {
        entity["what"]["reference"]
        for entry in entries
        for entity in entry["resource"].get("entity", [])
        if "reference" in entity.get("what", {})
    }


def test_an_application_provider_sees_its_own_clients_records_of_every_organization_and_no_others(
    exchange: Exchange,
) -> None:
    alpha, beta = calls(exchange, name="Alpha"), calls(exchange, name="Beta")
    server, settings = exchange.installation.server, exchange.installation.settings
    stranger = exchange.call(
        "POST", f"{REGISTRY}/Organization", exchange.operator(), {**ORGANIZATION, "name": "Other"}
    ).json["id"]  # type: ignore[index]
    user = {**USER, "organization": {"reference": f"Organization/{stranger}"}}
    other = exchange.call("POST", f"{REGISTRY}/User", exchange.operator(), user).json["id"]  # type: ignore[index]
    while ship(server, settings.data / app.SPOOL):
        pass

    seen = views(exchange, exchange.people["acme"])
    assert {"Patient/alpha", "Patient/beta"} <= about(seen)
    assert any(entry["resource"]["subtype"][0]["code"] == "ITI-71" for entry in seen)
    (read,) = views(exchange, exchange.people["acme"], "&entity=Patient/alpha")
    assert read["fullUrl"].startswith(f"{exchange.installation.settings.public_url}{exchange.base}/AuditEvent/")
    assert len(views(exchange, exchange.people["acme"], f"&_id={read['resource']['id']}")) == 1
    assert about(views(exchange, alpha["token"], "&subtype=read")) == {"Patient/alpha"}
    assert about(views(exchange, beta["token"], "&subtype=read")) == {"Patient/beta"}

    strangers = exchange.installation.tokens.issue(Principal("user", other))
    assert views(exchange, strangers) == []
    assert not {"Patient/alpha", "Patient/beta"} & about(views(exchange, exchange.people["hospital"]))


def recorded(exchange: Exchange) -> None:
    while ship(exchange.installation.server, exchange.installation.settings.data / app.SPOOL):
        pass


def test_a_record_of_ones_own_client_is_read_by_its_id_and_nobody_elses_is(exchange: Exchange) -> None:
    alpha, beta = calls(exchange, name="Alpha"), calls(exchange, name="Beta")
    recorded(exchange)
    search = f"&subtype=read&agent:identifier=ClientApplication/{alpha['id']}"
    (entry,) = views(exchange, exchange.people["acme"], search)
    record = entry["resource"]
    path = f"{REGISTRY}/AuditEvent/{record['id']}"

    assert exchange.call("GET", path, exchange.people["acme"]).json == record
    assert exchange.call("GET", path, alpha["token"]).json == record
    batch = {"resourceType": "Bundle", "type": "batch",
             "entry": [{"request": {"method": "GET", "url": f"AuditEvent/{record['id']}"}}]}  # fmt: skip
    answer = exchange.call("POST", REGISTRY, exchange.people["acme"], batch).json
    assert answer["entry"][0]["resource"] == record  # type: ignore[index]
    assert exchange.call("GET", path, beta["token"]).status_code == 404
    assert exchange.call("GET", path, exchange.people["hospital"]).status_code == 404
    narrow = exchange.token(alpha, scope="system/Patient.rs").json["access_token"]  # type: ignore[index]
    assert exchange.call("GET", path, narrow).status_code == 403
    absent = exchange.call("GET", f"{REGISTRY}/AuditEvent/nothing", exchange.people["acme"])
    assert absent.status_code == 404


def test_ones_own_records_are_paged_over_all_organizations(exchange: Exchange) -> None:
    client = calls(exchange, name="Paged")
    recorded(exchange)
    url: str | None = f"{REGISTRY}/AuditEvent?_count=1"
    seen, bases = [], set()
    while url:
        page: Any = exchange.call("GET", url, client["token"]).json
        for entry in page.get("entry", ()):
            seen.append(entry["resource"]["id"])
            bases.add(entry["fullUrl"].partition("/AuditEvent/")[0])
        following = [link["url"] for link in page["link"] if link["relation"] == "next"]
        url = following[0].partition(exchange.installation.settings.public_url)[2] if following else None
        assert len(seen) < 100
    whole = views(exchange, client["token"])
    assert (len(seen), sorted(seen)) == (len(set(seen)), sorted(entry["resource"]["id"] for entry in whole))
    assert len(bases) == 2  # its token was issued by the registry, its call was to the hospital


def test_who_saw_a_patient_is_found_by_an_index_that_is_there_from_the_beginning(
    installation: app.Installation, repository: Api
) -> None:
    database = installation.server.store.database
    assert {"s.patient", "own", "client"} <= set(database.current("AuditEvent").index_information())
    id, other = (repository.get(f"Patient?identifier=m{number}").ids[0] for number in (1, 2))
    many = [{"resource": event(f"Patient/{other}"), "request": {"method": "POST", "url": "AuditEvent"}}] * 200
    assert repository.post("", {"resourceType": "Bundle", "type": "batch", "entry": many}).status == 200
    for search in (f"patient=Patient/{id}", f"patient=Patient/{id}&agent:identifier=urn:staff|n77&_sort=-_lastUpdated"):
        answer = repository.get(f"AuditEvent?{search}&type=110112", X_Explain="true")
        notes = [issue["diagnostics"] for each in answer.json["entry"] if each["search"]["mode"] == "outcome"
                 for issue in each["resource"]["issue"]]  # fmt: skip
        assert notes[-1].startswith("Answered by s.patient"), notes
        assert len(answer.ids) == 1


def test_a_posted_record_that_names_a_client_is_not_put_before_its_provider(exchange: Exchange) -> None:
    alpha = calls(exchange, name="Alpha")
    who = {"identifier": {"value": f"ClientApplication/{alpha['id']}"}}
    forged = event("Patient/forged", agent=[{"requestor": True, "who": who}])
    assert exchange.call("POST", f"{exchange.base}/AuditEvent", alpha["token"], forged).status_code == 201
    assert "Patient/forged" not in about(views(exchange, exchange.people["acme"]))


@pytest.mark.parametrize("search", ["&_include=AuditEvent:patient", "&patient:Patient.name=x", "&_revinclude=*:*"])
def test_nothing_else_opens_with_it(search: str, exchange: Exchange) -> None:
    calls(exchange, name="Alpha")
    server, settings = exchange.installation.server, exchange.installation.settings
    while ship(server, settings.data / app.SPOOL):
        pass
    answer = exchange.call("GET", f"{REGISTRY}/AuditEvent?_count=100{search}", exchange.people["acme"])
    entries = answer.json.get("entry", []) if answer.status_code == 200 else []  # type: ignore[union-attr]
    assert {entry["resource"]["resourceType"] for entry in entries} <= {"AuditEvent", "OperationOutcome"}
    assert exchange.call("GET", f"{REGISTRY}/?_type=AuditEvent", exchange.people["acme"]).json.get("entry", []) == []  # type: ignore[union-attr]


ORGANIZATION = {
    "resourceType": "Organization",
    "type": [
        {"coding": [{"system": "https://fhirserver.example/fhir/CodeSystem/organization-kind", "code": "application"}]}
    ],
}
USER = {"resourceType": "User", "email": "other@example.org", "name": "Other", "role": "admin"}


def test_the_records_of_one_client_are_asked_for_by_its_identifier_and_never_anothers(exchange: Exchange) -> None:
    mine, other = calls(exchange, name="Mine"), calls(exchange, name="Others")
    moved = exchange.call("GET", f"{REGISTRY}/ClientApplication/{other['id']}", exchange.people["acme"]).json
    moved = {**moved, "managingOrganization": {"reference": f"Organization/{exchange.hospital}"}}  # type: ignore[dict-item]
    path = f"{REGISTRY}/ClientApplication/{other['id']}"
    assert exchange.call("PUT", path, exchange.operator(), moved).status_code == 200
    while ship(exchange.installation.server, exchange.installation.settings.data / app.SPOOL):
        pass
    found = [
        about(views(exchange, exchange.people["acme"], f"&agent:identifier=ClientApplication/{id}"))
        for id in (mine["id"], other["id"], "nobody", f"{mine['id']},ClientApplication/{other['id']}")
    ]

    assert found == [{"Patient/mine"}, set(), set(), {"Patient/mine"}]


def explained(exchange: Exchange, token: str, search: str) -> str:
    """Which index a search on the registry is answered by."""
    headers = {"Authorization": f"Bearer {token}", "X-Explain": "true"}
    answer = exchange.http.get(f"{REGISTRY}/AuditEvent?{search}", headers=headers)
    notes = [issue["diagnostics"] for each in dict(answer.json or {})["entry"] if each["search"]["mode"] == "outcome"
             for issue in each["resource"]["issue"]]  # fmt: skip
    return str(next(text for text in notes if text.startswith("Answered by")))


def test_however_many_clients_a_provider_has_its_records_are_found_by_one_index(exchange: Exchange) -> None:
    calls(exchange, name="Found")
    recorded(exchange)
    assert explained(exchange, exchange.people["acme"], "_sort=-_lastUpdated") == "Answered by owner."
    assert "p.owner s.entity" in explained(exchange, exchange.people["acme"], "entity=Patient/found")


def errands_done(exchange: Exchange) -> None:
    server = exchange.installation.server
    relay_events(server, lambda pending, session: errands.note(server, pending, session))
    for errand in kept_errands.waiting(server.store.database):
        errands.finish(server, errand.id)


def test_a_client_that_is_given_away_takes_its_records_along(exchange: Exchange) -> None:
    client = calls(exchange, name="Given")
    recorded(exchange)
    assert "Patient/given" in about(views(exchange, exchange.people["acme"]))
    path = f"{REGISTRY}/ClientApplication/{client['id']}"
    held = dict(exchange.call("GET", path, exchange.people["acme"]).json or {})
    assert exchange.call("PUT", path, exchange.people["acme"], {**held, "description": "x"}).status_code == 200
    errands_done(exchange)
    assert "Patient/given" in about(views(exchange, exchange.people["acme"]))

    given = {**held, "managingOrganization": {"reference": f"Organization/{exchange.hospital}"}}
    assert exchange.call("PUT", path, exchange.operator(), given).status_code == 200
    errands_done(exchange)
    assert "Patient/given" not in about(views(exchange, exchange.people["acme"]))
    assert "Patient/given" in about(views(exchange, exchange.people["hospital"]))


def test_what_a_client_did_stays_in_view_of_its_organization_when_it_is_deleted(exchange: Exchange) -> None:
    client = calls(exchange, name="Gone")
    recorded(exchange)
    path, search = f"{REGISTRY}/ClientApplication/{client['id']}", f"&agent:identifier=ClientApplication/{client['id']}"
    assert exchange.call("DELETE", path, exchange.people["acme"]).status_code == 200
    errands_done(exchange)
    assert about(views(exchange, exchange.people["acme"], search)) == {"Patient/gone"}
    assert about(views(exchange, exchange.people["hospital"], search)) == set()


def test_records_from_before_there_were_owners_are_found_at_once_and_get_theirs(exchange: Exchange) -> None:
    mine = calls(exchange, name="Early")
    recorded(exchange)
    server = exchange.installation.server
    database = server.store.database
    database.collection("AuditEvent").update_many({}, {"$unset": {"p.owner": ""}})
    database.collection("installation").delete_one({"_id": NOTE})
    server.caches.pop("owners", None)
    for _ in range(2):
        search = f"&agent:identifier=ClientApplication/{mine['id']}"
        assert about(views(exchange, exchange.people["acme"], search)) == {"Patient/early"}
        assert "Patient/early" in about(views(exchange, exchange.people["acme"]))
        assert about(views(exchange, mine["token"], "&subtype=read")) == {"Patient/early"}
        assert views(exchange, exchange.people["hospital"], search) == []
        owners.begin(server)
    assert explained(exchange, exchange.people["acme"], "_sort=-_lastUpdated") == "Answered by owner."
