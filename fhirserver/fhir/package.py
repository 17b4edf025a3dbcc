"""FHIR packages (npm-style .tgz): the resources in the folder `package`.

FHIR packages specification (packages.fhir.org): a gzipped tar with `package/package.json` and a file per resource.
"""

from __future__ import annotations

import gzip
import tarfile
from collections.abc import Callable, Iterator
from typing import IO, Any, cast
from zlib import error as ZlibError

from fhirserver.fhir import Resource
from fhirserver.fhir.json import decode
from fhirserver.fhir.problem import problem

NO_PACKAGE = "This is not a FHIR package: a gzipped tar with a folder `package`."
MOST_FILES = 100_000
MOST_BYTES = 64 * 1024 * 1024
"""Of one file."""
MOST_TOTAL = 2 * 1024 * 1024 * 1024
MOST_BETWEEN = 1024 * 1024
"""Of what an archive says between two files: the library takes it in at once, whatever length it claims."""


class _Unpacked:
    """The bytes of a gzipped stream, as many as `left` says."""

    def __init__(self, archive: IO[bytes]) -> None:
        self._stream = gzip.GzipFile(fileobj=archive)
        self.left = MOST_BETWEEN

    def read(self, size: int) -> bytes:
        """The next bytes. Raises Problem(invalid) beyond `left`."""
        data = self._stream.read(size)
        self.left -= len(data)
        if self.left < 0:
            raise problem("invalid", NO_PACKAGE)
        return data


def files(archive: IO[bytes], most_total: int = 0) -> Iterator[tuple[str, bytes]]:
    """Name (without folder) and bytes of the JSON files directly in `package`, in their order.

    Raises Problem: invalid for what is no gzipped tar, too-long beyond the bounds above, or beyond
    `most_total` bytes of all files where it is given.
    """
    total, unpacked = 0, _Unpacked(archive)
    try:
        with tarfile.open(fileobj=cast(IO[bytes], unpacked), mode="r|") as opened:
            for number, member in enumerate(opened):
                total += member.size
                unpacked.left = member.size + MOST_BETWEEN
                if member.issparse():  # it has other sizes than it says
                    raise problem("invalid", NO_PACKAGE)
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
    except (tarfile.TarError, EOFError, OSError, ZlibError, RecursionError):  # a header may be about a header
        raise problem("invalid", NO_PACKAGE) from None


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
