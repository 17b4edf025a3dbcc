"""Where an extension may stand: the contexts of its definition. FHIR R4: defining-extensions#context.

Asked by the type of the element that an extension stands on, as far as that decides it: of two elements of one type
both are taken to fit, and contexts that are extensions or FHIRPath are not asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fhirserver.fhir.definitions import Definitions

_ANYWHERE = frozenset({"Element", "*"})
_UNKNOWN = frozenset({"Element", "Extension"})
"""Owners that do not say where they stand: the sibling of a primitive, another extension."""


def contexts_of(structure: Mapping[str, Any]) -> tuple[str, ...]:
    """The elements that an extension's definition names, () where it names something else too."""
    contexts = structure.get("context") or ()
    if any(each.get("type") != "element" for each in contexts):
        return ()
    return tuple(each["expression"] for each in contexts)


def fits(definitions: Definitions, owner: str, contexts: tuple[str, ...]) -> bool:
    """Whether an extension may stand on an element of the type `owner` (`Patient`, `Patient.contact`, `HumanName`)."""
    return not contexts or owner in _UNKNOWN or any(_fits(definitions, owner, each) for each in contexts)


def _fits(definitions: Definitions, owner: str, context: str) -> bool:
    if context in _ANYWHERE or (context not in definitions.types and "." not in context):
        return True
    if context in definitions.types and definitions.is_subtype(owner, context):
        return True
    first, *names = context.split(".")
    types = {first}
    for name in names:
        types = {found for type in types for found in _below(definitions, type, name)}
    return not types or owner in types


def _below(definitions: Definitions, type: str, name: str) -> set[str]:
    """The types of an element of a type."""
    known = definitions.types.get(type)
    if known is None:
        return set()
    name = name.removesuffix("[x]")
    names = known.choices.get(name) or (name,)
    return {known.properties[each].type for each in names if each in known.properties}
