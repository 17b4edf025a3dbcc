"""Writes docs/api/search.md from the tables of fhirserver.search; a house test fails while the page says something
else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

from fhirserver.interactions.search import COMPARTMENTS
from fhirserver.search.criteria import UNSUPPORTED, Limits
from fhirserver.search.parse import CONTROLS
from fhirserver.search.types import TYPES

PAGE = Path(__file__).resolve().parent.parent / "docs" / "api" / "search.md"

_EXAMPLES: Mapping[str, str] = {
    "string": "Patient?family=bram",
    "token": "Patient?identifier=urn:mrn\\|4711",
    "reference": "Observation?subject=Patient/ida",
    "date": "Patient?birthdate=ge1970",
    "number": "RiskAssessment?probability=gt0.8",
    "quantity": "Observation?value-quantity=5.4\\|http://unitsofmeasure.org\\|mg",
    "uri": "ValueSet?url:below=http://example.org/fhir",
    "composite": "Observation?code-value-quantity=8480-6$gt120",
}
_LIMITS: Mapping[str, str] = {
    "pairs": "parameters",
    "length": "characters of all names and values together",
    "values": "values in one comma list",
    "chain": "links of a chain or reverse chain",
    "count": "entries on a page, unless `FHIRSERVER_PAGE_SIZE_MAX` is less",
    "includes": "`_include` and `_revinclude`",
    "sort": "keys of `_sort`",
    "types": "types that a chain without a type may try",
    "lookups": "value sets and hierarchies that are looked up (`:in`, `:not-in`, `:above`, `:below`)",
}
_HEAD = """# Search, parameter by parameter

Made from the tables in `fhirserver/search` by `python tools/search_page.py`: change it there. How a search is asked
and answered is on the page [search-type](search-type.md); which parameters a type has says the CapabilityStatement
(`GET [base]/metadata`).

## Parameter types

| type | for example | prefixes | modifiers |
|---|---|---|---|
"""
_MIDDLE = """
`:missing=true` and `:missing=false` work on every type. `[type]` stands for the name of a resource type
(`subject:Patient=ida`).

- **string** is without regard to case, accents and combining characters, from the start of the text; `:contains`
  looks inside, `:exact` compares as it is.
- **token** is `code`, `system|code`, `system|` (any code of the system) or `|code` (no system). `:in` and `:not-in`
  take the URL of a ValueSet that is stored on the base or the registry; `:above` and `:below` a code of a stored
  CodeSystem; `:of-type` is `system|code|value` of a typed identifier.
- **reference** is `id`, `Type/id` or an absolute URL; `:identifier` takes the token of `Reference.identifier`;
  `:above` and `:below` follow `partOf` in the types that have one to their own (Location, Organization, Encounter ...).
- **date** is a period as wide as what is written: `2020-05` is the whole month. A date without a zone is read in UTC.
- **number** and **quantity** have the range of their precision: `5.4` is from 5.35 to 5.45. Quantities with UCUM
  units are compared in canonical units: `1500 mg` matches `1.5|http://unitsofmeasure.org|g`.
- **composite** is its values with `$` between them; they must hold in the same element.

A comma means *or*, a repeated parameter means *and*. `\\,`, `\\|`, `\\$` and `\\\\` stand for the characters
themselves.

Chains (`Observation?patient.organization.name=ward`, `subject:Patient.name=...`) and reverse chains
(`Patient?_has:Observation:subject:code=8480-6`) may be nested into each other. What the inner searches find is
bounded by the caller's access too.

`_list=[id]` finds what a List names. `_id`, `_lastUpdated`, `_tag`, `_profile`, `_security` and `_source` are on
every type.

Resources inside others are searched with `_contained=true` (only those) or `both`; the answer has their containers,
or with `_containedType=contained` themselves, with the `fullUrl` `[base]/Type/id#id`. A chain looks into contained
resources always (`MedicationRequest?medication.code=abc` finds a Medication inside); `_has` and `_list` never do.

A SearchParameter that is added to the registry is indexed in the background; until that is done, a search by it says
so.

## Parameters of the answer

"""


def page() -> str:
    """The whole page."""
    rows = (
        _row(
            type.name, f"`{_EXAMPLES[type.name]}`", _codes(type.prefixes), _codes(f":{name}" for name in type.modifiers)
        )
        for type in TYPES.values()
    )
    controls = ", ".join(f"`{name}`" for name in CONTROLS if name not in ("_cursor", "_score"))
    limits = "".join(_row(str(value), _LIMITS[name]) for name, value in asdict(Limits()).items())
    missing = "".join(f"- `{name}`: {reason}\n" for name, reason in UNSUPPORTED.items())
    return (
        f"{_HEAD}{''.join(rows)}{_MIDDLE}{controls}.\n\n"
        f"## Compartments\n\n{', '.join(COMPARTMENTS)}; see [search-compartment](search-compartment.md).\n\n"
        f"## Limits\n\n| at most | |\n|---|---|\n{limits}\n"
        f"## Not supported\n\n{missing}"
    )


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |\n"


def _codes(names: Iterable[str]) -> str:
    return " ".join(f"`{name}`" for name in names)


if __name__ == "__main__":
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page())
