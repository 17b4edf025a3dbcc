"""SMART scopes, versions 1 and 2, as values: parsed, printed, compared and intersected by meaning, never as strings.

SMART App Launch 2.2, scopes and launch context: `level/Type.letters?param=value&...`, letters an ordered subset of
`cruds`; version 1 says `read` (rs), `write` (cud) and `*` (cruds).
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import quote, unquote_plus

from fhirserver.fhir.problem import problem

LETTERS = "cruds"
LEVELS = ("patient", "user", "system")
ACTIONS = {"c": "Create", "r": "Read", "u": "Update", "d": "Delete", "s": "Search"}
OTHER = (
    "openid",
    "profile",
    "email",
    "fhirUser",
    "offline_access",
    "online_access",
    "launch",
    "launch/patient",
    "launch/encounter",
)
"""The scopes that are about the person and the launch, not about resources."""

MOST_CHARACTERS = 8192
MOST_SCOPES = 300

_VERSION_1 = {"read": "rs", "write": "cud", "*": LETTERS}
_RESOURCE = re.compile(r"(patient|user|system)/(\*|[A-Z][A-Za-z]{0,63})\.(\*|[a-z]{1,5})(?:\?([!-~]{1,1000}))?")
_LETTERS = re.compile("c?r?u?d?s?")

Params = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Scope:
    """One resource scope. `type` may be `*`; `params` are search parameters that all must match; `written` is how it
    was spelled.
    """

    level: str
    type: str
    letters: str
    params: Params = ()
    written: str = field(default="", compare=False)

    def __str__(self) -> str:
        tail = "&".join(f"{name}={quote(value, safe='|:/,$.-_')}" for name, value in self.params)
        return f"{self.level}/{self.type}.{self.letters}{'?' + tail if tail else ''}"

    def covers(self, level: str, type_: str, letter: str, params: Params = ()) -> bool:
        """Whether this scope alone permits the letter on the type, with at most the narrowing that `params` has
        anyway.
        """
        return (
            self.level == level
            and self.type in ("*", type_)
            and letter in self.letters
            and set(self.params) <= set(params)
        )


@dataclass(frozen=True, slots=True)
class Scopes:
    """A set of scopes: those on resources, and the others (`openid`, `offline_access`, ...), each in the order
    given.
    """

    resource: tuple[Scope, ...] = ()
    other: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " ".join([*self.other, *map(str, self.resource)])

    def __bool__(self) -> bool:
        return bool(self.resource or self.other)

    def alternatives(self, level: str, type_: str, letter: str) -> tuple[Params, ...] | None:
        """What permits the letter on the type at this level: `()` everything, else one Params per alternative, None
        nothing.
        """
        found = [s.params for s in self.resource if s.level == level and s.type in ("*", type_) and letter in s.letters]
        if not found:
            return None
        return () if () in found else tuple(dict.fromkeys(found))

    def covers(self, other: Scopes) -> bool:
        """Whether everything `other` permits is permitted here: `system/*.cruds` covers `system/Patient.rs`."""
        return set(other.other) <= set(self.other) and all(
            any(mine.covers(theirs.level, theirs.type, letter, theirs.params) for mine in self.resource)
            for theirs in other.resource
            for letter in theirs.letters
        )


def parse(text: str, types: Container[str]) -> Scopes:
    """The scopes of a space-separated text. `types` are the resource types that exist.

    Raises Problem(value) naming the first scope that is malformed, out of order, unknown or about an unknown type.
    """
    if len(text) > MOST_CHARACTERS:
        raise problem("value", f"The scope has {len(text)} characters; {MOST_CHARACTERS} are allowed.")
    words = list(dict.fromkeys(text.split()))
    if len(words) > MOST_SCOPES:
        raise problem("value", f"There are {len(words)} scopes; {MOST_SCOPES} are allowed.")
    resource = merged(_scope(word, types) for word in words if word not in OTHER)
    return Scopes(resource, tuple(word for word in words if word in OTHER))


@lru_cache(maxsize=4096)
def cached(text: str, types: frozenset[str]) -> Scopes:
    """`parse` for texts that come again with every request: token, client and authorization scopes."""
    return parse(text, types)


def _scope(word: str, types: Container[str]) -> Scope:
    match = _RESOURCE.fullmatch(word)
    if not match:
        raise problem(
            "value", f"'{word[:100]}' is not a scope: write for example system/Patient.rs or one of {', '.join(OTHER)}."
        )
    level, type_, permissions, tail = match.groups()
    if type_ != "*" and type_ not in types:
        raise problem("value", f"The scope '{word[:100]}' names {type_}, which is not a resource type of this server.")
    letters = _VERSION_1.get(permissions, permissions)
    if not _LETTERS.fullmatch(letters):
        raise problem(
            "value",
            f"The scope '{word[:100]}' needs its letters in the order {LETTERS}, each once, or read, write or *.",
        )
    return Scope(level, type_, letters, _params(word, type_, permissions, tail), word)


def _params(word: str, type_: str, permissions: str, tail: str | None) -> Params:
    if tail is None:
        return ()
    if permissions in _VERSION_1 or type_ == "*":
        raise problem(
            "value",
            f"The scope '{word[:100]}' may have search parameters only with one type and the letters {LETTERS}.",
        )
    params = []
    for part in tail.split("&"):
        name, equals, value = part.partition("=")
        if not (name and equals and value) or name.startswith("_"):
            raise problem("value", f"The scope '{word[:100]}' needs its parameters as name=value&name=value.")
        params.append((unquote_plus(name), unquote_plus(value)))
    return tuple(dict.fromkeys(params))


def merged(scopes: Iterable[Scope]) -> tuple[Scope, ...]:
    """The same permissions with one scope for each level, type and parameters, none of them covered by another."""
    letters: dict[tuple[str, str, Params], Scope] = {}
    for scope in scopes:
        key = (scope.level, scope.type, scope.params)
        letters[key] = _joined(letters[key], scope) if key in letters else scope
    found = tuple(letters.values())
    return tuple(scope for scope in found if not _redundant(scope, found))


def _joined(one: Scope, two: Scope) -> Scope:
    both = "".join(letter for letter in LETTERS if letter in one.letters or letter in two.letters)
    return one if both == one.letters else two if both == two.letters else Scope(one.level, one.type, both, one.params)


def _redundant(scope: Scope, among: Iterable[Scope]) -> bool:
    others = [other for other in among if other is not scope]
    return bool(scope.letters) and all(
        any(other.covers(scope.level, scope.type, letter, scope.params) for other in others) for letter in scope.letters
    )


def intersection(one: Scopes, two: Scopes) -> Scopes:
    """What both permit. A scope of `one` that `two` covers wholly keeps its spelling in `written`."""
    return Scopes(
        merged(part for mine in one.resource for part in _within(mine, two)),
        tuple(word for word in one.other if word in two.other),
    )


def _within(scope: Scope, allowed: Scopes) -> Iterator[Scope]:
    if all(any(a.covers(scope.level, scope.type, x, scope.params) for a in allowed.resource) for x in scope.letters):
        yield scope
        return
    for other in allowed.resource:
        types = {scope.type, other.type} - {"*"}
        letters = "".join(letter for letter in scope.letters if letter in other.letters)
        if other.level == scope.level and len(types) < 2 and letters:
            params = tuple(dict.fromkeys((*scope.params, *other.params)))
            yield Scope(scope.level, next(iter(types), "*"), letters, params)


def granted(requested: Scopes, allowed: Scopes) -> str:
    """The text of the scopes granted: what was asked and is allowed, spelled as it was asked where it is granted
    whole.
    """
    both = intersection(requested, allowed)
    return " ".join([*both.other, *(scope.written or str(scope) for scope in both.resource)])


def actions(scopes: Scopes) -> list[tuple[str, str]]:
    """The (resource type, action) pairs for people: `("Patient", "Read")`; type `*` for every type. Narrowing is added
    in brackets.
    """
    pairs = []
    for scope in scopes.resource:
        narrow = " and ".join(f"{name} is {value}" for name, value in scope.params)
        name = f"{scope.type} ({narrow})" if narrow else scope.type
        pairs += [(name, ACTIONS[letter]) for letter in scope.letters]
    return list(dict.fromkeys(pairs))


def sentence(scopes: Scopes) -> str:
    """The scopes in words: `Read Patient, Search Patient, Create any resource`."""
    return ", ".join(f"{action} {'any resource' if name == '*' else name}" for name, action in actions(scopes))
