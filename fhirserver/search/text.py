"""Search text: the escapes of parameter values, and the normal form in which strings are compared.

FHIR R4: search#escaping, search#string (matches ignore case, accents and combining characters).
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from fhirserver.fhir.problem import problem

STRING_LIMIT = 1024
"""Strings are compared on this many characters, in an index entry and in a query alike."""

_UNESCAPE = re.compile(r"\\(.)", re.DOTALL)
_SHORT = 48
"""Characters: normal forms of texts up to here are remembered."""
_MARKS = frozenset({"Mn", "Mc", "Me"})


def split(text: str, separator: str) -> list[str]:
    """The parts of a value between unescaped separators, their escapes untouched."""
    if "\\" not in text:
        return text.split(separator)
    parts, start, at = [], 0, 0
    while at < len(text):
        if text[at] == "\\":
            at += 2
            continue
        if text[at] == separator:
            parts.append(text[start:at])
            start = at + 1
        at += 1
    parts.append(text[start:])
    return parts


def unescape(text: str, parameter: str) -> str:
    r"""The text with `\,`, `\|`, `\$` and `\\` resolved. Raises Problem(invalid) for any other escape."""
    if "\\" not in text:
        return text
    for match in re.finditer(r"\\(.?)", text, re.DOTALL):
        if match.group(1) not in (",", "|", "$", "\\") or not match.group(1):
            raise problem(
                "invalid",
                f"{parameter}: a backslash may only stand before a comma, |, $ or a backslash; write \\\\ for one.",
                f"http.{parameter}",
            )
    return _UNESCAPE.sub(r"\1", text)


def normal(text: str) -> str:
    """The form strings are compared in: no case, no accents or combining marks, single spaces."""
    return _short(text) if len(text) <= _SHORT else _normal(text)


def _normal(text: str) -> str:
    if text.isascii():
        return " ".join(text[:STRING_LIMIT].lower().split())
    apart = unicodedata.normalize("NFKD", text[:STRING_LIMIT]).casefold()
    apart = unicodedata.normalize("NFKD", apart)
    bare = "".join(c for c in apart if unicodedata.category(c) not in _MARKS)
    return " ".join(bare.split())[:STRING_LIMIT]


# The same names, cities and codes come again and again, and in several parameters of one resource.
_short = lru_cache(maxsize=4096)(_normal)


def after_prefix(prefix: str) -> str | None:
    """The least string greater than every string that starts with `prefix`, by code point; None when there is none."""
    for end in range(len(prefix), 0, -1):
        code = ord(prefix[end - 1])
        if code < 0x10FFFF:
            step = 0xE000 if code == 0xD7FF else code + 1  # the surrogates are no characters
            return prefix[: end - 1] + chr(step)
    return None


def starts_with(path: str, prefix: str) -> dict[str, object]:
    """The MongoDB condition that some string in the array at `path` starts with `prefix`, as an index range."""
    span: dict[str, str] = {"$gte": prefix}
    end = after_prefix(prefix)
    if end is not None:
        span["$lt"] = end
    return {path: {"$elemMatch": span}}


def one_of(path: str, values: list[str]) -> dict[str, object]:
    """The MongoDB condition that the array at `path` holds one of the values."""
    return {path: values[0]} if len(values) == 1 else {path: {"$in": values}}


def any_of(conditions: list[dict[str, object]]) -> dict[str, object]:
    """The MongoDB condition that one of the conditions holds; that nothing matches when there is none."""
    if not conditions:
        return {"_id": {"$in": []}}
    return conditions[0] if len(conditions) == 1 else {"$or": conditions}


def all_of(conditions: list[dict[str, object]]) -> dict[str, object]:
    """The MongoDB condition that all of the conditions hold."""
    # What an access and a caller both ask is asked once: asked twice of an array it would not be answered by its index.
    kept = [condition for at, condition in enumerate(conditions) if condition and condition not in conditions[:at]]
    if not kept:
        return {}
    return kept[0] if len(kept) == 1 else {"$and": kept}
