"""Exports in the console: what a hospital sees and ends, what an application provider sees of its own clients."""

from __future__ import annotations

from collections.abc import Iterator
from html import unescape
from typing import Any

import pytest

from fhirserver.bulk.work import work
from tests.api.exchange import REGISTRY, Exchange, exchange_of
from tests.api.hospital import Hospital
from tests.api.provider import ORGANIZATION, Console, add

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def exchange(mongo_url: str) -> Iterator[Exchange]:
    with exchange_of(mongo_url, "api-console-exports") as made:
        made.call("PUT", f"{made.base}/Patient/ann", made.people["hospital"], {"resourceType": "Patient", "id": "ann"})
        member = {"entity": {"reference": "Patient/ann"}}
        group = {"resourceType": "Group", "id": "cohort", "type": "person", "actual": True, "member": [member]}
        group["name"] = f"Diabetes {HOSTILE}"
        assert made.call("PUT", f"{made.base}/Group/cohort", made.people["hospital"], group).status_code == 201
        yield made


@pytest.fixture(scope="module")
def hospital(exchange: Exchange) -> Hospital:
    return Hospital(exchange)


@pytest.fixture(scope="module")
def acme(exchange: Exchange) -> Console:
    return Console(exchange)


class Exporter:
    """A client that the hospital has approved, and its exports."""

    def __init__(self, exchange: Exchange, name: str) -> None:
        self.exchange = exchange
        self.client = exchange.register(name=name, scope="system/Patient.rs system/Group.rs")
        self.authorization = exchange.authorize(self.client)
        self.token = exchange.token(self.client).json["access_token"]  # type: ignore[index]

    def call(self, method: str, path: str) -> Any:
        headers = {"Authorization": f"Bearer {self.token}", "Prefer": "respond-async"}
        return self.exchange.http.open(f"{self.exchange.base}/{path}", method=method, headers=headers)

    def begin(self, path: str = "Patient/$export?_type=Patient") -> str:
        """Asks for one: its id."""
        answer = self.call("GET", path)
        assert answer.status_code == 202, answer.text
        return str(answer.headers["Content-Location"]).rpartition("/")[2]

    def done(self, path: str = "Patient/$export?_type=Patient") -> str:
        """Has one done: its id."""
        id = self.begin(path)
        work(self.exchange.installation.server, self.exchange.hospital, id)
        return id


@pytest.fixture
def exporter(exchange: Exchange) -> Exporter:
    return Exporter(exchange, f"Warehouse {HOSTILE}")


# The hospital


def test_there_is_nothing_at_first(exchange: Exchange, acme: Console) -> None:
    other = Hospital(exchange)
    assert "Nothing has been taken out as files yet" in other.get("/exports")
    assert "No organization knows a client of yours yet" in acme.see("/exports")


def test_the_hospital_sees_who_takes_out_what_in_words(hospital: Hospital, exporter: Exporter) -> None:
    id = exporter.begin("Group/cohort/$export?_type=Patient")
    for page in (hospital.get("/exports"), hospital.get(f"/exports/{id}")):
        assert f"Members of the group Diabetes {HOSTILE}" in unescape(page)
        assert f"Warehouse {HOSTILE}" in unescape(page)
        assert HOSTILE not in page
        assert "Accepted" in page
    assert "0 of 1 steps" in hospital.get(f"/exports/{id}")
    assert "Exports under way" in hospital.get("")
    work(exporter.exchange.installation.server, exporter.exchange.hospital, id)
    listed = hospital.get("/exports?status=completed")
    assert all(text in listed for text in ("1 resource<", "in 1 file<", "Completed"))
    assert "status=accepted%2Cin-progress" in hospital.get("")


def test_a_list_is_of_one_state_and_one_client(exchange: Exchange, hospital: Hospital, exporter: Exporter) -> None:
    mine, theirs = exporter.done(), Exporter(exchange, "Another").begin()
    listed = hospital.get(f"/exports?client={exporter.client['id']}")
    assert f"/exports/{mine}" in listed
    assert f"/exports/{theirs}" not in listed
    assert "Nothing matches" in hospital.get(f"/exports?client={exporter.client['id']}&status=failed")
    assert f"/exports/{theirs}" in hospital.get("/exports?status=accepted,in-progress")
    client = hospital.get(f"/clients/{exporter.authorization}")
    assert f"/exports/{mine}" in client
    assert f"/exports?client={exporter.client['id']}" in client


def test_an_administrator_ends_one_under_way_and_takes_away_the_files_of_one_that_is_done(
    hospital: Hospital, exporter: Exporter
) -> None:
    going, done = exporter.begin(), exporter.done()
    for id, button, status, code in ((going, "End export", "Ended", "cancelled"),
                                     (done, "Take its files away", "Files gone", "expired")):  # fmt: skip
        assert button in hospital.get(f"/exports/{id}")
        hospital.post(f"/exports/{id}")
        page = hospital.get(f"/exports/{id}")
        assert status in page
        assert 'class="danger"' not in page
        assert hospital.api("GET", f"BulkExport/{id}")["status"] == code
        assert exporter.call("GET", f"bulk/{id}").status_code == 404
        hospital.post(f"/exports/{id}", 404)


def test_a_form_without_its_token_ends_nothing(hospital: Hospital, exporter: Exporter) -> None:
    id = exporter.begin()
    answer = hospital.visitor.post(hospital.path(f"/exports/{id}"), {"csrf": "0" * 64})
    assert answer.status_code == 403
    assert hospital.api("GET", f"BulkExport/{id}")["status"] == "accepted"


def test_a_member_looks_and_ends_nothing(exchange: Exchange, exporter: Exporter) -> None:
    id = exporter.begin()
    add(exchange, "nurse", exchange.hospital, "member")
    nurse = Console(exchange, "nurse")
    nurse.home = f"/console/hospital/{exchange.hospital}"
    page = nurse.see(f"/exports/{id}")
    assert "0 of 1 steps" in page
    assert "End export" not in page
    nurse.send(f"/exports/{id}", 404)
    assert exporter.call("GET", f"bulk/{id}").status_code == 202


def test_another_hospital_finds_nothing_under_its_own_address(exchange: Exchange, exporter: Exporter) -> None:
    id = exporter.begin()
    kind = [{"coding": [{**ORGANIZATION[0]["coding"][0], "code": "provider"}]}]
    body = {"resourceType": "Organization", "name": "Hillside", "type": kind}
    other = exchange.call("POST", f"{REGISTRY}/Organization", exchange.operator(), body).json["id"]  # type: ignore[index]
    add(exchange, "hill", other, "admin")
    hill = Console(exchange, "hill")
    for home, status in ((other, 404), (exchange.hospital, 404)):
        hill.home = f"/console/hospital/{home}"
        hill.see(f"/exports/{id}", status)
        hill.send(f"/exports/{id}", status)
    assert exporter.call("GET", f"bulk/{id}").status_code == 202


# The application provider


def test_a_provider_follows_the_exports_of_its_clients_and_reads_how_to_fetch_them(
    exchange: Exchange, acme: Console, exporter: Exporter
) -> None:
    id = exporter.begin()
    at = f"/exports/{exchange.hospital}"
    assert acme.get(f"{acme.home}/exports").headers["Location"].endswith(at)
    assert f"{at}/{id}" in acme.see(f"{at}?client={exporter.client['id']}")
    assert f"{at}?client={exporter.client['id']}" in acme.see(f"/authorizations/{exporter.authorization}")
    page = acme.see(f"{at}/{id}")
    assert "0 of 1 steps" in page
    assert "All patients" in page
    part = acme.see(f"{at}/{id}", HX_Request="true", HX_Target="stands")
    assert part.strip().startswith('<section id="stands"')
    work(exchange.installation.server, exchange.hospital, id)
    page = unescape(acme.see(f"{at}/{id}"))
    address = f"{exchange.installation.server.base(exchange.hospital)}/bulk/{id}"
    assert f'-o "export-#1.ndjson" "{address}/[0-0]"' in page
    assert exporter.call("GET", f"bulk/{id}/0").status_code == 200
    assert HOSTILE not in acme.see(f"{at}/{id}")


def test_a_provider_reads_why_an_export_failed(exchange: Exchange, acme: Console, exporter: Exporter) -> None:
    id = exporter.begin()
    assert exchange.step(exporter.authorization, "disable").status_code == 200
    work(exchange.installation.server, exchange.hospital, id)
    page = acme.see(f"/exports/{exchange.hospital}/{id}")
    assert "its ClientAuthorization is disabled" in page
    assert "curl" not in page
    assert HOSTILE not in page


def test_another_provider_sees_nothing_of_them(exchange: Exchange, exporter: Exporter) -> None:
    id = exporter.begin()
    body = {"resourceType": "Organization", "name": "Other Apps", "type": ORGANIZATION}
    other = exchange.call("POST", f"{REGISTRY}/Organization", exchange.operator(), body).json["id"]  # type: ignore[index]
    add(exchange, "stranger", other, "admin")
    stranger = Console(exchange, "stranger", other)
    for path in ("", f"/{id}"):
        answer = stranger.get(f"{stranger.home}/exports/{exchange.hospital}{path}")
        assert answer.status_code in (403, 404), path
        assert "Warehouse" not in answer.text
