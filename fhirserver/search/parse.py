"""The pairs of a query string to a Query, and back to the pairs of the self link.

FHIR R4: search. Names and values come decoded from the URL or form; what is not understood is refused under
`handling=strict` and listed in `Query.unsupported` otherwise. What is understood and wrong is always refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from typing import Any

from fhirserver.fhir.definitions import Definitions
from fhirserver.fhir.problem import Issue, Problem, problem
from fhirserver.search.criteria import Limits, Reader, Unknown
from fhirserver.search.query import Clause, Include, NeedsCodes, NeedsHierarchy, Query, SortKey, walk
from fhirserver.search.types import TYPES

__all__ = ["CONTROLS", "Limits", "parse", "render"]

_ISSUES = 20
_NO_TEXT = re.compile("[\0\ud800-\udfff]")
_FIELDS = {"_id": "i", "_lastUpdated": "t"}


def parse(
    definitions: Definitions,
    type: str | None,
    pairs: Sequence[tuple[str, str]],
    *,
    base: str = "",
    strict: bool = False,
    now: datetime = datetime(1970, 1, 1, tzinfo=UTC),
    limits: Limits | None = None,
    zone: tzinfo = UTC,
) -> Query:
    """The Query that the pairs ask for on resources of a type; type None searches all types, or those `_type` names.

    base: the FHIR base URL without a slash at its end. now: for the prefix ap. zone: of dates without a time zone.
    Raises Problem with an issue for every parameter at fault: invalid, not-supported, too-costly; its expression is
    `http.<name>`.
    """
    limits = limits or Limits()
    _bounded(pairs, limits)
    state = _State(Reader(definitions, base, now, zone, limits), type, strict)
    issues: list[Issue] = []
    used: list[tuple[int, str, str]] = []
    for position in sorted(range(len(pairs)), key=lambda position: pairs[position][0] != "_type"):
        name, value = pairs[position]
        try:
            shown = _take(state, name, value)
            if shown:
                used.append((position, name, shown))
        except Unknown as unknown:
            if strict:
                issues.append(Issue("not-supported", f"{name}: {unknown}.", (f"http.{name}",)))
            state.unsupported.append((name, str(unknown)))
        except Problem as wrong:
            issues.extend(wrong.issues)
    if issues:
        raise Problem(tuple(issues[:_ISSUES]))
    if sum(map(_lookups, state.clauses)) > limits.lookups:
        text = f"A search may ask for {limits.lookups} value sets and hierarchies (:in, :not-in, :above, :below)."
        raise problem("too-costly", text)
    idle = _together(state)
    effective = tuple((name, shown) for _, name, shown in sorted(used) if name not in idle)
    return Query(type, tuple(state.clauses), used=effective, unsupported=tuple(state.unsupported), **state.result)


def _lookups(clause: Clause) -> int:
    """How many value sets and hierarchies a clause asks for: each is looked up once, of whatever type it is asked."""
    codes, hierarchies = set(), set()
    for part in walk(clause):
        if isinstance(part, NeedsCodes):
            codes.add((part.url, part.system, part.code))
        elif isinstance(part, NeedsHierarchy):
            hierarchies.add((part.modifier, part.references))
    return len(codes) + len(hierarchies)


def render(query: Query) -> list[tuple[str, str]]:
    """The pairs of the self link: what took effect, in the order it was asked."""
    return list(query.used)


@dataclass(slots=True)
class _State:
    reader: Reader
    type: str | None
    strict: bool
    clauses: list[Any] = field(default_factory=list)
    result: dict[str, Any] = field(default_factory=dict)
    unsupported: list[tuple[str, str]] = field(default_factory=list)

    @property
    def types(self) -> tuple[str, ...]:
        """The types searched; Resource stands for all."""
        return (self.type,) if self.type else self.result.get("types") or ("Resource",)

    def once(self, name: str, attribute: str, value: Any) -> None:
        if attribute in self.result:
            raise problem("invalid", f"{name} may be given once.", f"http.{name}")
        self.result[attribute] = value

    def more(self, attribute: str, values: Sequence[Any]) -> None:
        self.result[attribute] = (*self.result.get(attribute, ()), *values)

    def passed_over(self, name: str, value: str, reason: str) -> None:
        """Something known that has no effect here: refused when strict, reported otherwise."""
        if self.strict:
            raise problem("invalid", f"{name}={value[:200]}: {reason}.", f"http.{name}")
        self.unsupported.append((name, reason))


def _bounded(pairs: Sequence[tuple[str, str]], limits: Limits) -> None:
    if len(pairs) > limits.pairs:
        raise problem("too-costly", f"A search may have {limits.pairs} parameters, this one has {len(pairs)}.")
    if sum(len(name) + len(value) for name, value in pairs) > limits.length:
        raise problem("too-costly", f"The parameters of a search may be {limits.length} characters long altogether.")
    for name, value in pairs:
        if _NO_TEXT.search(name) or _NO_TEXT.search(value):
            shown = _NO_TEXT.sub("", name[:64])
            raise problem("invalid", f"{shown} has a NUL character or half a surrogate pair in it.", f"http.{shown}")


def _take(state: _State, name: str, value: str) -> str:
    """Puts one pair into the state; answers the value that took effect, "" where nothing did."""
    if not name:
        raise problem("invalid", "A parameter without a name.")
    if not value:
        raise problem("invalid", f"{name} has no value; use :missing to ask for what has none.", f"http.{name}")
    code, _, modifier = name.partition(":")
    control = _CONTROLS.get(code)
    if control is None:
        state.clauses.append(state.reader.clause(state.types, name, value))
        return value
    if modifier and not (modifier == "iterate" and code in ("_include", "_revinclude")):
        raise problem("not-supported", f"{name}: {code} has no modifier {modifier[:64]}.", f"http.{name}")
    before = len(state.unsupported)
    shown = control(state, name, value)
    return shown if shown is not None else value if len(state.unsupported) == before else ""


def _count(state: _State, name: str, value: str) -> str | None:
    if not (value.isascii() and value.isdecimal() and len(value) <= 9):
        raise problem("invalid", "_count must be a whole number from 0 to 999999999.", "http._count")
    count = min(int(value), state.reader.limits.count)
    state.once(name, "count", count)
    return str(count)


def _sort(state: _State, name: str, value: str) -> str | None:
    parameters = state.reader.parameters(state.types)
    keys, shown = [], []
    for part in value.split(","):
        code = part.removeprefix("-")
        parameter = parameters.get(code)
        if parameter is None or parameter.type not in TYPES or parameter.type == "composite":
            state.passed_over(name, part, f"{state.types[0]} has no parameter {code[:64]} to sort by")
            continue
        descending = part.startswith("-")
        keys.append(SortKey(code, _FIELDS.get(code) or f"k.{code}.{'hi' if descending else 'lo'}", descending))
        shown.append(part)
    if len(keys) > state.reader.limits.sort:
        raise problem("too-costly", f"_sort may have {state.reader.limits.sort} keys.", "http._sort")
    if keys:
        state.once(name, "sort", tuple(keys))
    return ",".join(shown)


def _include(state: _State, name: str, value: str) -> str | None:
    include = _read_include(state, name, value)
    if include.source not in (*state.types, "*") and state.types != ("Resource",) and not include.iterate:
        state.passed_over(name, value, f"{include.source} is not what is searched; use _include:iterate")
        return None
    state.more("includes", [include])
    return None


def _revinclude(state: _State, name: str, value: str) -> str | None:
    include = _read_include(state, name, value)
    parameters = state.reader.definitions.search_parameters(include.source)
    parameter = parameters.get(include.parameter)
    targets = state.reader.targets((include.source,), parameter) if parameter else ()
    if targets and not include.iterate and not {*targets, "Resource"} & set(state.types):
        state.passed_over(name, value, f"{include.parameter} of {include.source} cannot refer to {state.types[0]}")
        return None
    state.more("revincludes", [include])
    return None


def _read_include(state: _State, name: str, value: str) -> Include:
    definitions, limits = state.reader.definitions, state.reader.limits
    if len(state.result.get("includes", ())) + len(state.result.get("revincludes", ())) >= limits.includes:
        raise problem("too-costly", f"{name}: at most {limits.includes} includes.", f"http.{name}")
    iterate = name.endswith(":iterate")
    if value == "*":
        return Include("*", "*", iterate=iterate)
    parts = value.split(":")
    if len(parts) not in (2, 3) or not all(parts):
        raise problem("invalid", f"{name}: write type:parameter or type:parameter:target.", f"http.{name}")
    for type in (parts[0], *parts[2:]):
        state.reader.known_type(type, name)
    parameter = definitions.search_parameters(parts[0]).get(parts[1])
    if parts[1] != "*" and (parameter is None or parameter.type != "reference"):
        raise problem("invalid", f"{name}: {parts[0]} has no reference parameter {parts[1][:64]}.", f"http.{name}")
    targets = state.reader.targets((parts[0],), parameter) if parameter else ()
    if len(parts) == 3 and targets and parts[2] not in targets:
        raise problem("invalid", f"{name}: {parts[1]} cannot refer to a {parts[2]}.", f"http.{name}")
    return Include(parts[0], parts[1], parts[2] if len(parts) == 3 else "", iterate)


def _elements(state: _State, name: str, value: str) -> str | None:
    known = _top_level(state)
    kept = []
    for element in value.split(","):
        if known and element not in known:
            state.passed_over(name, element, f"{state.types[0]} has no element {element[:64]}")
        elif element:
            kept.append(element)
    state.more("elements", kept)
    return ",".join(kept)


def _top_level(state: _State) -> set[str]:
    types = state.reader.definitions.types
    searched = [types[type] for type in state.types if type in types and type != "Resource"]
    return {p.element for t in searched for p in t.properties.values()} | {n for t in searched for n in t.properties}


def _type(state: _State, name: str, value: str) -> str | None:
    if state.type is not None:
        state.passed_over(name, value, "_type is for searches over all types")
        return None
    types = tuple(dict.fromkeys(value.split(",")))
    for type in types:
        state.reader.known_type(type, name)
    state.once(name, "types", types)
    return None


_Control = Callable[[_State, str, str], str | None]


def _choice(attribute: str, *values: str) -> _Control:
    def control(state: _State, name: str, value: str) -> str | None:
        if value not in values:
            raise problem("invalid", f"{name} must be one of {', '.join(values)}.", f"http.{name}")
        state.once(name, attribute, value)
        return None

    return control


def _text(attribute: str) -> _Control:
    def control(state: _State, name: str, value: str) -> str | None:
        state.once(name, attribute, value)
        return None

    return control


def _contained(state: _State, name: str, value: str) -> str | None:
    _choice("contained", "true", "false", "both")(state, name, value)
    if value != "false" and state.type is None:
        del state.result["contained"]
        state.passed_over(name, value, "say in the path which type is searched for inside others")
        return None
    return value


def _together(state: _State) -> tuple[str, ...]:
    """Refuses what does not go with a search for contained resources: they have no order or references of their own.
    Answers the names of what has no effect without one.
    """
    if state.result.get("contained", "false") == "false":
        if state.result.pop("contained_type", None) is None:
            return ()
        state.passed_over("_containedType", "", "it has no effect without _contained=true or both")
        return ("_containedType",)
    alone = state.result.get("contained_type") == "contained"
    for attribute, refused in (("sort", True), ("includes", alone), ("revincludes", alone)):
        if refused and state.result.get(attribute):
            name = {"sort": "_sort", "includes": "_include", "revincludes": "_revinclude"}[attribute]
            text = f"{name} cannot be used in a search for contained resources; leave it out."
            raise problem("not-supported", text, f"http.{name}")
    return ()


def _pretty(state: _State, name: str, value: str) -> str | None:
    _choice("pretty", "true", "false")(state, name, value)
    state.result["pretty"] = value == "true"
    return None


def _score(state: _State, name: str, value: str) -> str | None:
    state.passed_over(name, value, "it is not a parameter of requests")
    return None


# Each puts its value into the state and answers the value to show in the self link where that is not the one given.
_CONTROLS: Mapping[str, _Control] = {
    "_count": _count,
    "_sort": _sort,
    "_include": _include,
    "_revinclude": _revinclude,
    "_summary": _choice("summary", "true", "text", "data", "count", "false"),
    "_elements": _elements,
    "_total": _choice("total", "none", "estimate", "accurate"),
    "_contained": _contained,
    "_containedType": _choice("contained_type", "container", "contained"),
    "_format": _text("format"),
    "_pretty": _pretty,
    "_cursor": _text("cursor"),
    "_type": _type,
    "_score": _score,
}

CONTROLS: tuple[str, ...] = tuple(_CONTROLS)
"""The names of the parameters that say what the answer is to look like."""
