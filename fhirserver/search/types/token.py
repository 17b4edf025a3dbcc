"""Token parameters: codes and identifiers, with or without their system; `:not`, `:text`, `:of-type`, `:in`, ...

FHIR R4: search#token (matches are literal but not case-sensitive). s.<p>: "code" and "system|code", or "|code" that
says there is no system; "system|" is asked as the start of the second. s.<p>:text: normal forms of texts;
s.<p>:of-type: "system|code|value" of typed identifiers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fhirserver.search.text import any_of, normal, one_of, split, starts_with, unescape
from fhirserver.search.types.model import Context, Found, SearchType, Values
from fhirserver.search.types.string import key as least_and_greatest


def _safe(text: str) -> str:
    """A part of a stored token, in which a | is always the one between system and code."""
    if "|" in text or "\\" in text:
        return text.replace("\\", "\\\\").replace("|", "\\p")
    return text


def stored(system: str | None, code: str | None) -> str:
    """The stored form that a query for this system and code asks for. None is not said, system "" is no system."""
    if system is None:
        return _safe((code or "").casefold())
    return f"{_safe(system)}|{_safe((code or '').casefold())}"


def forms(system: Any, code: Any) -> Iterable[str]:
    """Every stored form of a system and code."""
    if not isinstance(code, str) or not code:
        return (f"{_safe(system)}|",) if isinstance(system, str) and system else ()
    bare = _safe(code.casefold())
    if not isinstance(system, str) or not system:
        return (bare, f"|{bare}")
    return (bare, f"{_safe(system)}|{bare}")


def _concept(value: Mapping[str, Any], tokens: list[str], labels: list[Any], typed: list[str]) -> None:
    for coding in value.get("coding") or ():
        _coding(coding, tokens, labels, typed)
    labels.append(value.get("text"))


def _coding(value: Mapping[str, Any], tokens: list[str], labels: list[Any], typed: list[str]) -> None:
    tokens.extend(forms(value.get("system"), value.get("code")))
    labels.append(value.get("display"))


def _identifier(value: Mapping[str, Any], tokens: list[str], labels: list[Any], typed: list[str]) -> None:
    system, text, type = value.get("system"), value.get("value"), value.get("type")
    tokens.extend(forms(system, text))
    if isinstance(type, dict):
        labels.append(type.get("text"))
        for coding in type.get("coding") or ():
            if isinstance(coding.get("code"), str) and isinstance(text, str):
                typed.append(f"{stored(coding.get('system') or '', coding['code'])}|{_safe(text.casefold())}")


def _reference(value: Mapping[str, Any], tokens: list[str], labels: list[Any], typed: list[str]) -> None:
    if isinstance(value.get("identifier"), dict):
        _identifier(value["identifier"], tokens, labels, typed)


def _other(value: Mapping[str, Any], tokens: list[str], labels: list[Any], typed: list[str]) -> None:
    tokens.extend(forms(value.get("system"), value.get("code") or value.get("value")))


_READ = {
    "CodeableConcept": _concept,
    "Coding": _coding,
    "Identifier": _identifier,
    "Reference": _reference,
}


def index(name: str, values: Values, found: Found) -> None:
    tokens: list[str] = []
    labels: list[Any] = []
    typed: list[str] = []
    for type, value in values:
        if value.__class__ is dict:
            _READ.get(type, _other)(value, tokens, labels, typed)
        elif value is True or value is False:
            tokens.extend(forms(None, "true" if value else "false"))
        else:
            tokens.extend(forms(None, str(value)))
    found[name] = tokens if len(values) == 1 and len(tokens) <= 2 else list(dict.fromkeys(tokens))
    texts = [normal(label) for label in labels if label.__class__ is str]
    if texts:
        found[f"{name}:text"] = list(dict.fromkeys(texts))
    if typed:
        found[f"{name}:of-type"] = list(dict.fromkeys(typed))


def key(values: list[Any]) -> tuple[Any, Any] | None:
    """The least and the greatest code, without systems."""
    return least_and_greatest([value for value in values if "|" not in value])


def parse(text: str, context: Context) -> str:
    if context.modifier == "text":
        value = normal(unescape(text, context.parameter))
        if not value:
            raise context.invalid("the text to look for is empty.")
        return value
    parts = [unescape(part, context.parameter) for part in split(text, "|")]
    if context.modifier == "of-type":
        if len(parts) != 3 or not parts[1] or not parts[2]:
            raise context.invalid("write the type's system, its code and the identifier's value: system|code|value.")
        return f"{stored(parts[0], parts[1])}|{_safe(parts[2].casefold())}"
    if len(parts) > 2:
        raise context.invalid("more than one | in a token; write \\| for one that belongs to the code.")
    if not any(parts):
        raise context.invalid("the value is empty; write code, system|code, system| or |code.")
    return stored(None, parts[0]) if len(parts) == 1 else stored(parts[0], parts[1])


def filter(path: str, operands: tuple[str, ...], modifier: str) -> dict[str, Any]:
    if modifier == "text":
        return any_of([starts_with(f"{path}:text", operand) for operand in operands])
    if modifier == "of-type":
        return one_of(f"{path}:of-type", list(operands))
    whole = [operand for operand in operands if operand[-1:] != "|"]
    systems = [starts_with(path, operand) for operand in operands if operand[-1:] == "|"]
    return any_of([one_of(path, whole), *systems] if whole else systems)


def matches(found: Mapping[str, Any], name: str, operands: tuple[str, ...], modifier: str) -> bool:
    if modifier == "text":
        return any(text.startswith(operand) for text in found.get(f"{name}:text", ()) for operand in operands)
    values = found.get(f"{name}:of-type" if modifier == "of-type" else name, ())
    return any(
        any(value.startswith(operand) for value in values) if operand[-1:] == "|" else operand in values
        for operand in operands
    )


def fields(path: str, modifier: str) -> tuple[str, ...]:
    """The values, or the side field that the modifier asks."""
    return (f"{path}:{modifier}",) if modifier in ("text", "of-type") else (path,)


TOKEN = SearchType(
    "token",
    (),
    ("not", "text", "in", "not-in", "above", "below", "of-type"),
    index,
    key,
    parse,
    filter,
    matches,
    fields,
)
