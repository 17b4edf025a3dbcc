"""The one list of what can be asked. FHIR R4: http#summary.

Routing, Bundle entries, scope checks, audit subtypes, the CapabilityStatement and the documentation test all read it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fhirserver.auth.access import Access
from fhirserver.fhir.problem import problem
from fhirserver.interactions import batch, capabilities, conditional, history, operations, patch, read, search, write
from fhirserver.interactions.ihe import pix, signals
from fhirserver.interactions.model import Request, Response, Server

Function = Callable[[Server, Request, Access], Response]


@dataclass(frozen=True, slots=True)
class Interaction:
    """One row: the restful-interaction code, its level, HTTP method and path, the SMART letter it needs, its function.

    `letter` is "" where the function itself asks for access (Bundles, operations, the system level), and None where
    no access is needed.
    """

    code: str
    level: str
    method: str
    path: str
    letter: str | None
    function: Function

    @property
    def segments(self) -> tuple[str, ...]:
        return tuple(self.path.split("/")) if self.path else ()


# fmt: off
# ruff: noqa: E501 - a table is read by its columns
INTERACTIONS: tuple[Interaction, ...] = (
    #           code                  level          method    path                            letter function
    Interaction("capabilities",       "system",      "GET",    "metadata",                     None,  capabilities.capabilities),
    Interaction("read",               "instance",    "GET",    "{type}/{id}",                  "r",   read.read),
    Interaction("vread",              "instance",    "GET",    "{type}/{id}/_history/{vid}",   "r",   read.vread),
    Interaction("history-instance",   "instance",    "GET",    "{type}/{id}/_history",         "r",   history.history_instance),
    Interaction("update",             "instance",    "PUT",    "{type}/{id}",                  "u",   write.update),
    Interaction("patch",              "instance",    "PATCH",  "{type}/{id}",                  "u",   patch.patch),
    Interaction("delete",             "instance",    "DELETE", "{type}/{id}",                  "d",   write.delete),
    Interaction("create",             "type",        "POST",   "{type}",                       "c",   conditional.create),
    Interaction("conditional-update", "type",        "PUT",    "{type}",                       "u",   pix.feed),
    Interaction("conditional-patch",  "type",        "PATCH",  "{type}",                       "u",   conditional.patch),
    Interaction("conditional-delete", "type",        "DELETE", "{type}",                       "d",   conditional.delete),
    Interaction("search-type",        "type",        "GET",    "{type}",                       "s",   signals.search_type),
    Interaction("search-type",        "type",        "POST",   "{type}/_search",               "s",   signals.search_type),
    Interaction("history-type",       "type",        "GET",    "{type}/_history",              "s",   history.history_type),
    Interaction("search-compartment", "compartment", "GET",    "{type}/{id}/{member}",         "",    search.search_compartment),
    Interaction("search-compartment", "compartment", "POST",   "{type}/{id}/{member}/_search", "",    search.search_compartment),
    Interaction("search-system",      "system",      "GET",    "",                              "",    search.search_system),
    Interaction("search-system",      "system",      "POST",   "_search",                      "",    search.search_system),
    Interaction("history-system",     "system",      "GET",    "_history",                     "",    history.history_system),
    Interaction("transaction",        "system",      "POST",   "",                              "",    batch.bundle),
    Interaction("operation",          "system",      "GET",    "{operation}",                  "",    operations.operation),
    Interaction("operation",          "system",      "POST",   "{operation}",                  "",    operations.operation),
    Interaction("operation",          "type",        "GET",    "{type}/{operation}",           "",    operations.operation),
    Interaction("operation",          "type",        "POST",   "{type}/{operation}",           "",    operations.operation),
    Interaction("operation",          "instance",    "GET",    "{type}/{id}/{operation}",      "",    operations.operation),
    Interaction("operation",          "instance",    "POST",   "{type}/{id}/{operation}",      "",    operations.operation),
)
# fmt: on
BY_CODE: Mapping[str, Interaction] = {row.code: row for row in reversed(INTERACTIONS)}


def locate(method: str, path: str) -> tuple[Interaction, dict[str, str]]:
    """The row that answers a method and a path below the base, and the path's parts by name.

    Raises Problem: not-found (no such path), not-supported (405 with Allow) where the path exists for other methods.
    """
    if method == "POST" and path.isalpha() and path[0].isupper():
        return BY_CODE["create"], {"type": path}
    parts = tuple(part for part in path.strip("/").split("/") if part)
    allowed: list[str] = []
    for row in _BY_LENGTH.get(len(parts), ()):
        values = _match(row.segments, parts)
        if values is None:
            continue
        if row.method == method:
            return row, values
        allowed.append(row.method)
    if not allowed:
        raise problem("not-found", f"There is nothing at /{'/'.join(parts)[:200]} below this base.")
    raise problem(
        "not-supported",
        f"{method} is not possible here; possible: {', '.join(sorted(set(allowed)))}.",
        status=405,
        headers={"Allow": ", ".join(sorted({*allowed, "OPTIONS"}))},
    )


def _match(segments: tuple[str, ...], parts: tuple[str, ...]) -> dict[str, str] | None:
    values: dict[str, str] = {}
    for segment, part in zip(segments, parts, strict=True):
        if not segment.startswith("{"):
            if segment != part:
                return None
        elif _FITS[segment](part):
            values[segment[1:-1]] = part
        else:
            return None
    return values


_FITS: Mapping[str, Callable[[str], bool]] = {
    "{type}": lambda part: part[:1].isupper() and part.isalnum(),
    "{member}": lambda part: part == "*" or (part[:1].isupper() and part.isalnum()),
    "{operation}": lambda part: part.startswith("$"),
    "{id}": lambda part: not part.startswith(("$", "_")),
    "{vid}": lambda part: not part.startswith(("$", "_")),
}
_BY_LENGTH: dict[int, list[Interaction]] = {}
for _row in INTERACTIONS:
    _BY_LENGTH.setdefault(len(_row.segments), []).append(_row)
