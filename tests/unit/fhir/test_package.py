"""Reading FHIR packages, good ones and bad ones."""

from __future__ import annotations

import gzip
import io
import tarfile
import tracemalloc
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


def header(type: bytes, size: int) -> bytes:
    info = tarfile.TarInfo("package/x.json")
    info.type, info.size = type, size
    return info.tobuf(format=tarfile.GNU_FORMAT)


LONG = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)


@pytest.mark.parametrize("type", LONG)
def test_what_is_said_about_a_file_does_not_fill_the_memory(type: bytes) -> None:
    size = 64 * 1024 * 1024
    archive = io.BytesIO(gzip.compress(header(type, size) + bytes(size), compresslevel=1))
    tracemalloc.start()
    try:
        with pytest.raises(Problem, match="not a FHIR package"):
            list(package.resources(archive))
        assert tracemalloc.get_traced_memory()[1] < 16 * 1024 * 1024
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("type", LONG)
def test_headers_about_headers_are_refused(type: bytes) -> None:
    with pytest.raises(Problem, match="not a FHIR package"):
        list(package.resources(io.BytesIO(gzip.compress((header(type, 1) + b"x" + bytes(511)) * 20_000))))


@pytest.mark.parametrize("size", [-1, -512, 1 << 60])
def test_sizes_that_are_none_are_refused(size: int) -> None:
    with pytest.raises(Problem):
        list(package.resources(io.BytesIO(gzip.compress((header(tarfile.REGTYPE, size) + bytes(512)) * 3))))


def test_a_file_with_holes_is_refused() -> None:
    with pytest.raises(Problem, match="not a FHIR package"):
        list(package.resources(io.BytesIO(gzip.compress(header(tarfile.GNUTYPE_SPARSE, 512) + bytes(10_240)))))


@pytest.mark.parametrize(
    "name", ["/package/a.json", "../package/a.json", "package/../package/a.json", "package/.a.json"]
)
def test_names_that_lead_elsewhere_are_no_files_of_the_package(name: str) -> None:
    info, made = tarfile.TarInfo(name), io.BytesIO()
    info.size = 2
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        archive.addfile(info, io.BytesIO(b"{}"))
    made.seek(0)
    assert list(package.resources(made)) == []
