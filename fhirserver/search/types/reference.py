"""Reference parameters: by id, type and id, absolute URL, version, canonical URL; `:identifier` and `:[type]`.

FHIR R4: search#reference. s.<p>: "Patient/1" (also "Patient/1/_history/2" where a version is given) or the absolute
URL; canonicals as "url" and "url|version"; s.<p>:identifier: the tokens of Reference.identifier.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from fhirserver.search.text import one_of, unescape
from fhirserver.search.types import token
from fhirserver.search.types.model import Context, Found, SearchType, Values
from fhirserver.search.types.string import key

ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")
RELATIVE = re.compile(r"([A-Z][A-Za-z0-9]*)/([A-Za-z0-9\-.]{1,64})(?:/_history/([A-Za-z0-9\-.]{1,64}))?")
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:\S+")


def indexer(base: str) -> Callable[[str, Values, Found], None]:
    """The index function of a server whose absolute references begin with `base`; they are indexed as relative ones
    too."""
    own = f"{base}/" if base else ""

    def index(name: str, values: Values, found: Found) -> None:
        references: list[str] = []
        identifiers: list[str] = []
        for type, value in values:
            if value.__class__ is dict:
                text = value.get("reference")
                if isinstance(value.get("identifier"), dict) and type == "Reference":
                    identifiers.extend(token.forms(value["identifier"].get("system"), value["identifier"].get("value")))
                if text is None and "resourceType" in value:
                    text = f"{value['resourceType']}/{value['id']}" if "id" in value else None
            else:
                text = value
            if isinstance(text, str) and text and text[0] != "#":
                references.extend(_forms(text, own))
        found[name] = list(dict.fromkeys(references))
        if identifiers:
            found[f"{name}:identifier"] = list(dict.fromkeys(identifiers))

    return index


def _forms(text: str, own: str) -> list[str]:
    found = [text]
    if own and text.startswith(own):
        found += _forms(text[len(own) :], "")
    if "/_history/" in text:
        found.append(text.split("/_history/", 1)[0])
    elif "|" in text:
        found.append(text.split("|", 1)[0])
    return found


def parse(text: str, context: Context) -> Any:
    """The stored forms that match: a tuple for a reference, a token for `:identifier`."""
    if context.modifier == "identifier":
        return (token.parse(text, context),)
    value = unescape(text, context.parameter)
    base = f"{context.base}/" if context.base else ""
    if base and value.startswith(base):
        value = value[len(base) :]
    modifier_type = context.modifier if context.modifier in context.resource_types else ""
    match = RELATIVE.fullmatch(value)
    if match and match[1] in context.resource_types:
        if modifier_type and match[1] != modifier_type:
            raise context.invalid(f"the reference is to a {match[1]}, the modifier says {modifier_type}.")
        return (value,)
    if ID.fullmatch(value):
        types = (modifier_type,) if modifier_type else context.targets or tuple(sorted(context.resource_types))
        return tuple(f"{type}/{value}" for type in types)
    if _ABSOLUTE.fullmatch(value):
        return (value,)
    raise context.invalid("the value must be an id, Type/id or an absolute URL.")


def filter(path: str, operands: tuple[tuple[str, ...], ...], modifier: str) -> dict[str, Any]:
    values = list(dict.fromkeys(form for operand in operands for form in operand))
    return one_of(f"{path}:identifier" if modifier == "identifier" else path, values)


def matches(found: Mapping[str, Any], name: str, operands: tuple[tuple[str, ...], ...], modifier: str) -> bool:
    values = found.get(f"{name}:identifier" if modifier == "identifier" else name, ())
    return any(form in values for operand in operands for form in operand)


def fields(path: str, modifier: str) -> tuple[str, ...]:
    """The references, or the identifiers beside them."""
    return (f"{path}:identifier",) if modifier == "identifier" else (path,)


REFERENCE = SearchType(
    "reference", (), ("identifier", "above", "below", "[type]"), indexer(""), key, parse, filter, matches, fields
)
