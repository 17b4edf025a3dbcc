"""Media types, encodings, CORS and the other headers that hold for every interaction. FHIR R4: http."""

from __future__ import annotations

import gzip
import re

import pytest
import zstandard

from fhirserver.fhir.json import decode, encode
from tests.api.client import Api
from tests.api.samples import patient


@pytest.mark.parametrize(
    "accept",
    ["application/fhir+json", "application/json", "text/json", "*/*", "application/*",
     "application/fhir+json;fhirVersion=4.0",
     "application/fhir+xml;q=0.5, application/fhir+json", "text/html, */*;q=0.1",
     "application/fhir+xml;q=0, */*", "application/fhir+json;q=0.001", "application/json; q=0, application/fhir+json"],
)  # fmt: skip
def test_json_is_answered_to_who_takes_it(api: Api, accept: str) -> None:
    answer = api.get("Patient", Accept=accept)
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("application/fhir+json")


@pytest.mark.parametrize(
    "accept",
    ["application/fhir+xml", "text/turtle", "application/xml", "text/html", "nonsense", "*/*;q=0",
     "application/fhir+json;q=0", "application/fhir+json; q=0.000, */*", "application/fhir+xml, */*;q=0.0"],
)  # fmt: skip
def test_another_format_is_406_with_an_outcome_in_json(api: Api, accept: str) -> None:
    answer = api.get("Patient", Accept=accept)
    assert (answer.status, answer.issue["code"]) == (406, "not-supported")
    assert "application/fhir+json" in answer.issue["diagnostics"]


@pytest.mark.parametrize(
    ("format", "status"),
    [("json", 200), ("application/fhir%2Bjson", 200), ("application/fhir+json", 200), ("xml", 406), ("ttl", 406)],
)
def test_format_counts_before_accept(api: Api, format: str, status: int) -> None:
    assert api.get(f"Patient?_format={format}", Accept="application/fhir+xml").status == status


@pytest.mark.parametrize(
    "kind", ["application/fhir+json", "application/json", "application/fhir+json; charset=utf-8", "text/json"]
)
def test_bodies_are_taken_as_json(api: Api, kind: str) -> None:
    assert api.post("Patient", patient(), Content_Type=kind).status == 201


@pytest.mark.parametrize(
    "kind", ["application/fhir+xml", "text/plain", "application/octet-stream", "multipart/form-data"]
)
def test_bodies_of_another_type_are_415(api: Api, kind: str) -> None:
    answer = api.post("Patient", patient(), Content_Type=kind)
    assert answer.status == 415
    assert answer.issue["expression"] == ["Content-Type"]


def test_pretty_is_indented(api: Api) -> None:
    made = api.create(patient())
    plain, pretty = api.get(f"Patient/{made['id']}"), api.get(f"Patient/{made['id']}?_pretty=true")
    assert b"\n" not in plain.data
    assert b'\n  "resourceType"' in pretty.data
    assert plain.json == pretty.json


def test_large_answers_are_compressed_for_who_takes_it(api: Api) -> None:
    for _ in range(10):
        api.create(patient())
    plain = api.get("Patient").data
    packed = api.get("Patient", Accept_Encoding="gzip")
    assert packed.headers["Content-Encoding"] == "gzip"
    assert decode(gzip.decompress(packed.data)) == decode(plain)
    packed = api.get("Patient", Accept_Encoding="gzip, zstd")
    assert packed.headers["Content-Encoding"] == "zstd"
    assert decode(zstandard.ZstdDecompressor().decompress(packed.data)) == decode(plain)
    assert "Accept-Encoding" in packed.headers["Vary"]


def test_gzip_bodies_are_unpacked_up_to_the_limit(api: Api) -> None:
    assert api.post("Patient", gzip.compress(encode(patient())), Content_Encoding="gzip").status == 201
    bomb = api.post("Patient", gzip.compress(b" " * 50_000_000), Content_Encoding="gzip")
    assert bomb.status == 413
    assert api.post("Patient", b"not gzip", Content_Encoding="gzip").status == 400
    assert api.post("Patient", encode(patient()), Content_Encoding="br").status == 415


def test_a_body_beyond_the_limit_is_413(api: Api) -> None:
    answer = api.post("Patient", b" " * (4 * 1024 * 1024 + 1))
    assert answer.status == 413
    assert answer.json["resourceType"] == "OperationOutcome"


def test_the_request_id_is_echoed_or_made(api: Api) -> None:
    assert api.get("Patient", X_Request_Id="my-own.id_1").headers["X-Request-Id"] == "my-own.id_1"
    made = api.get("Patient").headers["X-Request-Id"]
    assert re.fullmatch(r"[A-Za-z0-9.\-]+", made)
    for bad in ("x" * 65, "a b", "a;b", "<x>"):
        assert api.get("Patient", X_Request_Id=bad).headers["X-Request-Id"] != bad
    assert "X-Request-Id" in api.get("Patient/nobody").headers


def test_browsers_of_a_configured_origin_may_call(api: Api) -> None:
    answer = api.call("OPTIONS", "Patient", Origin="https://app.example", Access_Control_Request_Method="POST")
    assert answer.status == 204
    assert answer.headers["Access-Control-Allow-Origin"] in ("*", "https://app.example")
    assert "PATCH" in answer.headers["Access-Control-Allow-Methods"]
    assert "If-None-Exist" in answer.headers["Access-Control-Allow-Headers"]
    assert "ETag" in api.get("Patient", Origin="https://app.example").headers["Access-Control-Expose-Headers"]


def test_options_needs_no_token(api: Api) -> None:
    answer = Api(api.app, api.base).call("OPTIONS", "Patient/1")
    assert answer.status == 204
    assert "PUT" in answer.headers["Allow"]


def test_answers_are_not_kept_by_strangers(api: Api) -> None:
    headers = api.get("Patient").headers
    assert "private" in headers["Cache-Control"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "Authorization" in headers["Vary"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", ""),
        ("DELETE", ""),
        ("PATCH", "_history"),
        ("DELETE", "Patient/x/_history"),
        ("POST", "Patient/x"),
        ("PUT", "_search"),
    ],
)
def test_a_method_that_is_not_possible_is_405_with_allow(api: Api, method: str, path: str) -> None:
    answer = api.call(method, path, None if method == "DELETE" else patient())
    assert answer.status == 405, answer.data
    assert answer.headers["Allow"]
    assert answer.issue["code"] == "not-supported"


@pytest.mark.parametrize("path", ["x/y/z/w", "Patient/1/2/3", "Patient//", "patient/1", "_nothing", "Patient/_nothing"])
def test_a_path_that_is_none_is_404(api: Api, path: str) -> None:
    answer = api.get(path)
    assert answer.status in (200, 404) if path == "Patient//" else answer.status == 404
