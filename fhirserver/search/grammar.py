"""The FHIRPath of SearchParameter expressions as a small syntax tree.

FHIR R4: searchparameter#expression; the part of FHIRPath that search parameters use: paths, calls, indexers, `as`,
`is`, unions, comparison, `and`, `or`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from fhirserver.fhir.problem import Problem, problem

_TOKEN = re.compile(
    r"\s*(?:(?P<string>'(?:[^'\\]|\\.)*')|(?P<number>\d+)|(?P<name>[%$]?[A-Za-z_][A-Za-z0-9_]*|`[^`]+`)"
    r"|(?P<sign>!=|[.|()\[\]=,]))"
)
_MAX_TOKENS = 2_000
_MAX_DEPTH = 50


@dataclass(frozen=True, slots=True)
class Name:
    """An element, a type or `%resource`, on `of` or on the context when that is None."""

    name: str
    of: Node | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """A function call on `of`, or on the context when that is None."""

    name: str
    arguments: tuple[Node, ...]
    of: Node | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """`of[position]`."""

    of: Node
    position: int


@dataclass(frozen=True, slots=True)
class Literal:
    """A string, an integer, or a boolean."""

    value: str | int | bool


@dataclass(frozen=True, slots=True)
class Operation:
    """`|`, `=`, `!=`, `and`, `or`, `as`, `is`; the right side of the last two is a Name."""

    sign: str
    left: Node
    right: Node


Node = Name | Call | Item | Literal | Operation


def parse(expression: str) -> Node:
    """The syntax tree of an expression. Raises Problem(not-supported) for FHIRPath outside the supported part."""
    reader = _Reader(expression)
    node = reader.operations(0)
    if reader.peek():
        raise reader.refused()
    return node


# Loosest first, as FHIRPath binds them.
_LEVELS: tuple[tuple[str, ...], ...] = (("or",), ("and",), ("=", "!="), ("|",), ("as", "is"))


class _Reader:
    def __init__(self, expression: str) -> None:
        self.expression = expression
        self.tokens: list[str] = []
        self.position = 0
        self.depth = 0
        at = 0
        text = expression.rstrip()
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None or len(self.tokens) >= _MAX_TOKENS:
                raise self.refused()
            self.tokens.append(match.group().strip())
            at = match.end()

    def refused(self) -> Problem:
        text = self.expression if len(self.expression) <= 200 else self.expression[:200] + "..."
        return problem("not-supported", f"This FHIRPath is not supported in a SearchParameter: {text}", "expression")

    def peek(self) -> str:
        return self.tokens[self.position] if self.position < len(self.tokens) else ""

    def take(self, expected: str = "") -> str:
        token = self.peek()
        if not token or (expected and token != expected):
            raise self.refused()
        self.position += 1
        return token

    def operations(self, level: int) -> Node:
        if level == len(_LEVELS):
            return self.nested(self.postfix)
        node = self.operations(level + 1)
        while self.peek() in _LEVELS[level]:
            sign = self.take()
            right = self.type_name() if sign in ("as", "is") else self.operations(level + 1)
            node = Operation(sign, node, right)
        return node

    def nested(self, read: Callable[[], Node]) -> Node:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise self.refused()
        node = read()
        self.depth -= 1
        return node

    def type_name(self) -> Node:
        name = self.take()
        if self.peek() == ".":  # FHIR.Patient, System.String
            self.take()
            name = self.take()
        return Name(name)

    def postfix(self) -> Node:
        node = self.term(None)
        while self.peek() in (".", "["):
            node = self.term(node) if self.take() == "." else Item(node, self.index())
        return node

    def index(self) -> int:
        number = self.take()
        if not number.isdecimal() or len(number) > 6:
            raise self.refused()
        self.take("]")
        return int(number)

    def term(self, of: Node | None) -> Node:
        read = self.take()
        if read == "(" and of is None:
            node = self.operations(0)
            self.take(")")
            return node
        if read[0] == "'" and of is None:
            return Literal(re.sub(r"\\(.)", r"\1", read[1:-1]))
        if read.isdecimal() and of is None:
            return Literal(int(read))
        if read in ("true", "false") and of is None:
            return Literal(read == "true")
        if not (read[0].isalpha() or read[0] in "_%$`"):
            raise self.refused()
        name = read.strip("`")
        if self.peek() != "(":
            return Name(name, of)
        return Call(name, self.arguments(), of)

    def arguments(self) -> tuple[Node, ...]:
        self.take("(")
        found: list[Node] = []
        while self.peek() != ")":
            found.append(self.operations(0))
            if self.peek() != ")":
                self.take(",")
        self.take(")")
        return tuple(found)
