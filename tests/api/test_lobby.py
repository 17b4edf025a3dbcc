"""The host itself and paths where nothing is: for a person with a browser, for a program, for probes."""

from __future__ import annotations

from typing import Any

import pytest

from fhirserver import app
from fhirserver.settings import Secret
from tests.api.client import Answer, Api

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
PROGRAMS = ("application/fhir+json", "application/json", "*/*")


def visit(registry: Api, path: str, accept: str) -> Answer:
    with registry.app.test_client() as client:
        reply = client.get(path, headers={"Accept": accept}, base_url=registry.origin)
        return Answer(reply.status_code, reply.headers, reply.data)


def test_a_browser_is_led_from_the_host_to_the_console(registry: Api) -> None:
    answer = visit(registry, "/", BROWSER)
    assert (answer.status, answer.headers["Location"], answer.headers["Vary"]) == (302, "/console", "Accept")


@pytest.mark.parametrize("accept", PROGRAMS)
def test_a_program_is_told_at_the_host_where_the_bases_are(registry: Api, accept: str) -> None:
    answer = visit(registry, "/", accept)
    assert answer.status == 200
    told: dict[str, Any] = answer.json
    assert told["registry"] == "http://api.test/1/health/fhir/4"
    assert told["organization"] == "http://api.test/1/health/organizations/{organization}/fhir/4"
    assert visit(registry, told["metadata"].removeprefix("http://api.test"), accept).status == 200
    assert visit(registry, told["smart-configuration"].removeprefix("http://api.test"), accept).status == 200


@pytest.mark.parametrize(
    "path", ["/nothing", "/fhir", "/metadata", "/fhir/Patient/1", "/1/health", "/1/health/organizations"]
)
def test_a_program_is_told_at_a_wrong_path_what_there_is(registry: Api, path: str) -> None:
    answer = visit(registry, path, "application/fhir+json")
    assert answer.status == 404
    assert answer.issue["code"] == "not-found"
    assert "http://api.test/1/health/fhir/4" in answer.issue["diagnostics"]


def test_a_browser_gets_a_page_at_a_wrong_path(registry: Api) -> None:
    answer = visit(registry, "/nothing<script>", BROWSER)
    assert answer.status == 404
    assert answer.headers["Content-Type"].startswith("text/html")
    assert b"/console" in answer.data
    assert b"nothing" not in answer.data
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


def test_what_is_asked_of_a_fhir_base_is_answered_in_fhir_whoever_asks(registry: Api) -> None:
    assert visit(registry, "/1/health/fhir/4/Zebra/1", BROWSER).issue["code"] == "not-found"


def test_search_engines_are_asked_to_stay_away(registry: Api) -> None:
    assert b"Disallow: /\n" in visit(registry, "/robots.txt", "*/*").data


def test_a_server_without_its_database_is_alive_and_not_ready(
    registry: Api, installation: app.Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [visit(registry, path, "*/*").status for path in ("/livez", "/healthz")] == [200, 200]
    from fhirserver.store.database import Database

    nowhere = Secret("mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=50&connectTimeoutMS=50&directConnection=true")
    gone = Database(nowhere.reveal(), "gone")
    monkeypatch.setattr(installation.server.store, "database", gone)
    assert [visit(registry, path, "*/*").status for path in ("/livez", "/healthz")] == [200, 503]
    gone.close()
