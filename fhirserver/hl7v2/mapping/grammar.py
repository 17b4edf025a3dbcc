"""The three small languages of a mapping rule: where from (`PID-3.1`, `^.4`), where to (`contact+.name`), and when.

Conditions follow the v2-to-FHIR guide: valued, count, length, =, !=, in, and, or, not, parentheses. Parsed at load,
never while mapping.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from fhirserver.fhir.problem import Problem, problem

HL7_EXTENSION = "http://hl7.org/fhir/StructureDefinition/"

_SOURCE = re.compile(r"(?:([A-Z][A-Z0-9]{2})-(\d{1,3})|(\^))(?:\.(\d{1,3}))?(?:\.(\d{1,3}))?$")
_VARIABLES = frozenset(
    (
        "$trigger",
        "$code",
        "$structure",
        "$version",
        "$control",
        "$received",
        "$message",
        "$software",
        "$status",
        "$appointment",
    )
)
_STEP = re.compile(r"([A-Za-z_][A-Za-z0-9]*)(?:\(([^()]*)\))?(\+)?(?:\.|$)")
_TOKEN = re.compile(r'\s*(?:(\()|(\))|(,)|(!=|>=|<=|=|>|<)|"([^"]*)"|(\d+)\b(?!-)|([$^A-Za-z][A-Za-z0-9$.^-]*))')


@dataclass(frozen=True, slots=True)
class Source:
    """Where a value comes from: a field of a segment, the value at hand (`segment` is `^`), or a variable (`segment`
    is `$x`).

    field, component and subcomponent count from 1; 0 is unsaid.
    """

    segment: str
    field: int = 0
    component: int = 0
    subcomponent: int = 0

    def __str__(self) -> str:
        head = f"{self.segment}-{self.field}" if self.field else self.segment
        return head + "".join(f".{part}" for part in (self.component, self.subcomponent) if part)


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a target path: the JSON name, a selector (`url` of an extension, or `key=value`), and whether it
    appends.
    """

    name: str
    selector: tuple[str, str] | None
    append: bool


@dataclass(frozen=True, slots=True)
class Test:
    """A node of a condition. operator: valued, count, length, equals, in, and, or, not."""

    operator: str
    operands: tuple[Test, ...] = ()
    source: Source | None = None
    comparison: str = "="
    literals: tuple[str, ...] = ()
    number: int = 0


def source(text: str) -> Source:
    """The Source of a text. Raises Problem(invalid)."""
    if text in _VARIABLES:
        return Source(text)
    match = _SOURCE.match(text)
    if not match:
        raise problem(
            "invalid", f"`{text}` is no v2 path: write SEG-field.component.subcomponent, ^.component or a variable"
        )
    segment, number, here, component, subcomponent = match.groups()
    return Source(here or segment, int(number or 0), int(component or 0), int(subcomponent or 0))


def target(text: str) -> tuple[Step, ...]:
    """The steps of a target path. `extension(patient-x)`, dashed and without a scheme, is HL7's own. Raises
    Problem(invalid).
    """
    steps: list[Step] = []
    position = 0
    while position < len(text):
        match = _STEP.match(text, position)
        if not match:
            raise problem("invalid", f"`{text}` is no target path: write name.name, name+ or name(selector)")
        name, selector, append = match.groups()
        steps.append(Step(name, _selector(name, selector), append is not None))
        position = match.end()
    if not steps:
        raise problem("invalid", "a target path is empty")
    return tuple(steps)


def _selector(name: str, text: str | None) -> tuple[str, str] | None:
    if text is None:
        return None
    if name in ("extension", "modifierExtension"):
        return "url", f"{HL7_EXTENSION}{text}" if "-" in text and ":" not in text else text
    key, _, value = text.partition("=")
    return key.strip(), value.strip()


def condition(text: str) -> Test:
    """The Test of a condition. Raises Problem(invalid) that says where it stops making sense."""
    parser = _Conditions(text)
    found = parser.alternatives()
    if parser.kind:
        raise parser.wrong("the end")
    return found


class _Conditions:
    """Recursive descent over: or > and > not > (...) | function(source) | source comparison literal."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.kind = ""
        self.token = ""
        self.depth = 0
        self.advance()

    def advance(self) -> str:
        taken = self.token
        match = _TOKEN.match(self.text, self.position)
        if match is None:
            if self.text[self.position :].strip():
                raise self.wrong("a token")
            self.kind = self.token = ""
            return taken
        kinds = ("(", ")", ",", "comparison", "literal", "number", "word")
        self.kind = next(kind for kind, value in zip(kinds, match.groups(), strict=True) if value is not None)
        self.token = next(value for value in match.groups() if value is not None)
        self.position = match.end()
        return taken

    def wrong(self, expected: str) -> Problem:
        return problem("invalid", f"condition `{self.text}`: expected {expected} before position {self.position}")

    def expect(self, kind: str) -> str:
        if self.kind != kind:
            raise self.wrong(kind)
        return self.advance()

    def alternatives(self) -> Test:
        found = [self.conjunction()]
        while self.kind == "word" and self.token.lower() == "or":
            self.advance()
            found.append(self.conjunction())
        return found[0] if len(found) == 1 else Test("or", tuple(found))

    def conjunction(self) -> Test:
        found = [self.factor()]
        while self.kind == "word" and self.token.lower() == "and":
            self.advance()
            found.append(self.factor())
        return found[0] if len(found) == 1 else Test("and", tuple(found))

    def factor(self) -> Test:
        self.depth += 1
        if self.depth > 50:
            raise self.wrong("less nesting")
        if self.kind == "(":
            self.advance()
            found = self.alternatives()
            self.expect(")")
            return found
        word = self.expect("word")
        if word.lower() == "not":
            return Test("not", (self.factor(),))
        return self.function(word.lower()) if word.lower() in ("valued", "count", "length") else self.comparison(word)

    def function(self, name: str) -> Test:
        self.expect("(")
        subject = source(self.expect("word"))
        self.expect(")")
        if name == "valued":
            return Test(name, source=subject)
        operator = self.expect("comparison")
        return Test(name, source=subject, comparison=operator, number=int(self.expect("number")))

    def comparison(self, word: str) -> Test:
        subject = source(word)
        if self.kind == "word" and self.token.lower() == "in":
            self.advance()
            self.expect("(")
            literals = [self.expect("literal")]
            while self.kind == ",":
                self.advance()
                literals.append(self.expect("literal"))
            self.expect(")")
            return Test("in", source=subject, literals=tuple(literals))
        operator = self.expect("comparison")
        if operator not in ("=", "!="):
            raise self.wrong("= or != (count and length take the other comparisons)")
        equals = Test("in", source=subject, literals=(self.expect("literal"),))
        return equals if operator == "=" else Test("not", (equals,))
