"""Bodies that nobody should send, and what is to be answered."""

from __future__ import annotations

from fhirserver.fhir.json import encode
from tests.api.client import Answer
from tests.api.samples import patient


def refused(answer: Answer) -> None:
    """4xx with an OperationOutcome that says something and nothing of ours."""
    assert 400 <= answer.status < 500, answer.data[:500]
    body = answer.json
    assert body["resourceType"] == "OperationOutcome"
    assert all(issue["diagnostics"] for issue in body["issue"])
    assert b"Traceback" not in answer.data
    assert b"pymongo" not in answer.data
    assert b"/fhirserver/" not in answer.data


def nested(depth: int, inner: bytes = b"1") -> bytes:
    return b'{"resourceType":"Patient","extension":' + b"[" * depth + inner + b"]" * depth + b"}"


def narrative(content: str, before: str = "") -> bytes:
    div = f'{before}<div xmlns="http://www.w3.org/1999/xhtml">{content}</div>'
    return encode(patient(text={"status": "generated", "div": div}))


BODIES: dict[str, bytes] = {
    "nothing": b"",
    "not JSON": b"<Patient/>",
    "cut off": b'{"resourceType":"Patient"',
    "invalid UTF-8": b'{"resourceType":"Patient","name":[{"family":"\xff\xfe"}]}',
    "half a surrogate pair": b'{"resourceType":"Patient","name":[{"family":"\\ud800"}]}',
    "UTF-16": '{"resourceType":"Patient"}'.encode("utf-16"),
    "a NUL in a text": b'{"resourceType":"Patient","name":[{"family":"a\\u0000b"}]}',
    "brackets without end": b"[" * 1_000_000,
    "nested beyond reason": nested(100_000),
    "nested deeply": nested(900),
    "nested less deeply": nested(400),
    "a number beyond reason": b'{"resourceType":"Patient","multipleBirthInteger":' + b"9" * 100_000 + b"}",
    "an exponent beyond reason": b'{"resourceType":"Patient","multipleBirthInteger":1e999999999}',
    "NaN": b'{"resourceType":"Patient","multipleBirthInteger":NaN}',
    "null": b"null",
    "null inside": b'{"resourceType":"Patient","name":null}',
    "null in a list": b'{"resourceType":"Patient","name":[null]}',
    "an empty object": b'{"resourceType":"Patient","maritalStatus":{}}',
    "an empty list": b'{"resourceType":"Patient","name":[]}',
    "an empty text": b'{"resourceType":"Patient","name":[{"family":""}]}',
    "operators as names": b'{"resourceType":"Patient","$where":"1","a.b":{"$gt":""}}',
    "a list of types": b'{"resourceType":["Patient"]}',
    "a type that is an object": b'{"resourceType":{"$ne":""}}',
    "an id that is an object": b'{"resourceType":"Patient","id":{"$ne":""},"meta":7}',
    "meta that is a list": b'{"resourceType":"Patient","meta":[]}',
    "script in the narrative": narrative("<script>x</script>"),
    "an entity bomb in the narrative": narrative("&a;", '<!DOCTYPE x [<!ENTITY a "a">]>'),
    "a modifier extension": encode(patient(modifierExtension=[{"url": "urn:unknown", "valueBoolean": True}])),
}  # fmt: skip
