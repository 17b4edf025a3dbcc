"""Every text of the console, in one catalogue: a YAML file per area under texts/<language>/.

A key is the file's name and the way into it: `application.clients.title`. `{name}` in a text stands for a value; a text
of `one` and `other` is chosen by its `count`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent / "texts"


class Catalogue:
    """The texts of one language."""

    def __init__(self, language: str = "en", folder: Path = FOLDER) -> None:
        self.language = language
        self._texts: dict[str, Any] = {}
        for path in sorted((folder / language).glob("*.yaml")):
            self._take(path.stem, yaml.safe_load(path.read_text()) or {})

    @property
    def keys(self) -> frozenset[str]:
        """Every key."""
        return frozenset(self._texts)

    def text(self, key: str, **values: Any) -> str:
        """The text of a key with its values filled in. Raises KeyError for a key that is not there."""
        found = self._texts[key]
        if isinstance(found, Mapping):
            found = found["one" if values.get("count") == 1 else "other"]
        return str(found).format_map(values) if values else str(found)

    def word(self, family: str, code: str) -> str:
        """The text for a code, `family.code`; the code itself where there is none."""
        found = self._texts.get(f"{family}.{code}")
        return code if found is None else str(found)

    def _take(self, key: str, value: Any) -> None:
        if isinstance(value, Mapping) and set(value) != {"one", "other"}:
            for name, below in value.items():
                self._take(f"{key}.{name}", below)
        else:
            self._texts[key] = value
