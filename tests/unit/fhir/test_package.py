"""Reading FHIR packages, good ones and bad ones."""

from __future__ import annotations

import gzip
import io
import tarfile
from decimal import Decimal

import pytest

from fhirserver.fhir import package
from fhirserver.fhir.problem import Problem


def packed(**files: bytes) -> io.BytesIO:
    """A .tgz of these files; in names __ stands for / and a trailing _json for .json."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name.replace("__", "/").removesuffix("_json") + ".json")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    made.seek(0)
    return made


def test_the_resources_of_the_folder_package_are_read_with_their_decimals() -> None:
    archive = packed(
        package__package_json=b'{"name": "x", "version": "1.0.0"}',
        package__Basic_a_json=b'{"resourceType": "Basic", "x": 1.00}',
        package__example__Basic_b_json=b'{"resourceType": "Basic"}',
        elsewhere__Basic_c_json=b'{"resourceType": "Basic"}',
    )
    assert list(package.resources(archive)) == [("Basic_a.json", {"resourceType": "Basic", "x": Decimal("1.00")})]


@pytest.mark.parametrize(
    "data",
    [b"", b"no gzip", gzip.compress(b"no tar at all" * 99), packed(a=b"x").getvalue()[:60]],
    ids=["nothing", "no gzip", "no tar", "cut off"],
)
def test_what_is_no_package_is_refused(data: bytes) -> None:
    with pytest.raises(Problem, match="not a FHIR package"):
        list(package.resources(io.BytesIO(data)))


def test_a_file_that_is_not_json_is_refused() -> None:
    with pytest.raises(Problem, match="valid JSON"):
        list(package.resources(packed(package__a_json=b"{")))


def test_more_than_any_package_has_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "MOST_BYTES", 10)
    with pytest.raises(Problem, match="more than 10 bytes"):
        list(package.files(packed(package__a_json=b"[1,2,3,4,5,6]")))
    monkeypatch.setattr(package, "MOST_TOTAL", 10)
    with pytest.raises(Problem, match="larger than any"):
        list(package.files(packed(elsewhere=b"[1,2,3,4,5,6]")))
