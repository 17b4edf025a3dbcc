"""Writes docs/operate/settings.md from fhirserver.settings; a house test fails while the page says something else."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from fhirserver.settings import Secret, Settings, variable

PAGE = Path(__file__).resolve().parent.parent / "docs" / "operate" / "settings.md"

_HEAD = """# Settings

Made from `fhirserver/settings.py` by `make settings-page`: change it there.

Everything is set by environment variables and read once, at the start. A variable that begins with `FHIRSERVER_`
and is not in this list stops the start, as does a value that cannot be: all faults are listed at once. An empty
variable counts as not given. `fhirserver settings` prints what is in force, with secrets masked; `fhirserver check`
also looks at what they point to. The options of `fhirserver up` count more than the variables. Commands beside a
running installation (`fhirserver token`, ...) take its settings from the data folder.

| variable | default | meaning |
|---|---|---|
"""


def page() -> str:
    """The whole page."""
    return _HEAD + "".join(_row(variable(each), each.default, each.metadata["help"]) for each in fields(Settings))


def _row(name: str, default: object, says: str) -> str:
    if isinstance(default, Secret) or default in ("", ()):
        shown = ""
    elif isinstance(default, tuple):
        shown = f"`{','.join(str(part) for part in default)}`"
    else:
        shown = f"`{default}`"
    return f"| `{name}` | {shown} | {says} |\n"


if __name__ == "__main__":
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page())
