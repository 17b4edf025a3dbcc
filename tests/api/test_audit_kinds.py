"""Every kind of audit record, in one table: what is done, and the record that there must be of it. IHE BALP, IUA.

What is in ELSEWHERE is shown where it is at home: notifications in tests/system/test_delivery_records.py, passwords set
by a link and keys beside what else holds for them.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from fhirserver import app
from fhirserver.auditing import security
from fhirserver.auth.access import everything
from fhirserver.auth.principal import Principal
from fhirserver.fhir.json import decode
from fhirserver.interactions.indexing import entry_of
from fhirserver.interactions.table import INTERACTIONS
from fhirserver.rules.organization import kind_concept
from fhirserver.search.index import plain
from fhirserver.store.search import compile_search, find
from tests.api.browser import CALLBACK, Browser
from tests.api.exchange import ISSUER, PASSWORD, REGISTRY, Exchange, exchange_of
from tests.api.relaying import record_events

PATIENT = {"resourceType": "Patient", "id": "p1", "identifier": [{"system": "urn:mrn", "value": "1"}]}
OBSERVATION = {"resourceType": "Observation", "id": "o1", "status": "final", "code": {"text": "x"},
               "subject": {"reference": "Patient/p1"}}  # fmt: skip
ADT = ("MSH|^~\\&|LAB|GH|HIE|RX|20260101120000||ADT^A04^ADT_A01|%s|P|2.5.1\r"
       "EVN||20260101120000\rPID|1||777^^^GH^MR||A^B\rPV1|1|O\r")  # fmt: skip
JSON_PATCH = "application/json-patch+json"
AUTHENTICATION = "110114"
ELSEWHERE = {"purge", "delivery", "password", "keys"}


@dataclass
class World:
    """The exchange, a client that the hospital let in, and what has been recorded so far."""

    exchange: Exchange
    client: dict[str, Any]
    token: str
    authorization: str

    def base(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """A call by the client on the hospital's base."""
        given = {"Authorization": f"Bearer {self.token}", **{name.replace("_", "-"): v for name, v in headers.items()}}
        url = f"{self.exchange.base}/{path}".rstrip("/")
        return self.exchange.http.open(url, method=method, json=body, headers=given)

    def registry(self, method: str, path: str, body: Any = None, who: str = "") -> Any:
        token = self.exchange.people[who] if who else self.exchange.operator()
        return self.exchange.call(method, f"{REGISTRY}/{path}", token, body)

    def form(self, path: str, **given: str) -> Any:
        client = {"client_id": self.client["id"], "client_secret": self.client["secret"]}
        return self.exchange.http.post(f"/oauth2/{path}", data=client | given)

    def bundle(self, type_: str, *entries: tuple[str, str, Any]) -> Any:
        made = [{"request": {"method": method, "url": url}, **({"resource": resource} if resource else {})}
                for method, url, resource in entries]  # fmt: skip
        return self.base("POST", "", {"resourceType": "Bundle", "type": type_, "entry": made})

    def records(self) -> dict[str, dict[str, Any]]:
        """All there are, by id."""
        server = self.exchange.installation.server
        record_events(server, self.exchange.installation.settings.data / app.SPOOL)
        found = {}
        for organization in ("registry", self.exchange.hospital):
            search = compile_search(server.store, everything(organization), "AuditEvent", (), None)
            assert search
            matches = find(server.store, search, (), 5_000).matches
            found |= {version.id: version.resource() for version in matches}
        return found


@pytest.fixture(scope="module")
def world(mongo_url: str) -> Iterator[World]:
    with exchange_of(mongo_url, "test_audit_kinds") as exchange:
        client = exchange.register()
        authorization = exchange.authorize(client)
        made = World(exchange, client, exchange.token(client).json["access_token"], authorization)  # type: ignore[index]
        for resource in (PATIENT, OBSERVATION):
            assert made.base("PUT", f"{resource['resourceType']}/{resource['id']}", resource).status_code == 201
        yield made


def user(world: World) -> str:
    return str(world.registry("GET", "User?email=hospital@example.org").json["entry"][0]["resource"]["id"])


def asked(world: World, step: str, who: str, **more: Any) -> None:
    note = {"resourceType": "Parameters", "parameter": [{"name": "note", "valueString": "n"}]}
    answer = world.registry("POST", f"ClientAuthorization/{world.authorization}/${step}", note, who)
    assert answer.status_code == 200, answer.text


def browsed(world: World, path: str) -> None:
    portal = world.exchange.register(grantType=["authorization_code"], responseTypes="code", redirectUri=[CALLBACK],
                                     scope="openid user/*.rs")  # fmt: skip
    world.exchange.authorize(portal)
    browser = Browser(world.exchange, portal, scope="openid user/Patient.rs")
    if path == "refused":
        browser.post("/oauth2/sign-in", browser.begin(), email="hospital@example.org", password=PASSWORD + "x")
        return
    assert browser.token(browser.code()).status_code == 200
    if path == "logout":
        browser.post("/oauth2/logout", browser.get("/oauth2/logout"))


def message(world: World, raw: str) -> None:
    path = f"/1/health/organizations/{world.exchange.hospital}/hl7v2"
    headers = {"Authorization": f"Bearer {world.token}", "Content-Type": "application/hl7-v2"}
    world.exchange.http.post(path, data=raw.encode(), headers=headers)


def register(world: World) -> None:
    given = {"client_name": "Dynamic", "grant_types": ["authorization_code"], "redirect_uris": [CALLBACK],
             "token_endpoint_auth_method": "none", "scope": "user/*.rs"}  # fmt: skip
    answer = world.exchange.call("POST", "/oauth2/register", world.exchange.people["acme"], given)
    assert answer.status_code == 201, answer.text


def changed(world: World, type_: str, resource: dict[str, Any]) -> str:
    answer = world.registry("POST", type_, {"resourceType": type_, **resource})
    assert answer.status_code == 201, answer.text
    return str(answer.json["id"])


def policy(world: World) -> None:
    where = {"reference": f"Organization/{world.exchange.acme}"}
    id = changed(world, "AccessPolicy", {"name": "p", "engine": "allow", "organization": where})
    world.registry("DELETE", f"AccessPolicy/{id}")


CLIENT = {"name": "C", "kind": "production", "grantType": ["client_credentials"], "scope": "system/*.rs"}
Expected = tuple[str, str, str, str, str]
"""Type, subtypes, action, outcome, the end of the profile ("" where there is none)."""


def rest(codes: str, action: str, profile: str = "", outcome: str = "0") -> Expected:
    return ("rest", codes, action, outcome, f"IHE.BasicAudit.{profile}" if profile else "")


# fmt: off
# ruff: noqa: E501 - a table is read by its columns
ROWS: dict[str, tuple[Callable[[World], Any], Expected]] = {
    # BALP's five kinds, and those that concern a patient
    "read": (lambda w: w.base("GET", "Observation/o1"), rest("read", "R", "PatientRead")),
    "read of what is nobody's": (lambda w: (w.base("PUT", "Location/l1", {"resourceType": "Location", "id": "l1"}), w.base("GET", "Location/l1")), rest("read", "R", "Read")),
    "vread": (lambda w: w.base("GET", "Patient/p1/_history/1"), rest("vread", "R", "PatientRead")),
    "history-instance": (lambda w: w.base("GET", "Patient/p1/_history"), rest("history-instance", "R", "PatientRead")),
    "search-type": (lambda w: w.base("GET", "Observation?code:text=x"), rest("search-type", "E", "PatientQuery")),
    "search that finds nothing": (lambda w: w.base("GET", "Observation?code:text=y"), rest("search-type", "E", "Query")),
    "search-compartment": (lambda w: w.base("GET", "Patient/p1/Observation"), rest("search-type", "E", "PatientQuery")),
    "search-system": (lambda w: w.base("GET", "?_type=Patient"), rest("search-system", "E", "PatientQuery")),
    "history-type": (lambda w: w.base("GET", "Patient/_history"), rest("history-type", "E", "PatientQuery")),
    "history-system": (lambda w: w.base("GET", "_history"), rest("history-system", "E", "PatientQuery")),
    "create": (lambda w: w.base("POST", "Observation", OBSERVATION), rest("create", "C", "PatientCreate")),
    "create of what is nobody's": (lambda w: w.base("POST", "Location", {"resourceType": "Location"}), rest("create", "C", "Create")),
    "update": (lambda w: w.base("PUT", "Patient/p1", {**PATIENT, "active": True}), rest("update", "U", "PatientUpdate")),
    "update of what is nobody's": (lambda w: [w.base("PUT", "Location/l2", {"resourceType": "Location", "id": "l2", "name": name}) for name in "ab"], rest("update", "U", "Update")),
    "conditional-update": (lambda w: w.base("PUT", "Patient?identifier=urn:mrn|1", {**PATIENT, "gender": "male"}), rest("update", "U", "PatientUpdate")),
    "patch": (lambda w: w.base("PATCH", "Patient/p1", [{"op": "add", "path": "/birthDate", "value": "1970"}], Content_Type=JSON_PATCH), rest("patch", "U", "PatientUpdate")),
    "conditional-patch": (lambda w: w.base("PATCH", "Patient?identifier=urn:mrn|1", [{"op": "add", "path": "/birthDate", "value": "1971"}], Content_Type=JSON_PATCH), rest("patch", "U", "PatientUpdate")),
    "delete": (lambda w: (w.base("PUT", "Observation/o2", {**OBSERVATION, "id": "o2"}), w.base("DELETE", "Observation/o2")), rest("delete", "D", "PatientDelete")),
    "delete of what is nobody's": (lambda w: (w.base("PUT", "Location/l3", {"resourceType": "Location", "id": "l3"}), w.base("DELETE", "Location/l3")), rest("delete", "D", "Delete")),
    "conditional-delete": (lambda w: (w.base("PUT", "Observation/o3", {**OBSERVATION, "id": "o3", "code": {"text": "gone"}}), w.base("DELETE", "Observation?code:text=gone")), rest("delete", "D", "PatientDelete")),
    "operation": (lambda w: w.base("GET", "Patient/p1/$everything"), rest("operation $everything", "E")),
    # Entries of Bundles, each by itself
    "entry of a batch": (lambda w: w.bundle("batch", ("GET", "Observation/o1", None)), rest("read", "R", "PatientRead")),
    "entry of a batch that is refused": (lambda w: w.bundle("batch", ("GET", "Observation/none", None)), rest("read", "R", outcome="4")),
    "entry of a transaction": (lambda w: w.bundle("transaction", ("POST", "Observation", OBSERVATION)), rest("create", "C", "PatientCreate")),
    "search in a transaction": (lambda w: w.bundle("transaction", ("GET", "Observation?code:text=x", None)), rest("search-type", "E", "PatientQuery")),
    "transaction": (lambda w: w.bundle("transaction", ("GET", "Observation/none", None)), rest("transaction", "E", outcome="4")),
    # Refusals
    "not there": (lambda w: w.base("GET", "Patient/none"), rest("read", "R", outcome="4")),
    "not permitted": (lambda w: w.base("GET", "InboundMessage"), rest("search-type", "E", outcome="4")),
    "not valid": (lambda w: w.base("POST", "Patient", {"resourceType": "Patient", "no": 1}), rest("create", "C", outcome="4")),
    "credentials": (lambda w: w.exchange.call("GET", f"{w.exchange.base}/Patient", "no.to.ken"), (AUTHENTICATION, "110126", "E", "4", "")),
    # Tokens and people
    "token": (lambda w: w.form("token", grant_type="client_credentials"), (AUTHENTICATION, "ITI-71", "E", "0", "IHE.IUA.71")),
    "token refused": (lambda w: w.form("token", grant_type="client_credentials", client_secret="wrong"), (AUTHENTICATION, "ITI-71", "E", "4", "")),
    "introspection": (lambda w: w.form("introspect", token=w.token), (AUTHENTICATION, "ITI-102", "E", "0", "")),
    "revocation": (lambda w: w.form("revoke", token=w.exchange.token(w.client).json["access_token"]), (AUTHENTICATION, "110137", "E", "0", "")),
    "login": (lambda w: browsed(w, "in"), (AUTHENTICATION, "110122", "E", "0", "")),
    "login refused": (lambda w: browsed(w, "refused"), (AUTHENTICATION, "110122", "E", "4", "")),
    "consent": (lambda w: browsed(w, "in"), (AUTHENTICATION, "110136", "E", "0", "")),
    "logout": (lambda w: browsed(w, "logout"), (AUTHENTICATION, "110123", "E", "0", "")),
    # Configuration and permissions
    "client registered": (lambda w: changed(w, "ClientApplication", CLIENT), rest("create", "C", "Create")),
    "client registered by RFC 7591": (register, rest("create", "C", "Create")),
    "secret": (lambda w: w.registry("POST", f"ClientApplication/{w.exchange.register()['id']}/$rotate-secret", {"resourceType": "Parameters"}, "acme"), rest("operation $rotate-secret", "E")),
    "organization": (lambda w: changed(w, "Organization", {"name": "New", "type": [kind_concept("provider")]}), rest("create", "C", "Create")),
    "role of a user": (lambda w: w.registry("PUT", f"User/{user(w)}", {**w.registry("GET", f"User/{user(w)}").json, "name": "Other"}), rest("update", "U", "Update")),
    "policy": (policy, rest("delete", "D", "Delete")),
    # Steps of an authorization
    "authorization requested": (lambda w: w.exchange.authorize(w.exchange.register()), rest("create $request-authorization", "C", "Create")),
    "authorization disabled": (lambda w: asked(w, "disable", "hospital"), rest("update $disable", "U", "Update")),
    "refused since": (lambda w: w.base("GET", "Patient/p1"), rest("read", "R", outcome="4")),
    "authorization enabled": (lambda w: asked(w, "enable", "hospital"), rest("update $enable", "U", "Update")),
    # Messages
    "message": (lambda w: message(w, ADT % "M1"), ("110107", "A04", "C", "0", "")),
    "message refused": (lambda w: message(w, "MSH|^~\\&|LAB|GH|HIE|RX|20260101120000||ZZZ^Z99|M2|P|9.9\r"), ("110107", "", "C", "4", "")),
}
# fmt: on


def told(event: dict[str, Any]) -> Expected:
    subtypes = " ".join(each["code"] for each in event["subtype"])
    profile = "".join(event.get("meta", {}).get("profile", [])).rpartition("/")[2]
    return event["type"]["code"], subtypes, event["action"], event["outcome"], profile


@pytest.mark.parametrize("name", ROWS)
def test_there_is_a_record_of(name: str, world: World) -> None:
    act, expected = ROWS[name]
    before = set(world.records())
    act(world)
    fresh = [event for id, event in world.records().items() if id not in before]
    matching = [event for event in fresh if told(event)[:1] + told(event)[2:] == expected[:1] + expected[2:]
                and set(expected[1].split()) <= set(told(event)[1].split())]  # fmt: skip
    assert matching, [told(event) for event in fresh]
    for event in matching:
        named = any(each.get("what", {}).get("reference") == "Patient/p1" for each in event.get("entity", ()))
        assert ("Patient" in expected[4]) <= named
        assert event["recorded"]
        assert event["agent"][0]["requestor"] is True
        assert event["source"]["observer"]["display"] == ISSUER
        assert world.client["secret"] not in str(event)


def test_every_kind_is_in_the_table() -> None:
    codes = {row.code for row in INTERACTIONS} - {"capabilities"}  # discovery shows nothing of anybody
    assert codes - set(ROWS) == set()
    assert set(security.KINDS) - set(ROWS) <= ELSEWHERE


def test_a_record_is_found_by_all_that_is_in_it(world: World) -> None:
    """What records have in common is indexed once for all of them: with their own it is the whole."""
    server = world.exchange.installation.server
    assert plain(server.definitions, "AuditEvent")
    assert not plain(server.definitions, "Patient")  # deceased looks at more than one element
    world.records()
    seen = 0
    for held in server.store.database.current("AuditEvent").find():
        whole = entry_of(server, decode(held["d"]), server.base(held["o"])).document()
        assert {"s": held["s"], "k": held["k"]} == whole
        seen += 1
    assert seen > len(ROWS)


def test_nothing_is_recorded_of_discovery(world: World) -> None:
    before = set(world.records())
    world.base("GET", "metadata")
    world.exchange.http.get("/oauth2/jwks")
    assert set(world.records()) == before


def test_basic_credentials_are_recorded_by_the_id_alone(world: World) -> None:
    before = set(world.records())
    given = b64encode(f"{world.client['id']}:wrong-secret".encode()).decode()
    world.exchange.http.get(f"{world.exchange.base}/Patient", headers={"Authorization": f"Basic {given}"})
    (event,) = (event for id, event in world.records().items() if id not in before)
    assert event["agent"][0]["who"]["identifier"]["value"] == f"ClientApplication/{world.client['id']}"
    assert "wrong-secret" not in str(event)


def test_the_operator_is_recorded_by_name(world: World) -> None:
    before = set(world.records())
    principal = Principal("operator", "local", operator=True, scopes="system/*.cruds", name="local operator")
    token = world.exchange.installation.tokens.issue(principal)
    world.exchange.call("GET", f"{REGISTRY}/Organization", token)
    (event,) = (event for id, event in world.records().items() if id not in before)
    assert event["agent"][0]["who"]["display"] == "local operator"
