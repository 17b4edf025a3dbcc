"""The form of a mapping overlay: what it shows of a ConceptMap comes back as it was, whatever nobody touches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fhirserver.fhir.json import decode
from fhirserver.fhir.problem import Problem
from fhirserver.web.console.hospital.sheet import (
    MAP,
    OVERLAY,
    RULE,
    Card,
    Row,
    Sheet,
    resource_of,
    sheet_from,
    sheet_of,
)

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE: dict[str, Any] = decode((ROOT / "examples" / "hl7v2" / "overlay.json").read_bytes())


def same(value: Any) -> str:
    """A text in which the parts of an extension have no order."""
    if isinstance(value, dict):
        return str([(name, same(value[name])) for name in sorted(value)])
    if isinstance(value, list):
        parts = [same(each) for each in value]
        return str(sorted(parts) if all(isinstance(each, dict) and "url" in each for each in value) else parts)
    return str(value)


def overlay(*elements: dict[str, Any], kind: str = "segment", **more: Any) -> dict[str, Any]:
    map_ = [{"url": "map", "valueString": "PID.Patient"}, {"url": "kind", "valueCode": kind}]
    group = {"extension": [{"url": MAP, "extension": map_}], "element": list(elements)}
    head = {"url": OVERLAY, "extension": [{"url": "sending-facility", "valueString": "NORTH"}]}
    return {"resourceType": "ConceptMap", "status": "draft", "extension": [head], "group": [group], **more}


def rule(*parts: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"extension": [{"url": RULE, "extension": list(parts)}], **more}


TO = [{"code": "gender", "equivalence": "relatedto"}]
ID = {"url": "id", "valueString": "mine"}
SHAPES = {
    "the example": EXAMPLE,
    "a rule with rules, lists, numbers and truth values": overlay(
        rule(
            ID,
            {"url": "action", "valueCode": "replace"},
            {"url": "required", "valueBoolean": True},
            {"url": "length", "valueInteger": 3},
            {"url": "rules[]", "extension": [{"url": "to", "valueString": "system"}]},
            {"url": "rules[]", "extension": [{"url": "to", "valueString": "value"}]},
            {"url": "after", "valueString": "pid5"},
            code="PID-8.1",
            target=TO,
        )
    ),
    "a literal that is an object": overlay(rule(ID, {"url": "value", "extension": [ID]}, target=TO)),
    "a code that is taken away": overlay(
        {"code": "X", "target": [{"equivalence": "unmatched"}]},
        {"code": "Y", "target": [{"code": "y", "equivalence": "equivalent"}]},
        kind="table",
    ),
    "groups of other kinds": overlay({"code": "A01"}, kind="triggers"),
    "elements of its own": overlay(rule(ID, code="PID-1", target=TO), url="https://x.example/o", publisher="We"),
    "nothing but a sender": {name: value for name, value in overlay().items() if name != "group"},
}


@pytest.mark.parametrize("name", SHAPES)
def test_what_the_form_shows_of_an_overlay_comes_back_as_it_was(name: str) -> None:
    resource = SHAPES[name]

    assert same(resource_of(sheet_of(resource))[0]) == same(resource)


@pytest.mark.parametrize(
    "resource",
    [
        overlay({"code": "X", "target": [{"code": "x"}, {"code": "y"}]}, kind="table"),
        overlay({"code": "X", "target": [{"code": "x", "equivalence": "wider"}]}, kind="table"),
        overlay(rule(ID, code="PID-1", target=[{"code": "gender", "equivalence": "relatedto", "comment": "why"}])),
        overlay({"code": "PID-1", "display": "Set id", "target": TO}),
        overlay(
            *({"code": str(n), "target": [{"code": "x", "equivalence": "equivalent"}]} for n in range(501)),
            kind="table",
        ),
        {"resourceType": "ConceptMap", "extension": "none"},
        {"resourceType": "ConceptMap", "group": [{"element": [{}]}]},
    ],
)
def test_an_overlay_that_says_more_than_the_form_is_left_to_the_experts(resource: dict[str, Any]) -> None:
    with pytest.raises(Problem):
        sheet_of(resource)


def test_a_form_as_it_is_sent_is_the_overlay_with_the_place_of_each_rule() -> None:
    sent = [
        ("head.title", "Ours"), ("head.timezone", "Europe/Amsterdam"), ("required", "region, , marital-status"),
        ("authority.3.name", "MRN"), ("authority.3.uri", "urn:oid:1.2"),
        ("segment.0.name", "zpi"), ("segment.0.fields", "2 IS, 3:cwe"),
        ("card.0.kind", "segment"), ("card.0.name", "PID.Patient"),
        ("row.0.0.action", "add"), ("row.0.0.id", ""),
        ("row.0.10.action", "remove"), ("row.0.10.id", "pid19"),
        ("row.0.2.action", "replace"), ("row.0.2.id", "pid8"), ("row.0.2.source", "PID-8"),
        ("row.0.2.target", "gender"), ("row.0.2.beside", "after pid5"), ("row.0.2.more", '{"required": true}'),
        ("rest", '{"status": "draft"}'), ("action", "draft"), ("csrf", "x"),
    ]  # fmt: skip
    made, places = resource_of(sheet_from(sent))
    elements = made["group"][0]["element"]

    assert made["title"] == "Ours"
    assert "valueInteger': 3}, {'url': 'type', 'valueString': 'CWE'" in str(made["extension"])
    assert [part["valueString"] for part in made["extension"][0]["extension"] if part["url"] == "required-table"] == [
        "region", "marital-status",
    ]  # fmt: skip
    assert elements[0]["extension"][0]["extension"][0] == {"url": "action", "valueCode": "replace"}
    assert {"url": "after", "valueString": "pid5"} in elements[0]["extension"][0]["extension"]
    assert {"url": "required", "valueBoolean": True} in elements[0]["extension"][0]["extension"]
    assert places == {
        "ConceptMap.group[0]": "card.0",
        "ConceptMap.group[0].element[0]": "row.0.1",
        "ConceptMap.group[0].element[1]": "row.0.2",
    }


def test_what_cannot_be_read_is_named_by_its_field() -> None:
    cards = [
        Card("segment", "PID.Patient", rows=[Row({"id": "a", "more": "[1]"}), Row({"id": "b", "beside": "near x"})])
    ]
    with pytest.raises(Problem) as refused:
        resource_of(Sheet(segments=[("ZPI", "two IS")], cards=cards))

    assert [issue.expression for issue in refused.value.issues] == [
        ("row.0.0.more",),
        ("row.0.1.beside",),
        ("segment.0",),
    ]


def test_a_form_has_bounded_lists_whatever_is_sent() -> None:
    sheet = sheet_from([(f"row.0.{number}.id", "x") for number in range(2_000)] + [("card.0.kind", "nonsense")])

    assert len(sheet.cards[0].rows) == 500
    assert sheet.cards[0].kind == "segment"
    assert json.loads(sheet.rest) == {}
