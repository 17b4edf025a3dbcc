"""The functions of FHIRPath and those FHIR adds, in three tables: with criteria, with a type's name, with values.

FHIRPath N1: functions; FHIR R4: fhirpath#functions. An entry: (fewest arguments, most, function).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fhirserver.fhir import xhtml
from fhirserver.fhir.fhirpath.scalars import SCALARS
from fhirserver.fhir.fhirpath.scope import Closure, Items, Scope, boolean, single, text_of
from fhirserver.fhir.fhirpath.values import Node, PathError, Temporal, distinct, key, plain, system

Function = Callable[..., Items]

_MAX_REPEAT = 10_000


# Functions with criteria, which are evaluated for each item.


def _where(scope: Scope, items: Items, criteria: Closure) -> Items:
    return [item for item, found in scope.each(items, criteria) if boolean(found)]


def _exists(scope: Scope, items: Items, criteria: Closure | None = None) -> Items:
    return [bool(items)] if criteria is None else [bool(_where(scope, items, criteria))]


def _all(scope: Scope, items: Items, criteria: Closure) -> Items:
    return [all(boolean(found) for _, found in scope.each(items, criteria))]


def _select(scope: Scope, items: Items, projection: Closure) -> Items:
    return scope.bounded([one for _, found in scope.each(items, projection) for one in found])


def _repeat(scope: Scope, items: Items, projection: Closure) -> Items:
    seen: dict[Any, Any] = {}
    pending = items
    while pending:
        new = [item for item in distinct(_select(scope, pending, projection)) if key(item) not in seen]
        seen.update((key(item), item) for item in new)
        if len(seen) > _MAX_REPEAT:
            raise PathError("repeat() does not come to an end")
        pending = new
    return list(seen.values())


def _aggregate(scope: Scope, items: Items, step: Closure, start: Closure | None = None) -> Items:
    before = scope.total
    scope.total = start(scope, items) if start is not None else []
    for item in scope.bounded(items):
        [(_, scope.total)] = scope.each([item], step)
    total, scope.total = scope.total, before
    return total


def _iif(scope: Scope, items: Items, test: Closure, then: Closure, other: Closure | None = None) -> Items:
    before = scope.this
    if len(items) == 1:
        scope.this = items[0]
    try:
        if boolean(test(scope, items)):
            return then(scope, items)
        return other(scope, items) if other is not None else []
    finally:
        scope.this = before


ITERATIONS: Mapping[str, tuple[int, int, Function]] = {
    "where": (1, 1, _where),
    "exists": (0, 1, _exists),
    "all": (1, 1, _all),
    "select": (1, 1, _select),
    "repeat": (1, 1, _repeat),
    "aggregate": (1, 2, _aggregate),
    "iif": (2, 3, _iif),
}


# Functions with the name of a type.


def _of_type(scope: Scope, items: Items, name: str) -> Items:
    return [item for item in items if scope.model.is_type(item, name)]


def _is(scope: Scope, items: Items, name: str) -> Items:
    return [scope.model.is_type(single(items), name)] if items else []


TYPED: Mapping[str, Callable[[Scope, Items, str], Items]] = {
    "ofType": _of_type,
    "as": _of_type,  # R4 applies `as` to collections in its own search parameters and invariants
    "is": _is,
}


# Functions with values, which are evaluated once.


def _not(_scope: Scope, items: Items) -> Items:
    value = boolean(items)
    return [] if value is None else [not value]


def _count(_scope: Scope, items: Items) -> Items:
    return [len(items)]


def _truths(test: Callable[[list[bool]], bool]) -> Function:
    return lambda _scope, items: [test([system(item) is True for item in items])]


def _subset(_scope: Scope, items: Items, other: Items) -> Items:
    return [{key(item) for item in items} <= {key(item) for item in other}]


def _superset(scope: Scope, items: Items, other: Items) -> Items:
    return _subset(scope, other, items)


def _is_distinct(_scope: Scope, items: Items) -> Items:
    return [len({key(item) for item in items}) == len(items)]


def _intersect(_scope: Scope, items: Items, other: Items) -> Items:
    keys = {key(item) for item in other}
    return distinct([item for item in items if key(item) in keys])


def _exclude(_scope: Scope, items: Items, other: Items) -> Items:
    keys = {key(item) for item in other}
    return [item for item in items if key(item) not in keys]


def _combine(scope: Scope, items: Items, other: Items) -> Items:
    return scope.bounded(items + other)


def _single(_scope: Scope, items: Items) -> Items:
    single(items)
    return items


def _number(items: Items) -> int:
    value = system(single(items))
    if type(value) is not int:
        raise PathError("an integer is expected")
    return value


def _skip(_scope: Scope, items: Items, number: Items) -> Items:
    return items[max(_number(number), 0) :]


def _take(_scope: Scope, items: Items, number: Items) -> Items:
    return items[: max(_number(number), 0)]


def _children(scope: Scope, items: Items) -> Items:
    return scope.bounded([child for item in items for child in scope.model.children(item)])


def _descendants(scope: Scope, items: Items) -> Items:
    return scope.bounded([child for item in items for child in scope.model.descendants(item)])


def _extension(scope: Scope, items: Items, url: Items) -> Items:
    wanted = text_of(url)
    extensions = (e for item in items for e in scope.model.step(item, "extension"))
    return [e for e in extensions if type(e.value) is dict and e.value.get("url") == wanted]


def _has_value(_scope: Scope, items: Items) -> Items:
    value = plain(items[0]) if len(items) == 1 else None
    return [value is not None and type(value) is not dict]


def _get_value(scope: Scope, items: Items) -> Items:
    return [system(items[0])] if _has_value(scope, items)[0] else []


def _resolve(scope: Scope, items: Items) -> Items:
    resolver = scope.variables.get("resolve")
    found = []
    for item in items:
        value = plain(item)
        reference = value.get("reference") if type(value) is dict else value
        resource = _within(scope, reference) if type(reference) is str else None
        if resource is None and callable(resolver) and type(reference) is str:
            resource = resolver(reference)
        if type(resource) is dict:
            found.append(scope.model.root(resource))
    return found


def _within(scope: Scope, reference: str) -> Any:
    """The contained resource `#id`, or the entry of the Bundle with that fullUrl."""
    root = scope.variables.get("rootResource")
    root = root.value if type(root) is Node else root
    if type(root) is not dict:
        return None
    if reference.startswith("#"):
        contained = root.get("contained") or ()
        return next(
            (c for c in contained if type(c) is dict and c.get("id") == reference[1:]),
            root if reference == "#" else None,
        )
    entries = root.get("entry") if root.get("resourceType") == "Bundle" else None
    return next((e.get("resource") for e in entries or () if type(e) is dict and e.get("fullUrl") == reference), None)


def _member_of(scope: Scope, items: Items, value_set: Items) -> Items:
    codes = scope.model.definitions.codes(text_of(value_set) or "")
    if codes is None or not items:
        return []
    value = plain(single(items))
    if type(value) is str:
        return [any(value in known for known in codes.values())]
    codings = value.get("coding", [value]) if type(value) is dict else []
    return [any(coding.get("code") in codes.get(coding.get("system", ""), ()) for coding in codings)]


def _html_checks(_scope: Scope, items: Items) -> Items:
    return [all(xhtml.check(plain(item)) is None for item in items)]


def _moment(kind: str) -> Function:
    def now(scope: Scope, _items: Items) -> Items:
        value = scope.variables.get("now")
        moment = Temporal.parse(value) if type(value) is str else None
        if moment is None:
            raise PathError("the time is not known here: now(), today() and timeOfDay() cannot be used")
        if kind == "Date":
            return [Temporal("Date", moment.parts[:3])]
        return [Temporal("Time", moment.parts[3:]) if kind == "Time" else moment]

    return now


def _type(scope: Scope, items: Items) -> Items:
    return [
        Node({"namespace": "FHIR" if type(item) is Node else "System", "name": scope.model.type_name(item)}, "")
        for item in items
    ]


FUNCTIONS: Mapping[str, tuple[int, int, Function]] = {
    "empty": (0, 0, lambda _scope, items: [not items]),
    "not": (0, 0, _not),
    "count": (0, 0, _count),
    "allTrue": (0, 0, _truths(all)),
    "anyTrue": (0, 0, _truths(any)),
    "allFalse": (0, 0, _truths(lambda truths: not any(truths))),
    "anyFalse": (0, 0, _truths(lambda truths: not all(truths))),
    "subsetOf": (1, 1, _subset),
    "supersetOf": (1, 1, _superset),
    "distinct": (0, 0, lambda _scope, items: distinct(items)),
    "isDistinct": (0, 0, _is_distinct),
    "single": (0, 0, _single),
    "first": (0, 0, lambda _scope, items: items[:1]),
    "last": (0, 0, lambda _scope, items: items[-1:]),
    "tail": (0, 0, lambda _scope, items: items[1:]),
    "skip": (1, 1, _skip),
    "take": (1, 1, _take),
    "intersect": (1, 1, _intersect),
    "exclude": (1, 1, _exclude),
    "union": (1, 1, lambda _scope, items, other: distinct(items + other)),
    "combine": (1, 1, _combine),
    "children": (0, 0, _children),
    "descendants": (0, 0, _descendants),
    "extension": (1, 1, _extension),
    "hasExtension": (1, 1, lambda scope, items, url: [bool(_extension(scope, items, url))]),
    "hasValue": (0, 0, _has_value),
    "getValue": (0, 0, _get_value),
    "resolve": (0, 0, _resolve),
    "memberOf": (1, 1, _member_of),
    "htmlChecks": (0, 0, _html_checks),
    "trace": (1, 2, lambda _scope, items, *_arguments: items),
    "type": (0, 0, _type),
    "now": (0, 0, _moment("DateTime")),
    "today": (0, 0, _moment("Date")),
    "timeOfDay": (0, 0, _moment("Time")),
    **SCALARS,
}
