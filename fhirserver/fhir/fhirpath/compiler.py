"""A FHIRPath syntax tree to closures, made once per expression and called for each resource.

FHIRPath N1: path selection, operators, boolean logic. Every closure takes the scope of the evaluation and a focus (a
list of items) and answers a list of items.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal, DivisionByZero, InvalidOperation
from typing import Any

from fhirserver.fhir.fhirpath.functions import FUNCTIONS, ITERATIONS, TYPED
from fhirserver.fhir.fhirpath.parser import Tree
from fhirserver.fhir.fhirpath.scope import Closure, Items, Scope, boolean, single, text_of
from fhirserver.fhir.fhirpath.values import PathError, Quantity, Temporal, compared, distinct, equal, is_number, system
from fhirserver.fhir.problem import problem


def compile_tree(tree: Tree) -> Closure:
    """The closure of a tree. Raises Problem(not-supported) for an unknown function, (invalid) for wrong use."""
    return _COMPILERS[tree[0]](tree)


def _literal(tree: Tree) -> Closure:
    items = [tree[1]]
    return lambda scope, focus: items


def _name(tree: Tree) -> Closure:
    """A name at the start of a path: the type of the focus itself (`Patient.name`), or a child of it."""
    step = _step(tree[1])
    name = tree[1]
    if not name[:1].isupper():
        return step

    def typed(scope: Scope, focus: Items) -> Items:
        own = [item for item in focus if scope.model.is_type(item, name)]
        return own or step(scope, focus)

    return typed


def _step(name: str) -> Closure:
    def step(scope: Scope, focus: Items) -> Items:
        if len(focus) == 1:
            scope.steps += 1
            return scope.bounded(scope.model.step(focus[0], name))
        return scope.bounded([child for item in focus for child in scope.model.step(item, name)])

    return step


def _dot(tree: Tree) -> Closure:
    target, member = tree[1], tree[2]
    source = compile_tree(target)
    if member[0] == "name":
        if target in (("name", "FHIR"), ("name", "System")):
            raise problem("invalid", "A FHIRPath type name can only stand after is and as.")
        step = _step(member[1])
        return lambda scope, focus: step(scope, source(scope, focus))
    if member[0] == "special":
        special = compile_tree(member)
        return lambda scope, focus: special(scope, source(scope, focus))
    function = _function(member)
    return lambda scope, focus: function(scope, source(scope, focus), focus)


def _call(tree: Tree) -> Closure:
    function = _function(tree)
    return lambda scope, focus: function(scope, focus, focus)


def _function(tree: Tree) -> Callable[[Scope, Items, Items], Items]:
    """A call as a closure of the scope, the items it is applied to, and the focus its arguments are read in."""
    _, name, arguments = tree
    if name in TYPED:
        if len(arguments) != 1:
            raise _misuse(name)
        of_type, wanted = TYPED[name], _type_argument(arguments[0])
        return lambda scope, items, focus: of_type(scope, items, wanted)
    if name in ITERATIONS:
        least, most, iterate = ITERATIONS[name]
        if not least <= len(arguments) <= most:
            raise _misuse(name)
        criteria = [compile_tree(argument) for argument in arguments]
        return lambda scope, items, focus: iterate(scope, items, *criteria)
    if name not in FUNCTIONS:
        raise problem("not-supported", f"The FHIRPath function {name[:40]}() is not supported.")
    least, most, function = FUNCTIONS[name]
    if not least <= len(arguments) <= most:
        raise _misuse(name)
    if not arguments:
        return lambda scope, items, focus: function(scope, items)
    values = [compile_tree(argument) for argument in arguments]
    return lambda scope, items, focus: function(scope, items, *[value(scope, focus) for value in values])


def _misuse(name: str) -> Exception:
    return problem("invalid", f"The FHIRPath function {name}() is called with a wrong number of arguments.")


def _type_argument(tree: Tree) -> str:
    if tree[0] == "name":
        return str(tree[1])
    if tree[0] == "dot" and tree[1][0] == tree[2][0] == "name":
        return f"{tree[1][1]}.{tree[2][1]}"
    if tree[0] == "literal" and type(tree[1]) is str:
        return tree[1]
    raise problem("invalid", "A FHIRPath type function needs the name of a type.")


def _index(tree: Tree) -> Closure:
    source, index = compile_tree(tree[1]), compile_tree(tree[2])

    def at(scope: Scope, focus: Items) -> Items:
        position = system(single(index(scope, focus)))
        if type(position) is not int:
            raise PathError("an index must be an integer")
        return source(scope, focus)[position : position + 1] if position >= 0 else []

    return at


def _sign(tree: Tree) -> Closure:
    operand = compile_tree(tree[1])

    def negative(scope: Scope, focus: Items) -> Items:
        value = system(single(operand(scope, focus)))
        if value is None:
            return []
        if type(value) is Quantity:
            return [Quantity(-value.value, value.unit)]
        if not is_number(value):
            raise PathError("only numbers have a sign")
        return [-value]

    return negative


def _variable(tree: Tree) -> Closure:
    name = tree[1]
    return lambda scope, focus: scope.variable(name)


def _special(tree: Tree) -> Closure:
    name = tree[1]

    def special(scope: Scope, focus: Items) -> Items:
        if name == "$this":
            return focus if scope.this is None else [scope.this]
        return [scope.index] if name == "$index" else list(scope.total)

    return special


def _type(tree: Tree) -> Closure:
    operator, name = tree[1], tree[3]
    source = compile_tree(tree[2])
    of_type = TYPED[operator]
    return lambda scope, focus: of_type(scope, source(scope, focus), name)


def _binary(tree: Tree) -> Closure:
    operator, left, right = tree[1], compile_tree(tree[2]), compile_tree(tree[3])
    if operator in _LOGIC:
        return _LOGIC[operator](left, right)
    apply = _OPERATORS[operator]
    return lambda scope, focus: apply(left(scope, focus), right(scope, focus))


def _and(left: Closure, right: Closure) -> Closure:
    def both(scope: Scope, focus: Items) -> Items:
        a = boolean(left(scope, focus))
        if a is False:
            return [False]
        b = boolean(right(scope, focus))
        return [False] if b is False else [True] if a and b else []

    return both


def _or(left: Closure, right: Closure) -> Closure:
    def either(scope: Scope, focus: Items) -> Items:
        a = boolean(left(scope, focus))
        if a:
            return [True]
        b = boolean(right(scope, focus))
        return [True] if b else [] if a is None or b is None else [False]

    return either


def _xor(left: Closure, right: Closure) -> Closure:
    def one(scope: Scope, focus: Items) -> Items:
        a, b = boolean(left(scope, focus)), boolean(right(scope, focus))
        return [] if a is None or b is None else [a != b]

    return one


def _implies(left: Closure, right: Closure) -> Closure:
    def implies(scope: Scope, focus: Items) -> Items:
        a = boolean(left(scope, focus))
        if a is False:
            return [True]
        b = boolean(right(scope, focus))
        return [True] if b else [] if a is None or b is None else [False]

    return implies


def equals(left: Items, right: Items) -> Items:
    """FHIRPath `=` of two collections."""
    if not left or not right:
        return []
    if len(left) != len(right):
        return [False]
    found = [equal(a, b) for a, b in zip(left, right, strict=True)]
    return [False] if False in found else [] if None in found else [True]


def _different(left: Items, right: Items) -> Items:
    return [not found for found in equals(left, right)]


def _equivalent(left: Items, right: Items) -> Items:
    a, b = [_blurred(i) for i in left], [_blurred(i) for i in right]
    return [len(a) == len(b) and all(x in b for x in a) and all(x in a for x in b)]


def _blurred(item: Any) -> Any:
    value = system(item)
    if type(value) is str:
        return " ".join(value.lower().split())
    return str(value) if type(value) is Temporal else getattr(value, "value", value)


def _ordered(test: Callable[[int], bool]) -> Callable[[Items, Items], Items]:
    def compare(left: Items, right: Items) -> Items:
        if not left or not right:
            return []
        found = compared(single(left), single(right))
        return [] if found is None else [test(found)]

    return compare


def _arithmetic(apply: Callable[[Any, Any], Any]) -> Callable[[Items, Items], Items]:
    def compute(left: Items, right: Items) -> Items:
        if not left or not right:
            return []
        a, b = system(single(left)), system(single(right))
        try:
            found = apply(a, b)
        except (DivisionByZero, InvalidOperation, ZeroDivisionError):
            return []
        except TypeError:
            raise PathError("arithmetic on values that are not numbers") from None
        return [] if found is None else [found]

    return compute


def _plus(a: Any, b: Any) -> Any:
    if type(a) is Temporal and type(b) is Quantity:
        return a.plus(b, 1)
    if type(a) is Quantity and type(b) is Quantity:
        return Quantity(a.value + b.value, a.unit) if a.unit == b.unit else None
    if type(a) is str and type(b) is str:
        return a + b
    return _numbers(a, b) and a + b


def _minus(a: Any, b: Any) -> Any:
    if type(a) is Temporal and type(b) is Quantity:
        return a.plus(b, -1)
    if type(a) is Quantity and type(b) is Quantity:
        return Quantity(a.value - b.value, a.unit) if a.unit == b.unit else None
    return _numbers(a, b) and a - b


def _numbers(a: Any, b: Any) -> bool:
    if not is_number(a) or not is_number(b):
        raise TypeError
    if max(abs(a), abs(b)) > Decimal(10) ** 100:
        raise PathError("a number is too large")
    return True


def _joined(left: Items, right: Items) -> Items:
    return [(text_of(left) or "") + (text_of(right) or "")]


def _union(left: Items, right: Items) -> Items:
    return distinct(left + right)


def _member(left: Items, right: Items) -> Items:
    if not left:
        return []
    item = single(left)
    return [any(equal(item, other) for other in right)]


_LOGIC: Mapping[str, Callable[[Closure, Closure], Closure]] = {
    "and": _and,
    "or": _or,
    "xor": _xor,
    "implies": _implies,
}

_OPERATORS: Mapping[str, Callable[[Items, Items], Items]] = {
    "=": equals,
    "!=": _different,
    "~": _equivalent,
    "!~": lambda left, right: [not _equivalent(left, right)[0]],
    "<": _ordered(lambda found: found < 0),
    "<=": _ordered(lambda found: found <= 0),
    ">": _ordered(lambda found: found > 0),
    ">=": _ordered(lambda found: found >= 0),
    "+": _arithmetic(_plus),
    "-": _arithmetic(_minus),
    "*": _arithmetic(lambda a, b: _numbers(a, b) and a * b),
    "/": _arithmetic(lambda a, b: _numbers(a, b) and Decimal(a) / Decimal(b)),
    "div": _arithmetic(lambda a, b: _numbers(a, b) and int(Decimal(a) / Decimal(b))),
    "mod": _arithmetic(
        lambda a, b: _numbers(a, b) and (Decimal(a) % Decimal(b) if Decimal in (type(a), type(b)) else a % b)
    ),
    "&": _joined,
    "|": _union,
    "in": _member,
    "contains": lambda left, right: _member(right, left),
}

_COMPILERS: Mapping[str, Callable[[Tree], Closure]] = {
    "literal": _literal,
    "empty": lambda tree: lambda scope, focus: [],
    "name": _name,
    "dot": _dot,
    "call": _call,
    "index": _index,
    "sign": _sign,
    "variable": _variable,
    "special": _special,
    "type": _type,
    "binary": _binary,
}
