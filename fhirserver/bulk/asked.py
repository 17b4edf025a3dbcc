"""What the kick-off of an export asks for. FHIR Bulk Data Access 2.0: export#query-parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl

from fhirserver.fhir.definitions import Definitions
from fhirserver.fhir.problem import problem
from fhirserver.interactions.model import Pairs, Request, Server
from fhirserver.interactions.operations import parameters
from fhirserver.search.parse import CONTROLS, parse
from fhirserver.search.types.date import bounds
from fhirserver.search.types.reference import ID

FORMATS = frozenset({"application/fhir+ndjson", "application/ndjson", "ndjson"})
NAMES = ("_outputFormat", "_since", "_until", "_type", "_typeFilter", "_elements", "patient")
UNDONE = ("includeAssociatedData", "organizeOutputBy", "allowPartialManifests")
"""Parameters of the guide that are not done: refused, unless the caller says `Prefer: handling=lenient`."""
MOST_FILTERS = 50
MOST_CRITERIA = 100
"""Of all filters together."""
MOST_PATIENTS = 1_000


@dataclass(frozen=True, slots=True)
class Asked:
    """What an export is to hold. Empty means: no limit of that kind.

    since, until: instants of the last change. filters: of a type, the searches of which one must match. elements: of a
    type ("" for all) its elements. patients: ids.
    """

    types: tuple[str, ...] = ()
    since: datetime | None = None
    until: datetime | None = None
    filters: Mapping[str, tuple[Pairs, ...]] | None = None
    elements: Mapping[str, tuple[str, ...]] | None = None
    patients: tuple[str, ...] = ()


def asked(server: Server, request: Request) -> Asked:
    """What a kick-off asks for. Raises Problem: invalid, value, not-supported (an output format, what is not done)."""
    names = (*NAMES, *UNDONE) if request.prefer.lenient else NAMES
    values = parameters(request, *names)
    form = _text(values, "_outputFormat", "application/fhir+ndjson").replace(" ", "+")
    if form not in FORMATS:
        raise problem("not-supported", f"_outputFormat: only application/fhir+ndjson is made, not {form[:100]}.")
    definitions = server.definitions
    patients = values.get("patient")
    if patients is not None and (request.facts.get("method") == "GET" or not request.type):
        raise problem("invalid", "patient is given by POST in a Parameters resource, to the Patient or Group level.")
    return Asked(
        types=_types(definitions, _listed(values, "_type")),
        since=_instant(values, "_since"),
        until=_instant(values, "_until"),
        filters=_filters(server, request, _several(values, "_typeFilter")),
        elements=_elements(definitions, _listed(values, "_elements")),
        patients=_patients(request, patients),
    )


def _text(values: Mapping[str, Any], name: str, default: str = "") -> str:
    value = values.get(name, default)
    if not isinstance(value, str):
        raise problem("value", f"{name} is given once, as a text.", f"Parameters.parameter.where(name='{name}')")
    return value


def _several(values: Mapping[str, Any], name: str) -> list[str]:
    value = values.get(name, [])
    found = value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) for text in found):
        raise problem("value", f"{name} is a text.", f"Parameters.parameter.where(name='{name}')")
    return found


def _listed(values: Mapping[str, Any], name: str) -> list[str]:
    return [part.strip() for text in _several(values, name) for part in text.split(",") if part.strip()]


def _instant(values: Mapping[str, Any], name: str) -> datetime | None:
    text = _text(values, name)
    return bounds(text.replace(" ", "+"), name)[0] if text else None


def _types(definitions: Definitions, names: Sequence[str]) -> tuple[str, ...]:
    for name in names:
        if name not in definitions.resource_types:
            raise problem("invalid", f"_type: {name[:64]} is not a resource type here.", "_type")
    return tuple(sorted(set(names)))


def _filters(server: Server, request: Request, texts: Sequence[str]) -> dict[str, tuple[Pairs, ...]]:
    if len(texts) > MOST_FILTERS:
        raise problem("too-costly", f"An export may have at most {MOST_FILTERS} _typeFilter.", "_typeFilter")
    found: dict[str, tuple[Pairs, ...]] = {}
    criteria = 0
    for text in texts:
        type, _, query = text.partition("?")
        if type not in server.definitions.resource_types or not query:
            raise problem("invalid", f"_typeFilter is a search such as Observation?category=vital-signs: {text[:100]}")
        try:
            pairs = tuple(parse_qsl(query, keep_blank_values=True, max_num_fields=MOST_FILTERS))
        except ValueError:
            raise problem("too-costly", f"A _typeFilter may have at most {MOST_FILTERS} parameters.") from None
        shaping = [name for name, _ in pairs if name in CONTROLS]
        if shaping:
            raise problem("invalid", f"{shaping[0]} says what an answer looks like: leave it out.", "_typeFilter")
        criteria += len(pairs)
        if criteria > MOST_CRITERIA:
            raise problem("too-costly", f"All _typeFilter together may have {MOST_CRITERIA} parameters.", "_typeFilter")
        parse(server.definitions, type, pairs, base=request.base, strict=True, now=server.now())
        found[type] = (*found.get(type, ()), pairs)
    return found


def _elements(definitions: Definitions, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """`name` for every type, `Patient.name` for one."""
    found: dict[str, tuple[str, ...]] = {}
    for name in names:
        type, dot, element = name.rpartition(".")
        if dot and type not in definitions.resource_types:
            raise problem("invalid", f"_elements: {name[:100]} is not an element at the root of a resource.")
        found[type] = (*found.get(type, ()), element)
    return found


def _patients(request: Request, value: Any) -> tuple[str, ...]:
    found = value if isinstance(value, list) else [] if value is None else [value]
    ids: list[str] = []
    for each in found:
        text = each.get("reference") if isinstance(each, dict) else each
        kind, _, id = str(text).removeprefix(f"{request.base}/").partition("/")
        if kind != "Patient" or not ID.fullmatch(id):
            raise problem("value", "patient is a Reference to a Patient of this base, as in Patient/123.")
        ids.append(id)
    if len(ids) > MOST_PATIENTS:
        raise problem("too-costly", f"patient may be given {MOST_PATIENTS} times; make a Group of more.")
    return tuple(dict.fromkeys(ids))


def kept(wanted: Asked) -> dict[str, Any]:
    """What was asked as a document, for the job that does it."""
    return {
        "types": list(wanted.types),
        "since": wanted.since,
        "until": wanted.until,
        "filters": {type: [[list(pair) for pair in pairs] for pairs in all] for type, all in _of(wanted.filters)},
        "elements": {type or "*": list(names) for type, names in _of(wanted.elements)},
        "patients": list(wanted.patients),
    }


def again(document: Mapping[str, Any]) -> Asked:
    """What was asked, out of the document that `kept` made."""
    filters = {
        type: tuple(tuple((str(name), str(value)) for name, value in pairs) for pairs in all)
        for type, all in document["filters"].items()
    }
    elements = {"" if type == "*" else type: tuple(names) for type, names in document["elements"].items()}
    return Asked(
        tuple(document["types"]),
        document["since"],
        document["until"],
        filters,
        elements,
        tuple(document["patients"]),
    )


def _of(mapping: Mapping[str, Any] | None) -> Sequence[tuple[str, Any]]:
    return list((mapping or {}).items())
