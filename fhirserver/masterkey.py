"""The master key in a data folder: made at the first start, changed on demand, and kept beside the new one for as long
as anything in the database needs it.

Each file is whole or not there, and the former key is written before the new one takes its place: whenever this is
interrupted, every key that the database may need is in the folder.
"""

from __future__ import annotations

import secrets
import time
from pathlib import Path

from fhirserver import embedded

KEY, FORMER = "master.key", "master.key.former"


def present(data: Path) -> tuple[str, str]:
    """The key and, while it is being changed, the one before; "" where there is none."""
    return _read(data / KEY), _read(data / FORMER)


def make(data: Path) -> None:
    """A first key."""
    embedded.write_private(data / KEY, _new())


def change(data: Path) -> bool:
    """A new key instead of the one that is there. False where a change has begun that is not finished."""
    key, former = present(data)
    if former and former != key:
        return False
    embedded.write_private(data / FORMER, key)
    embedded.write_private(data / KEY, _new())
    return True


def finish(data: Path) -> Path:
    """Puts the former key aside, once nothing in the database needs it: backups made before still do. The file."""
    aside = data / f"{KEY}.until-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    (data / FORMER).replace(aside)
    return aside


def _new() -> str:
    return secrets.token_urlsafe(48)


def _read(file: Path) -> str:
    return file.read_text().strip() if file.is_file() else ""
