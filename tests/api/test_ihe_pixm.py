"""IHE PIXm: a hospital's systems feed identities (ITI-104), an application translates identifiers (ITI-83)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.api.client import Api
from tests.api.exchange import Exchange, exchange_of
from tests.api.ihe import actor, hospital, outcome

RED, GREEN, BLUE = "urn:oid:1.3.6.1.4.1.21367.13.20.1000", "urn:oid:1.3.6.1.4.1.21367.13.20.2000", "urn:oid:2.16.840.1"


@pytest.fixture(scope="module")
def exchange(mongo_url: str) -> Iterator[Exchange]:
    with exchange_of(mongo_url, "test_ihe_pixm") as made:
        yield made


@pytest.fixture(scope="module")
def source(exchange: Exchange) -> Api:
    return actor(exchange, "pixm-source")


@pytest.fixture(scope="module")
def consumer(exchange: Exchange) -> Api:
    return actor(exchange, "pixm-consumer")


def patient(*identifiers: tuple[str, str], **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "Patient",
        "active": True,
        "identifier": [{"system": system, "value": value} for system, value in identifiers],
        "name": [{"family": "Chalmers"}],
        **more,
    }


def fed(source: Api, system: str, value: str, resource: dict[str, Any]) -> Any:
    return source.put(f"Patient?identifier={system}|{value}", resource)


def translated(consumer: Api, query: str) -> tuple[set[tuple[str, str]], list[str]]:
    answer = consumer.get(f"Patient/$ihe-pix?{query}")
    assert answer.status == 200, answer.data
    found = answer.json.get("parameter", [])
    identifiers = {
        (each["valueIdentifier"]["system"], each["valueIdentifier"]["value"])
        for each in found
        if each["name"] == "targetIdentifier"
    }
    return identifiers, [each["valueReference"]["reference"] for each in found if each["name"] == "targetId"]


def test_a_person_is_fed_revised_and_translated(source: Api, consumer: Api) -> None:
    added = fed(source, RED, "a1", patient((RED, "a1")))
    assert added.status == 201
    revised = fed(source, RED, "a1", patient((RED, "a1"), (GREEN, "b1"), (BLUE, "c1")))
    assert revised.status == 200
    assert revised.json["id"] == added.json["id"]
    query = f"sourceIdentifier={RED}|a1"
    assert translated(consumer, query) == ({(GREEN, "b1"), (BLUE, "c1")}, [f"Patient/{added.json['id']}"])
    assert translated(consumer, f"{query}&targetSystem={GREEN}") == ({(GREEN, "b1")}, [])
    assert translated(consumer, f"{query}&targetSystem={GREEN}&targetSystem={BLUE}")[0] == {(GREEN, "b1"), (BLUE, "c1")}
    body = {
        "resourceType": "Parameters",
        "parameter": [
            {"name": "sourceIdentifier", "valueIdentifier": {"system": GREEN, "value": "b1"}},
            {"name": "targetSystem", "valueUri": RED},
        ],
    }
    posted = consumer.post("Patient/$ihe-pix", body).json
    assert posted["parameter"][0]["valueIdentifier"]["value"] == "a1"
    by_id = translated(consumer, f"sourceIdentifier={consumer.origin}{consumer.base}|Patient/{added.json['id']}")
    assert by_id == ({(RED, "a1"), (GREEN, "b1"), (BLUE, "c1")}, [])


def test_two_domains_that_know_each_other_by_a_link(exchange: Exchange, source: Api, consumer: Api) -> None:
    one = fed(source, RED, "link-1", patient((RED, "link-1"))).json["id"]
    link = [{"other": {"reference": f"Patient/{one}"}, "type": "seealso"}]
    two = fed(source, GREEN, "link-2", patient((GREEN, "link-2"), link=link)).json["id"]
    for query, other in ((f"{RED}|link-1", (GREEN, "link-2")), (f"{GREEN}|link-2", (RED, "link-1"))):
        found, ids = translated(consumer, f"sourceIdentifier={query}")
        assert found == {other}
        assert sorted(ids) == sorted([f"Patient/{one}", f"Patient/{two}"])


def test_a_duplicate_is_resolved_and_its_identifier_leads_to_the_survivor(
    exchange: Exchange, source: Api, consumer: Api
) -> None:
    survivor = fed(source, RED, "keep", patient((RED, "keep"), (GREEN, "kept"))).json["id"]
    subsumed = fed(source, RED, "gone", patient((RED, "gone"), (BLUE, "old"))).json["id"]
    link = [{"other": {"identifier": {"system": RED, "value": "keep"}}, "type": "replaced-by"}]
    merged = fed(source, RED, "gone", patient((RED, "gone"), (BLUE, "old"), active=False, link=link))
    assert (merged.status, merged.json["id"]) == (200, subsumed)
    assert merged.json["link"][0]["other"]["reference"] == f"Patient/{survivor}"
    included = hospital(exchange).get(f"Patient?_id={subsumed}&_include=Patient:link").included
    assert included == [f"Patient/{survivor}"]
    for query in (f"{RED}|gone", f"{BLUE}|old"):
        found, ids = translated(consumer, f"sourceIdentifier={query}")
        assert found == {(RED, "keep"), (GREEN, "kept")}
        assert ids == [f"Patient/{survivor}"]
    assert translated(consumer, f"sourceIdentifier={GREEN}|kept")[0] == {(RED, "keep")}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("sourceIdentifier={red}|nobody", (404, "not-found", "sourceIdentifier Patient Identifier not found")),
        ("sourceIdentifier={base}|Patient/nobody", (404, "not-found", "sourceIdentifier Patient Identifier not found")),
        ("sourceIdentifier=urn:oid:9.9|a1", (400, "code-invalid", "sourceIdentifier Assigning Authority not found")),
        ("sourceIdentifier={red}|e1&targetSystem=urn:oid:9.9", (403, "code-invalid", "targetSystem not found")),
    ],
)
def test_the_errors_are_those_of_the_profile(
    source: Api, consumer: Api, query: str, expected: tuple[int, str, str]
) -> None:
    assert fed(source, RED, "e1", patient((RED, "e1"))).status in (200, 201)
    base = f"{consumer.origin}{consumer.base}"
    assert outcome(consumer.get(f"Patient/$ihe-pix?{query.format(red=RED, base=base)}")) == expected


@pytest.mark.parametrize(
    "query", ["", "sourceIdentifier=a1", "sourceIdentifier=|a1", "sourceIdentifier=urn:x|", "other=1"]
)
def test_a_request_without_one_source_is_refused(consumer: Api, query: str) -> None:
    assert consumer.get(f"Patient/$ihe-pix?{query}").status == 400


def test_a_person_is_removed_by_identifier_where_the_option_was_chosen(
    exchange: Exchange, source: Api, consumer: Api
) -> None:
    fed(source, RED, "remove", patient((RED, "remove")))
    assert source.delete(f"Patient?identifier={RED}|remove").status == 403
    remover = actor(exchange, "pixm-source", "pixm-source-remove")
    assert remover.delete(f"Patient?identifier={RED}|remove").status == 200
    assert consumer.get(f"Patient/$ihe-pix?sourceIdentifier={RED}|remove").status == 404


def test_the_scopes_of_the_profile_open_nothing_else(exchange: Exchange, source: Api, consumer: Api) -> None:
    assert consumer.post("Patient", patient((RED, "x"))).status == 403
    assert consumer.get("Observation").status == 403
    id = hospital(exchange).create(patient((RED, "y")))["id"]
    assert source.get(f"Patient/{id}").status == 403
    assert source.get(f"Patient/$ihe-pix?sourceIdentifier={RED}|y").status == 403


@pytest.mark.parametrize(
    "link",
    [
        [{"other": {"identifier": {"system": RED, "value": "nobody-here"}}, "type": "replaced-by"}],
        [{"other": {"identifier": {"value": "no domain"}}, "type": "seealso"}],
    ],
)
def test_a_survivor_that_is_not_known_stays_an_identifier(source: Api, link: list[dict[str, Any]]) -> None:
    made = fed(source, RED, "early", patient((RED, "early"), active=False, link=link))
    assert made.status in (200, 201), made.data
    assert made.json["link"] == link


@pytest.mark.parametrize("link", ["x", ["x"], [{"other": "x"}], [{"other": {"identifier": "x"}}]])
def test_links_that_are_none_are_refused(source: Api, link: Any) -> None:
    assert fed(source, RED, "odd", patient((RED, "odd"), link=link)).status in (400, 422)


def test_circles_of_links_end(source: Api, consumer: Api) -> None:
    def linking(value: str) -> list[dict[str, Any]]:
        return [{"other": {"identifier": {"system": RED, "value": value}}, "type": "seealso"}]

    fed(source, RED, "round-1", patient((RED, "round-1"), link=linking("round-2")))
    fed(source, RED, "round-2", patient((RED, "round-2"), link=linking("round-1")))
    assert translated(consumer, f"sourceIdentifier={RED}|round-1")[0] == {(RED, "round-2")}
