"""What a message says in place of what is stored: absent keeps, said replaces, deleted goes, inside elements too."""

from __future__ import annotations

from typing import Any

import pytest

from fhirserver.messaging.updating import merged

ENCOUNTER: dict[str, Any] = {
    "resourceType": "Encounter",
    "status": "in-progress",
    "period": {"start": "2026-09-14T10:00:00-07:00"},
    "hospitalization": {"admitSource": {"text": "emergency"}, "preAdmissionIdentifier": {"value": "7"}},
}


def after(said: dict[str, Any], elements: list[str] | None, deletes: tuple[str, ...] = ()) -> dict[str, Any]:
    return merged(ENCOUNTER, {"resourceType": "Encounter", **said}, elements, deletes)


def test_a_part_that_is_said_leaves_the_others() -> None:
    said = {
        "period": {"end": "2026-09-15T10:00:00-07:00"},
        "hospitalization": {"dischargeDisposition": {"text": "home"}},
    }
    found = after(said, ["period.end", "hospitalization.dischargeDisposition"])
    assert found["period"] == {"start": "2026-09-14T10:00:00-07:00", "end": "2026-09-15T10:00:00-07:00"}
    assert set(found["hospitalization"]) == {"admitSource", "preAdmissionIdentifier", "dischargeDisposition"}
    assert ENCOUNTER["period"] == {"start": "2026-09-14T10:00:00-07:00"}


def test_a_whole_element_that_is_said_replaces_the_stored_one() -> None:
    said = {"hospitalization": {"dischargeDisposition": {"text": "home"}}}
    assert after(said, None)["hospitalization"] == said["hospitalization"]


@pytest.mark.parametrize("held", [None, "nonsense"])
def test_a_part_of_what_is_not_there_makes_it(held: Any) -> None:
    before = {"resourceType": "Encounter", **({"period": held} if held else {})}
    said = {"resourceType": "Encounter", "period": {"end": "2026"}}
    assert merged(before, said, ["period.end"], ())["period"] == {"end": "2026"}


def test_a_part_that_is_deleted_goes_and_what_is_left_empty_goes_too() -> None:
    deletes = ("hospitalization.admitSource",)
    assert after({}, [], deletes)["hospitalization"] == {"preAdmissionIdentifier": {"value": "7"}}
    again = merged(
        after({}, [], deletes), {"resourceType": "Encounter"}, [], ("hospitalization.preAdmissionIdentifier",)
    )
    assert "hospitalization" not in again


@pytest.mark.parametrize("end", ["2026-09-14T16:59:59+00:00", "2026-09-13", "2025"])
def test_a_period_that_would_run_backwards_is_the_one_that_is_said(end: str) -> None:
    assert after({"period": {"end": end}}, ["period.end"])["period"] == {"end": end}


def test_identifiers_are_added_and_extensions_told_apart_by_their_url() -> None:
    before = {"resourceType": "Patient", "identifier": [{"system": "a", "value": "1"}], "extension": [{"url": "x"}]}
    said = {"resourceType": "Patient", "identifier": [{"system": "a", "value": "2"}]}
    found = merged(before, said, ["identifier"], ("extension(x)",))
    assert [each["value"] for each in found["identifier"]] == ["1", "2"]
    assert "extension" not in found
