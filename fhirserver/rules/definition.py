"""StructureDefinition, SearchParameter and CompartmentDefinition on the registry: they change what the server itself
knows, so one that it could not work with is refused before it is stored. FHIR R4: structuredefinition, searchparameter.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from fhirserver.fhir import Resource
from fhirserver.fhir.definitions import Definitions
from fhirserver.fhir.problem import Issue, Problem, problem
from fhirserver.fhir.validation import validate
from fhirserver.rules.model import CANONICAL, Context, Prepared, Rule
from fhirserver.search.expression import compile_relative

TYPES = ("StructureDefinition", "SearchParameter", "CompartmentDefinition")
_R4 = "4.0.1"
_FAULTS = (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError)
_TYPE = re.compile(r"[A-Z][A-Za-z0-9]{0,63}\Z")
_CODE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_\-]{0,63}\Z")
_BROKEN = (Problem, *_FAULTS)


def create(context: Context, resource: Resource) -> Prepared:
    """Warns of a SearchParameter whose expression cannot be indexed. Raises Problem: business-rule for a type that is
    defined already, invalid for what the server could not work with.
    """
    return Prepared(resource, warnings=tuple(_checked(context.definitions, resource)))


def update(context: Context, previous: Resource, private: Mapping[str, Any], resource: Resource) -> Prepared:
    """As for a create."""
    return Prepared(resource, dict(private), warnings=tuple(_checked(context.definitions, resource)))


def _checked(definitions: Definitions, resource: Resource) -> list[Issue]:
    kind = resource.get("resourceType")
    _require_name(resource)
    if kind == "StructureDefinition" and resource.get("derivation") != "constraint":
        _require_new(definitions, resource)
    try:
        extended = definitions.extended([resource], definitions.generation)
        return list(_unindexed(extended, resource)) if kind == "SearchParameter" else []
    except _FAULTS:
        if not any(issue.severity == "error" for issue in validate(definitions, resource)):
            raise problem("invalid", "This definition cannot be worked with: look through its elements.") from None
        return []


def _require_name(resource: Resource) -> None:
    """A resource type stands in paths and names a collection, a search parameter stands in queries and names a field:
    what means something there already cannot be a name. Those that begin with _ are FHIR's own.
    """
    type_, code = resource.get("type"), resource.get("code")
    if resource.get("resourceType") == "StructureDefinition":
        if resource.get("kind") == "resource" and isinstance(type_, str) and not _TYPE.match(type_):
            text = "The name of a resource type has 1 to 64 letters and digits and begins with a capital letter."
            raise problem("value", text, "StructureDefinition.type")
    elif resource.get("resourceType") == "SearchParameter" and isinstance(code, str):
        own = str(resource.get("url", "")).startswith("http://hl7.org/fhir/")
        if not _CODE.match(code) or (code.startswith("_") and not own):
            text = "The code of a search parameter has 1 to 64 letters, digits, - and _, and does not begin with _."
            raise problem("value", text, "SearchParameter.code")


def _unindexed(definitions: Definitions, resource: Resource) -> Iterator[Issue]:
    for base in resource["base"]:
        if base not in definitions.resource_types or resource["type"] == "composite" or not resource.get("expression"):
            continue
        try:
            compile_relative(definitions, (base,), resource["expression"])
        except Problem as refused:
            text = f"Nothing is found by this parameter on {base}: {refused}"
            yield Issue("not-supported", text, ("SearchParameter.expression",), "warning")


def _require_new(definitions: Definitions, resource: Resource) -> None:
    """A resource type has one definition: R4's own and the server's cannot be replaced, others by themselves only."""
    name, url = resource.get("type"), resource.get("url")
    known = definitions.types.get(name) if isinstance(name, str) else None
    if known is None or resource.get("kind") == "logical":
        return
    official = Definitions.load().types.get(known.name)
    said_again = official is not None and url == official.url and resource.get("version") == _R4
    own = official is None and url == known.url and not known.url.startswith(CANONICAL)
    if not said_again and not own:
        text = f"The type {known.name} is defined by {known.url} already: choose another name, or derive a profile."
        raise problem("business-rule", text, "StructureDefinition.type")


def compiled(
    extend: Callable[[Sequence[Resource]], Definitions], resources: Sequence[Resource]
) -> tuple[Definitions, list[str]]:
    """The definitions with all of the resources that can be used together, and the URLs of the others.

    One that cannot be used (its base was taken away, say) must not stop the server.
    """
    try:
        return extend(resources), []
    except _BROKEN:
        kept, left = _usable(extend, resources)
        return extend(kept), [str(resource.get("url", "")) for resource in left]


def _usable(
    extend: Callable[[Sequence[Resource]], Definitions], resources: Sequence[Resource]
) -> tuple[list[Resource], list[Resource]]:
    kept: list[Resource] = []
    waiting, left = list(resources), list(resources)

    def take(part: list[Resource]) -> None:
        try:
            extend([*kept, *part])
            kept.extend(part)
        except _BROKEN:
            if len(part) == 1:
                left.append(part[0])
            else:
                take(part[: len(part) // 2])
                take(part[len(part) // 2 :])

    while waiting:  # again, as long as what was taken in the last round makes more of them usable
        left = []
        take(waiting)
        if len(left) == len(waiting):
            break
        waiting = left
    return kept, left


RULES = tuple(Rule(type_, create=create, update=update) for type_ in TYPES)
