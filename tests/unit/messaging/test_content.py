"""How what a message says is put into what is stored."""

from __future__ import annotations

from typing import Any

from fhirserver.messaging import updating
from fhirserver.messaging.parts import Content

URL = "http://example.org/ext.birth-place"


def merged(before: dict[str, Any], said: dict[str, Any], **more: Any) -> dict[str, Any]:
    content = Content({}, "ADT_A08", **more)
    spoken, gone = content.elements.get("urn:uuid:1"), content.deletes.get("urn:uuid:1", ())
    return updating.merged(before, said, spoken, gone)


def test_an_element_the_message_is_silent_about_stays() -> None:
    before = {"resourceType": "Patient", "id": "1", "birthDate": "1980", "gender": "female"}
    assert merged(before, {"resourceType": "Patient", "gender": "other"}) == {**before, "gender": "other"}


def test_an_element_the_message_does_not_speak_for_stays_even_if_it_has_one() -> None:
    elements = {"urn:uuid:1": ["gender"]}
    after = merged({"birthDate": "1980"}, {"gender": "other", "birthDate": "1990"}, elements=elements)
    assert after == {"birthDate": "1980", "gender": "other"}


def test_identifiers_are_added_to_and_keep_their_places() -> None:
    old, same, new = ({"system": "s", "value": value} for value in "abc")
    after = merged({"identifier": [same, old]}, {"identifier": [new, {**same, "use": "official"}]})
    assert after["identifier"] == [{**same, "use": "official"}, old, new]


def test_several_extensions_of_one_url_are_all_kept() -> None:
    two = [{"url": URL, "valueString": "a"}, {"url": URL, "valueString": "b"}]
    assert merged({"extension": two[:1]}, {"extension": two})["extension"] == two


def test_what_the_message_says_is_gone_is_removed_also_by_the_url_of_an_extension() -> None:
    before = {"extension": [{"url": URL}, {"url": "urn:other"}], "name": [{"family": "x", "given": ["y"]}]}
    after = merged(before, {}, deletes={"urn:uuid:1": [f"extension({URL})", "name.given"]})
    assert after == {"extension": [{"url": "urn:other"}], "name": [{"family": "x"}]}
