"""What the command line sends of the data that it is given: the very bytes, with the id where they lack it."""

from __future__ import annotations

import json

from fhirserver.remote.commands import _with_id


def test_data_without_an_id_get_the_one_that_was_named_and_keep_their_numbers() -> None:
    data = b' {"resourceType": "Observation", "valueQuantity": {"value": 1.10}}'
    sent = _with_id(data, json.loads(data), "a-1")
    assert json.loads(sent) == {"id": "a-1", **json.loads(data)}
    assert b"1.10" in sent


def test_data_with_an_id_are_sent_as_they_are() -> None:
    data = b'{"resourceType": "Patient", "id": "b"}'
    assert _with_id(data, json.loads(data), "a") == data
