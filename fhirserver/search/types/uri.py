"""URI parameters: exact match; `:below` and `:above` along the path of a URL.

FHIR R4: search#uri. s.<p>: the URIs; a canonical URL with its version and without.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fhirserver.search.text import any_of, one_of, starts_with, unescape
from fhirserver.search.types.model import Context, Found, SearchType, Values
from fhirserver.search.types.string import fields, key

_SEGMENTS = 64


def index(name: str, values: Values, found: Found) -> None:
    uris = [value for _, value in values if isinstance(value, str)]
    uris += [value.split("|", 1)[0] for type, value in values if type == "canonical" and "|" in str(value)]
    found[name] = list(dict.fromkeys(uris))


def parse(text: str, context: Context) -> str:
    value = unescape(text, context.parameter)
    if not value or any(c.isspace() for c in value):
        raise context.invalid("the value must be a URI: not empty, without white space.")
    if context.modifier in ("above", "below") and value.startswith("urn:"):
        raise context.invalid(f":{context.modifier} works on URLs, a URN has no hierarchy.")
    if context.modifier == "above" and value.count("/") > _SEGMENTS:
        raise context.invalid(f"a URL of more than {_SEGMENTS} segments cannot be used with :above.")
    return value


def ancestors(url: str) -> list[str]:
    """The URL and every URL above it, each with and without a slash at its end."""
    bare = url.rstrip("/")
    found = [bare, f"{bare}/"]
    floor = bare.find("://") + 2 if "://" in bare else 0
    while (slash := bare.rfind("/")) > floor:
        bare = bare[:slash]
        found += [bare, f"{bare}/"]
    return found


def filter(path: str, operands: tuple[str, ...], modifier: str) -> dict[str, Any]:
    if modifier == "above":
        return one_of(path, list(dict.fromkeys(url for operand in operands for url in ancestors(operand))))
    if modifier == "below":
        bare = [operand.rstrip("/") for operand in operands]
        return any_of([one_of(path, bare), *(starts_with(path, f"{url}/") for url in bare)])
    return one_of(path, list(operands))


def matches(found: Mapping[str, Any], name: str, operands: tuple[str, ...], modifier: str) -> bool:
    values = found.get(name, ())
    if modifier == "above":
        return any(url in values for operand in operands for url in ancestors(operand))
    if modifier == "below":
        bare = [operand.rstrip("/") for operand in operands]
        return any(value == url or value.startswith(f"{url}/") for value in values for url in bare)
    return any(operand in values for operand in operands)


URI = SearchType("uri", (), ("above", "below"), index, key, parse, filter, matches, fields)
