"""What operators ask of the installation: $health, $queues, $settings, $signing-keys, $redeliver, $load-package; $why
of a User.
"""

from __future__ import annotations

import base64
import io
import json
import tarfile
from collections.abc import Iterator
from typing import Any

import pytest

from fhirserver.auth.principal import Principal
from fhirserver.exchange import installing
from fhirserver.rules.user import user_id
from tests.api.client import Api
from tests.api.exchange import REGISTRY, Exchange, exchange_of

NAMES = ("health", "queues", "settings", "signing-keys", "rotate-signing-key", "redeliver", "load-package")


@pytest.fixture(scope="module")
def exchange(mongo_url: str) -> Iterator[Exchange]:
    with exchange_of(mongo_url, "api-operating") as made:
        yield made


def value(part: dict[str, Any]) -> Any:
    return next((value for name, value in part.items() if name.startswith("value")), part.get("part"))


def parts(answer: dict[str, Any], name: str) -> list[Any]:
    return [value(part) for part in answer.get("parameter", ()) if part["name"] == name]


def named(found: list[dict[str, Any]]) -> dict[str, Any]:
    return {part["name"]: value(part) for part in found}


@pytest.mark.parametrize("name", NAMES)
def test_nobody_but_an_operator_may_ask(exchange: Exchange, name: str) -> None:
    for who in ("hospital", "acme"):
        answer = exchange.call("POST", f"{REGISTRY}/${name}", exchange.people[who], {"resourceType": "Parameters"})
        assert answer.status_code == 403, answer.text
    client = exchange.register()
    token = exchange.token(client).json["access_token"]  # type: ignore[index]
    assert exchange.call("POST", f"{REGISTRY}/${name}", token).status_code == 403
    assert exchange.http.post(f"{REGISTRY}/${name}").status_code == 401


@pytest.mark.parametrize("name", NAMES)
def test_they_are_there_on_the_registry_alone(exchange: Exchange, name: str) -> None:
    assert exchange.call("POST", f"{exchange.base}/${name}", exchange.people["hospital"]).status_code == 404


def test_health_says_of_each_part_whether_it_works(registry: Api) -> None:
    answer = registry.get("$health").json
    found = {each["name"]: each for each in map(named, parts(answer, "component"))}

    assert found["database"]["status"] == "ok"
    assert found["queue"]["status"] == found["workers"]["status"] == "error"  # these tests have no Redis
    assert found["relay"]["status"] == "error"
    assert found["mail"]["status"] == "off"
    assert set(found) == {"database", "queue", "workers", "relay", "outbox", "audit-spool", "seals", "mail"}


def test_queues_count_what_waits_at_an_organization_and_name_no_patient(registry: Api, api: Api) -> None:
    api.create({"resourceType": "Patient", "name": [{"family": "Nobody-Should-See"}]})
    raw = b"MSH|^~\\&|X|Y|A|B|20260101120000||ADT^A01|1|P|2.5\rEVN|A01\rPID|1||7^^^Z||Nobody-Should-See\rPV1|1|I\r"
    path = f"http://api.test/1/health/organizations/{api.organization}/hl7v2"
    assert api.call("POST", path, raw, Content_Type="application/hl7-v2").status == 200
    answer = registry.get("$queues")
    mine = [base for base in parts(answer.json, "base") if api.organization in str(base)]

    assert parts(answer.json, "outbox")[0] > 0
    assert "Nobody-Should-See" not in str(answer.json)
    assert named(named(mine[0])["waiting"]) == {"type": "InboundMessage", "status": "received", "count": 1}


def test_settings_are_told_without_their_secrets(exchange: Exchange) -> None:
    answer = exchange.call("GET", f"{REGISTRY}/$settings", operator(exchange))
    found = {each["name"]: each for each in map(named, parts(answer.json, "setting"))}  # type: ignore[arg-type]

    assert found["FHIRSERVER_MASTER_KEY"]["value"] == "********"
    assert "m" * 40 not in answer.text
    assert "mongodb://" not in answer.text
    assert found["FHIRSERVER_PAGE_SIZE"]["value"] == "50"


def test_a_signing_key_is_rotated_and_the_one_before_is_still_known(exchange: Exchange) -> None:
    token = operator(exchange)
    before = exchange.call("GET", f"{REGISTRY}/$signing-keys", token)
    refused = exchange.call("GET", f"{REGISTRY}/$rotate-signing-key", token)
    after = exchange.call("POST", f"{REGISTRY}/$rotate-signing-key", token, {"resourceType": "Parameters"})
    old, new = ([named(each) for each in parts(answer.json, "key")] for answer in (before, after))  # type: ignore[arg-type]

    assert refused.status_code == 405
    assert (len(old), len(new)) == (1, 2)
    assert [each["signs"] for each in new] == [True, False]
    assert new[0]["kid"] == old[0]["kid"]
    assert "PRIVATE" not in after.text


def test_why_of_a_user_says_what_the_role_permits(exchange: Exchange) -> None:
    person = exchange.call("GET", f"{REGISTRY}/User?email=hospital@example.org", exchange.people["hospital"])
    id = person.json["entry"][0]["resource"]["id"]  # type: ignore[index]
    asked = f"{REGISTRY}/User/{id}/$why?type=Patient&interaction=create"

    def why(query: str, token: str) -> Any:
        return exchange.call("GET", asked + query, token)

    here = why(f"&organization=Organization/{exchange.hospital}", exchange.people["hospital"]).json
    there = why(f"&organization=Organization/{exchange.acme}", operator(exchange)).json
    registry = why("", operator(exchange)).json

    assert parts(here, "permitted") == [True]
    assert parts(there, "permitted") == parts(registry, "permitted") == [False]
    assert "has no role in organization" in str(there)
    assert why("", exchange.people["acme"]).status_code in (403, 404)


def packed(*resources: dict[str, Any]) -> str:
    """A package with these resources, as base64."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        for number, resource in enumerate(resources):
            data = json.dumps(resource).encode()
            member = tarfile.TarInfo(f"package/{number}.json")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return base64.b64encode(made.getvalue()).decode()


def loading(content: Any) -> dict[str, Any]:
    return {"resourceType": "Parameters", "parameter": [{"name": "content", "valueBase64Binary": content}]}


def test_a_package_is_loaded_once_and_what_is_invalid_is_named(exchange: Exchange) -> None:
    url = "https://ward.example/fhir/CodeSystem/beds"
    system = {"resourceType": "CodeSystem", "url": url, "version": "1", "status": "active", "content": "complete"}
    wrong = {"resourceType": "ValueSet", "url": f"{url}-wrong", "status": "whatever"}
    content = packed({"name": "ward.beds"}, system, wrong, {"resourceType": "Patient"})
    first = exchange.call("POST", f"{REGISTRY}/$load-package", operator(exchange), loading(content))
    again = exchange.call("POST", f"{REGISTRY}/$load-package", operator(exchange), loading(content))

    def counts(answer: Any) -> tuple[int, ...]:
        return tuple(parts(answer.json, name)[0] for name in ("stored", "there", "others", "refused"))

    assert first.status_code == 200, first.text
    assert (counts(first), counts(again)) == ((1, 0, 1, 1), (0, 1, 1, 1))
    assert parts(first.json, "reason")[0].startswith("2.json: ")  # type: ignore[arg-type]
    found = exchange.call("GET", f"{REGISTRY}/CodeSystem?url={url}", operator(exchange)).json
    assert found["entry"][0]["resource"]["version"] == "1"  # type: ignore[index]


@pytest.mark.parametrize(
    ("content", "text"),
    [("", "Give the package"), ("no base64 at all!", "base64"), ("aGVsbG8=", "not a FHIR package"), (7, "base64")],
)
def test_what_is_no_package_is_refused(exchange: Exchange, content: Any, text: str) -> None:
    answer = exchange.call("POST", f"{REGISTRY}/$load-package", operator(exchange), loading(content))

    assert answer.status_code in (400, 422)
    assert text in answer.text


def test_a_package_that_unpacks_to_more_than_is_taken_is_refused(
    exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installing, "MOST_UNPACKED", 10)
    content = packed({"resourceType": "CodeSystem", "url": "https://ward.example/fhir/CodeSystem/large"})
    answer = exchange.call("POST", f"{REGISTRY}/$load-package", operator(exchange), loading(content))

    assert "larger than any" in answer.text


def operator(exchange: Exchange) -> str:
    """A token of a platform operator."""
    return exchange.installation.tokens.issue(Principal("user", _olga(exchange)))


def _olga(exchange: Exchange) -> str:
    user = {"resourceType": "User", "email": "olga@example.org", "name": "Olga", "role": "operator"}
    exchange.call("POST", f"{REGISTRY}/User", exchange.operator(), user)
    return user_id("olga@example.org")
