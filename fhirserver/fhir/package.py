"""FHIR packages (npm-style .tgz): the resources in the folder `package`.

FHIR packages specification (packages.fhir.org): a gzipped tar with `package/package.json` and a file per resource.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from typing import IO, Any
from zlib import error as ZlibError

from fhirserver.fhir import Resource
from fhirserver.fhir.json import decode
from fhirserver.fhir.problem import problem

MOST_FILES = 100_000
MOST_BYTES = 64 * 1024 * 1024
"""Of one file."""
MOST_TOTAL = 2 * 1024 * 1024 * 1024


def files(archive: IO[bytes], most_total: int = 0) -> Iterator[tuple[str, bytes]]:
    """Name (without folder) and bytes of the JSON files directly in `package`, in their order.

    Raises Problem: invalid for what is no gzipped tar, too-long beyond the bounds above, or beyond
    `most_total` bytes of all files where it is given.
    """
    total = 0
    try:
        with tarfile.open(fileobj=archive, mode="r|gz") as opened:
            for number, member in enumerate(opened):
                total += member.size
                if number > MOST_FILES or total > (most_total or MOST_TOTAL):
                    raise problem(
                        "too-long", "The package is larger than any that is taken here, and was not read further."
                    )
                folder, _, name = member.name.rpartition("/")
                if folder.removeprefix("./") != "package" or not name.endswith(".json") or not member.isfile():
                    continue
                if member.size > MOST_BYTES:
                    raise problem("too-long", f"{name[:100]} in the package has more than {MOST_BYTES} bytes.")
                content = opened.extractfile(member)
                assert content is not None
                yield name, content.read()
    except (tarfile.TarError, EOFError, OSError, ZlibError):
        raise problem("invalid", "This is not a FHIR package: a gzipped tar with a folder `package`.") from None


def resources(
    archive: IO[bytes], read: Callable[[bytes], Any] = decode, most_total: int = 0
) -> Iterator[tuple[str, Resource]]:
    """File name and resource of every file in a package that is one (package.json and indexes are not).

    Raises Problem as `files` does, and structure for a file that is not JSON.
    """
    for name, data in files(archive, most_total):
        value = read(data)
        if isinstance(value, dict) and isinstance(value.get("resourceType"), str) and not name.startswith("."):
            yield name, value
