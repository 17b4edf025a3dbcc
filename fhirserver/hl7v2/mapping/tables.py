"""Code tables: FHIR ConceptMaps under mappings/tables, read into dictionaries.

FHIR R4: conceptmap. A table may say what an unmapped code becomes (`group.unmapped`, mode `fixed` or `provided`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fhirserver.fhir.problem import problem


@dataclass(frozen=True, slots=True)
class Mapped:
    """The target of a code."""

    code: str
    system: str = ""
    display: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A ConceptMap: source code -> target. `source` is the system of its source codes. `fallback` answers for every
    other code, `provided` lets the code through as it is."""

    name: str
    source: str
    codes: Mapping[str, Mapped]
    fallback: Mapped | None = None
    provided: bool = False

    def translate(self, code: str) -> Mapped | None:
        """What a code is mapped to; codes are compared as written, then in upper case."""
        found = self.codes.get(code) or self.codes.get(code.upper())
        if found is None and self.provided:
            return Mapped(" ".join(code.split()))
        return found or self.fallback


def table(resource: Mapping[str, Any]) -> Table:
    """The Table of a ConceptMap. Raises Problem(invalid) where it is not one, or maps one code twice."""
    name = str(resource.get("id", ""))
    if resource.get("resourceType") != "ConceptMap" or not name:
        raise problem("invalid", f"table {name or '?'} is no ConceptMap with an id")
    codes: dict[str, Mapped] = {}
    fallback, provided, source = None, False, ""
    for group in resource.get("group", ()):
        source = source or group.get("source", "")
        for element in group.get("element", ()):
            if element["code"] in codes:
                raise problem("invalid", f"table {name} maps {element['code']} twice")
            targets = [t for t in element.get("target", ()) if "code" in t and t.get("equivalence") != "unmatched"]
            if targets:
                codes[element["code"]] = _mapped(targets[0], group)
        unmapped = group.get("unmapped", {})
        provided = provided or unmapped.get("mode") == "provided"
        fallback = _mapped(unmapped, group) if unmapped.get("mode") == "fixed" else fallback
    return Table(name, source, codes, fallback, provided)


def _mapped(target: Mapping[str, Any], group: Mapping[str, Any]) -> Mapped:
    return Mapped(target["code"], group.get("target", ""), target.get("display", ""))
