"""Patterns of JSON in JSON: what the pattern names must be there and match; what it does not name is not looked at.

An object matches one that has its members, an array one whose items match in order, a text itself. A text may also say
`present?`, `nil?`, `not-blank?`, `#regex`, or `.path.to` another value of the whole (both must be there). An object
with one member may be `$not`, `$enum`, `$one-of`, `$contains` or `$every`.

The size of a pattern and the number of steps of a comparison are bounded: who writes a pattern may not be the one who
sends what it is compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from jsonschema_rs import Draft7Validator, RegexOptions, ValidationError

from fhirserver.fhir.problem import problem

MOST_DEPTH = 20
MOST_STEPS = 100_000
LETTERS = 1_000
"""Letters that a regular expression reads in one step."""
_ABSENT: Any = object()


class TooCostly(Exception):
    """The comparison takes more steps than it may: nothing is known of its result, not even by `$not`."""


@dataclass(slots=True)
class Whole:
    """All that a pattern is compared with, and the steps that are left."""

    value: Any
    left: int = MOST_STEPS

    def step(self, count: int = 1) -> None:
        """Takes steps. Raises TooCostly when there are none left."""
        self.left -= count
        if self.left < 0:
            raise TooCostly


Test = Callable[[Any, Whole], bool]
"""(value, the whole) -> whether it matches; the value may be absent."""


def matcher(value: Any) -> Callable[[Any], bool]:
    """The pattern as a test of a whole. Raises Problem(value) as `pattern` does; the test raises TooCostly."""
    test = pattern(value)
    return lambda whole: test(whole, Whole(whole))


def pattern(value: Any, depth: int = 0) -> Test:
    """The test of a pattern. Raises Problem(value) for one that is nested too deeply or says what is not known."""
    if depth > MOST_DEPTH:
        raise problem("value", "The pattern is nested too deeply.", "AccessPolicy.pattern")
    if isinstance(value, Mapping):
        special = next(iter(value), "")
        if special.startswith("$"):
            return _special(special, value, depth)
        return _members({name: pattern(part, depth + 1) for name, part in value.items()})
    if isinstance(value, list):
        return _items([pattern(part, depth + 1) for part in value])
    if isinstance(value, str):
        return _text(value)
    return lambda found, whole: _same(found, value)


def _members(parts: Mapping[str, Test]) -> Test:
    def test(found: Any, whole: Whole) -> bool:
        whole.step(1 + len(parts))
        held = found if isinstance(found, Mapping) else {}
        # An absent object has no members: `nil?` below it matches, and so must be able to be asked.
        return (found is _ABSENT or isinstance(found, Mapping)) and all(
            part(held.get(name, _ABSENT), whole) for name, part in parts.items()
        )

    return test


def _items(parts: list[Test]) -> Test:
    def test(found: Any, whole: Whole) -> bool:
        whole.step(1 + len(parts))
        return (
            isinstance(found, list)
            and len(found) >= len(parts)
            and all(part(item, whole) for part, item in zip(parts, found, strict=False))
        )

    return test


def _text(text: str) -> Test:
    if text in _WORDS:
        word = _WORDS[text]
        return lambda found, whole: word(found)
    if text.startswith("#"):
        matches = _regex(text[1:])

        def searched(found: Any, whole: Whole) -> bool:
            if not isinstance(found, str):
                return False
            whole.step(1 + len(found) // LETTERS)
            return matches(found)

        return searched
    if text.startswith("."):
        path = text[1:].split(".")

        def equal(found: Any, whole: Whole) -> bool:
            whole.step(1 + len(path))
            other = _at(whole.value, path)
            return found is not _ABSENT and other is not _ABSENT and _same(found, other)

        return equal
    return lambda found, whole: _same(found, text)


_WORDS: Mapping[str, Callable[[Any], bool]] = {
    "present?": lambda found: found is not _ABSENT and found is not None,
    "nil?": lambda found: found is _ABSENT or found is None,
    "not-blank?": lambda found: isinstance(found, str) and bool(found.strip()),
}


def _special(name: str, value: Mapping[str, Any], depth: int) -> Test:
    if len(value) != 1 or name not in _SPECIALS:
        known = ", ".join(_SPECIALS)
        text = f"An object that begins with $ has that one member, one of {known}."
        raise problem("value", text, "AccessPolicy.pattern")
    return _SPECIALS[name](value[name], depth + 1)


def _not(value: Any, depth: int) -> Test:
    test = pattern(value, depth)
    return lambda found, whole: not test(found, whole)


def _one_of(value: Any, depth: int) -> Test:
    if not isinstance(value, list) or not value:
        raise problem("value", "$enum and $one-of take an array that is not empty.", "AccessPolicy.pattern")
    tests = [pattern(each, depth) for each in value]
    return lambda found, whole: any(_stepped(test, found, whole) for test in tests)


def _contains(value: Any, depth: int) -> Test:
    test = pattern(value, depth)
    return lambda found, whole: isinstance(found, list) and any(_stepped(test, item, whole) for item in found)


def _every(value: Any, depth: int) -> Test:
    test = pattern(value, depth)
    return lambda found, whole: (
        isinstance(found, list) and bool(found) and all(_stepped(test, item, whole) for item in found)
    )


def _stepped(test: Test, found: Any, whole: Whole) -> bool:
    whole.step()
    return test(found, whole)


_SPECIALS: Mapping[str, Callable[[Any, int], Test]] = {
    "$not": _not,
    "$enum": _one_of,
    "$one-of": _one_of,
    "$contains": _contains,
    "$every": _every,
}


@lru_cache(1_000)
def _regex(text: str) -> Callable[[str], bool]:
    """A regular expression that takes linear time, whatever it is matched with."""
    try:
        return Draft7Validator({"pattern": text}, pattern_options=RegexOptions(), offline=True).is_valid
    except (ValueError, ValidationError):
        raise problem("value", f"{text[:100]!r} is no regular expression.", "AccessPolicy.pattern") from None


def _same(found: Any, value: Any) -> bool:
    return isinstance(found, bool) == isinstance(value, bool) and bool(found == value)


def _at(whole: Any, path: list[str]) -> Any:
    for name in path:
        if not isinstance(whole, Mapping) or name not in whole:
            return _ABSENT
        whole = whole[name]
    return whole
