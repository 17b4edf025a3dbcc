"""FHIRPath text to a syntax tree of tuples: (kind, ...), see `Parser` for the kinds.

FHIRPath N1: grammar, lexical elements, operator precedence.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

from fhirserver.fhir.fhirpath.values import Quantity, Temporal
from fhirserver.fhir.problem import Problem, problem

Tree = tuple[Any, ...]

MAX_LENGTH = 10_000
_MAX_DEPTH = 60

_TOKEN = re.compile(
    r"""\s+ | //[^\n]* | /\*.*?\*/
    | (?P<temporal>@T?[0-9][0-9:.T-]*(?:Z|[+-][0-9]{2}:[0-9]{2})?)
    | (?P<number>[0-9]+(?:\.[0-9]+)?)
    | (?P<string>'(?:[^'\\]|\\.)*')
    | (?P<quoted>`(?:[^`\\]|\\.)*`)
    | (?P<variable>%(?:[A-Za-z_][A-Za-z0-9_-]*|`[^`]*`|'[^']*'))
    | (?P<special>\$(?:this|index|total))
    | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
    | (?P<symbol><=|>=|!=|!~|[-.\[\](){},+*/&|<>=~])
    """,
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t", "f": "\f"}

# Binary operators, loosest first; each level binds to the left.
_LEVELS: tuple[frozenset[str], ...] = (
    frozenset({"implies"}),
    frozenset({"or", "xor"}),
    frozenset({"and"}),
    frozenset({"in", "contains"}),
    frozenset({"=", "~", "!=", "!~"}),
    frozenset({"<", ">", "<=", ">="}),
    frozenset({"|"}),
    frozenset({"is", "as"}),
    frozenset({"+", "-", "&"}),
    frozenset({"*", "/", "div", "mod"}),
)
_UNITS = frozenset(
    unit + plural
    for unit in ("year", "month", "week", "day", "hour", "minute", "second", "millisecond")
    for plural in ("", "s")
)


def parse(text: str) -> Tree:
    """The syntax tree of an expression. Raises Problem(invalid) that says where the expression cannot be read."""
    if len(text) > MAX_LENGTH:
        raise problem("too-long", f"A FHIRPath expression may have {MAX_LENGTH} characters.")
    parser = _Parser(_tokens(text))
    tree = parser.expression(0)
    parser.expect("end", "")
    return tree


def _tokens(text: str) -> list[tuple[str, str, int]]:
    tokens = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise _unreadable(at)
        if match.lastgroup:
            tokens.append((match.lastgroup, match.group(), at))
        at = match.end()
    tokens.append(("end", "", at))
    return tokens


def _unreadable(at: int) -> Problem:
    return problem("invalid", f"The FHIRPath expression cannot be read at character {at + 1}.")


def _text(token: str) -> str:
    def one(match: re.Match[str]) -> str:
        code = match[1]
        return chr(int(code[1:], 16)) if len(code) == 5 else _ESCAPED.get(code, code)

    return _ESCAPE.sub(one, token[1:-1])


class _Parser:
    """Reads tokens by precedence climbing.

    Kinds of trees: (literal, value), (name, text), (call, name, arguments), (dot, tree, member), (index, tree, tree),
    (sign, tree), (binary, operator, left, right), (type, operator, tree, type name), (variable, name), (special, name).
    """

    def __init__(self, tokens: list[tuple[str, str, int]]) -> None:
        self.tokens, self.at, self.depth = tokens, 0, 0

    @property
    def kind(self) -> str:
        return self.tokens[self.at][0]

    @property
    def word(self) -> str:
        return self.tokens[self.at][1]

    def take(self) -> str:
        self.at += 1
        return self.tokens[self.at - 1][1]

    def expect(self, kind: str, word: str) -> None:
        if self.kind != kind or self.word != word:
            raise _unreadable(self.tokens[self.at][2])
        self.at += 1

    def expression(self, level: int) -> Tree:
        if level == len(_LEVELS):
            return self.signed()
        self.depth += level == 0
        if self.depth > _MAX_DEPTH:
            raise problem("too-costly", "The FHIRPath expression is nested too deeply.")
        left = self.expression(level + 1)
        while self.word in _LEVELS[level] and self.kind in ("symbol", "name"):
            operator = self.take()
            if operator in ("is", "as"):
                left = ("type", operator, left, self.type_name())
            else:
                left = ("binary", operator, left, self.expression(level + 1))
        self.depth -= level == 0
        return left

    def signed(self) -> Tree:
        if self.kind == "symbol" and self.word in ("+", "-"):
            sign = self.take()
            operand = self.signed()
            return ("sign", operand) if sign == "-" else operand
        return self.invocations()

    def invocations(self) -> Tree:
        tree = self.term()
        while self.kind == "symbol" and self.word in (".", "["):
            if self.take() == ".":
                tree = ("dot", tree, self.member())
            else:
                tree = ("index", tree, self.expression(0))
                self.expect("symbol", "]")
        return tree

    def term(self) -> Tree:
        kind = self.kind
        if kind == "symbol" and self.word == "(":
            self.take()
            tree = self.expression(0)
            self.expect("symbol", ")")
            return tree
        if kind == "symbol" and self.word == "{":
            self.take()
            self.expect("symbol", "}")
            return ("empty",)
        if kind == "string":
            return ("literal", _text(self.take()))
        if kind == "number":
            return self.number()
        if kind == "temporal":
            return self.temporal()
        if kind == "variable":
            return ("variable", self.take()[1:].strip("`'"))
        if kind == "name" and self.word in ("true", "false"):
            return ("literal", self.take() == "true")
        return self.member()

    def number(self) -> Tree:
        text = self.take()
        number = Decimal(text) if "." in text else int(text)
        if self.kind == "string":
            return ("literal", Quantity(Decimal(text), _text(self.take())))
        if self.kind == "name" and self.word in _UNITS:
            return ("literal", Quantity(Decimal(text), self.take().removesuffix("s")))
        return ("literal", number)

    def temporal(self) -> Tree:
        at = self.tokens[self.at][2]
        value = Temporal.parse(self.take()[1:])
        if value is None:
            raise _unreadable(at)
        return ("literal", value)

    def member(self) -> Tree:
        if self.kind == "special":
            return ("special", self.take())
        if self.kind == "quoted":
            return ("name", _text(self.take()))
        if self.kind != "name":
            raise _unreadable(self.tokens[self.at][2])
        name = self.take()
        if self.kind != "symbol" or self.word != "(":
            return ("name", name)
        self.take()
        arguments: list[Tree] = []
        while self.word != ")" or self.kind != "symbol":
            if arguments:
                self.expect("symbol", ",")
            arguments.append(self.expression(0))
        self.take()
        return ("call", name, tuple(arguments))

    def type_name(self) -> str:
        parts = []
        while self.kind in ("name", "quoted"):
            parts.append(_text(self.word) if self.kind == "quoted" else self.word)
            self.take()
            if self.kind != "symbol" or self.word != ".":
                break
            self.take()
        if not parts:
            raise _unreadable(self.tokens[self.at][2])
        return ".".join(parts)
