"""Sources, conditions and formats compiled to functions of (run, segment, text at hand, its parts)."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence

from fhirserver.fhir.problem import problem
from fhirserver.hl7v2.mapping.grammar import Source, Test, source
from fhirserver.hl7v2.mapping.run import Run
from fhirserver.hl7v2.mapping.values import leaf
from fhirserver.hl7v2.message import NULL, Segment

Here = tuple[str, Sequence[str]]
Read = Callable[[Run, Segment, str, Sequence[str]], str]
Check = Callable[[Run, Segment, str, Sequence[str]], bool]

_COMPARE: Mapping[str, Callable[[int, int], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
    ">=": operator.ge,
    "<=": operator.le,
}
_PLACEHOLDER = re.compile(r"\{([^{}]+)\}")


def field_of(src: Source, own: str) -> Read:
    """Reads the raw text of a whole field, or the text at hand for `^`, or a variable."""
    number, name = src.field, src.segment
    if name == "^":
        return lambda run, segment, raw, parts: raw
    if name.startswith("$"):
        return lambda run, segment, raw, parts: run.variables.get(name, "")
    if name == own:

        def own_field(run: Run, segment: Segment, raw: str, parts: Sequence[str]) -> str:
            fields = segment.fields
            return fields[number] if number < len(fields) else ""

        return own_field

    def other_field(run: Run, segment: Segment, raw: str, parts: Sequence[str]) -> str:
        found = segment if segment.name == name else run.group.nearest(name)
        return found.raw(number) if found is not None else ""

    return other_field


def component_of(run: Run, text: str, src: Source, depth: int) -> str:
    """The raw component (and subcomponent) that a source names inside a repetition's (or component's) raw text."""
    for part in (src.component, src.subcomponent):
        if part:
            separator = run.component if depth == 0 else run.subcomponent if depth == 1 else ""
            pieces = text.split(separator) if separator else [text]
            text = pieces[part - 1] if part <= len(pieces) else ""
            depth += 1
    return text


def depth_of(src: Source, depth: int) -> int:
    """How deep the text that a source gives lies: 0 a repetition, 1 a component, 2 a subcomponent."""
    return (depth if src.segment == "^" else 0) + bool(src.component) + bool(src.subcomponent)


def text_of(src: Source, own: str, depth: int) -> Read:
    """Reads the decoded text of the first subcomponent that a source names, in the first repetition."""
    read = field_of(src, own)
    start = depth if src.segment == "^" else 0
    final = depth_of(src, depth)
    simple = not src.component and not src.subcomponent
    if src.segment.startswith("$"):
        return read
    if src.segment == "^" and src.component and not src.subcomponent:
        number = src.component - 1

        def part(run: Run, segment: Segment, raw: str, parts: Sequence[str]) -> str:
            return leaf(run, parts[number], final) if number < len(parts) and parts[number] else ""

        return part
    if src.segment == own and not src.subcomponent:
        return _own_text(src.field, src.component, final)

    def text(run: Run, segment: Segment, raw: str, parts: Sequence[str]) -> str:
        found = read(run, segment, raw, parts)
        if not found:
            return ""
        if start == 0 and run.repetition and run.repetition in found:
            found = found[: found.index(run.repetition)]
        return leaf(run, found if simple else component_of(run, found, src, start), final)

    return text


def _own_text(number: int, component: int, depth: int) -> Read:
    """As `text_of` for a field or component of the map's own segment, which is what most sources are."""

    def text(run: Run, segment: Segment, raw: str, parts: Sequence[str]) -> str:
        fields = segment.fields
        found = fields[number] if number < len(fields) else ""
        if not found:
            return ""
        if run.repetition and run.repetition in found:
            found = found[: found.index(run.repetition)]
        if component:
            pieces = found.split(run.component) if run.component else [found]
            found = pieces[component - 1] if component <= len(pieces) else ""
        return leaf(run, found, depth) if found else ""

    return text


def compile_condition(test: Test, own: str, depth: int) -> Check:
    """The function of a condition."""
    if test.operator in ("and", "or"):
        return _joined(test, own, depth)
    if test.operator == "not":
        inner = compile_condition(test.operands[0], own, depth)
        return lambda run, segment, raw, parts: not inner(run, segment, raw, parts)
    assert test.source is not None
    if test.operator == "count":
        return _count(test, test.source, own)
    read = text_of(test.source, own, depth)
    if test.operator == "length":
        compare, number = _COMPARE[test.comparison], test.number
        return lambda run, segment, raw, parts: compare(len(read(run, segment, raw, parts)), number)
    if test.operator == "valued":
        return _valued(test.source, own, depth)
    literals = frozenset(literal.upper() for literal in test.literals)
    return lambda run, segment, raw, parts: read(run, segment, raw, parts).upper() in literals


def _joined(test: Test, own: str, depth: int) -> Check:
    """`and` and `or`, two at a time: a function of two is asked faster than a list."""
    first, *others = (compile_condition(inner, own, depth) for inner in test.operands)
    for other in others:
        first = _both(first, other) if test.operator == "and" else _either(first, other)
    return first


def _both(a: Check, b: Check) -> Check:
    return lambda run, segment, raw, parts: a(run, segment, raw, parts) and b(run, segment, raw, parts)


def _either(a: Check, b: Check) -> Check:
    return lambda run, segment, raw, parts: a(run, segment, raw, parts) or b(run, segment, raw, parts)


def _valued(src: Source, own: str, depth: int) -> Check:
    if src.segment.startswith("$"):
        return lambda run, segment, raw, parts: bool(run.variables.get(src.segment))
    if src.component or src.segment == "^":
        return _component_valued(src, own, depth)
    field = field_of(src, own)

    def valued(run: Run, segment: Segment, raw: str, parts: Sequence[str]) -> bool:
        found = field(run, segment, raw, parts)
        return bool(found) and found != NULL

    return valued


def _component_valued(src: Source, own: str, depth: int) -> Check:
    if src.segment == "^" and src.component and not src.subcomponent:
        number = src.component - 1

        def part(run: Run, segment: Segment, raw: str, parts: Sequence[str]) -> bool:
            found = parts[number] if number < len(parts) else ""
            return found not in ("", NULL) and not (
                run.subcomponent in found and not found.strip(run.subcomponent or " ")
            )

        return part
    field, start = field_of(src, own), depth if src.segment == "^" else 0

    def valued(run: Run, segment: Segment, raw: str, parts: Sequence[str]) -> bool:
        found = field(run, segment, raw, parts)
        if start == 0 and run.repetition and run.repetition in found:
            found = found[: found.index(run.repetition)]
        found = component_of(run, found, src, start)
        return found not in ("", NULL) and not (run.subcomponent and not found.strip(run.subcomponent))

    return valued


def _count(test: Test, src: Source, own: str) -> Check:
    field, compare, number = field_of(src, own), _COMPARE[test.comparison], test.number

    def count(run: Run, segment: Segment, raw: str, parts: Sequence[str]) -> bool:
        found = field(run, segment, raw, parts)
        repetitions = found.split(run.repetition) if run.repetition else [found]
        return compare(sum(1 for item in repetitions if item), number)

    return count


def sources_of(test: Test) -> list[Source]:
    """Every source a condition reads, for checking."""
    own = [test.source] if test.source is not None else []
    return own + [found for inner in test.operands for found in sources_of(inner)]


def format_sources(text: str) -> list[Source]:
    """Every source a format reads, for checking."""
    return [source(name) for name in _PLACEHOLDER.findall(text)]


def compile_format(text: str, own: str, depth: int) -> Read:
    """A format such as `[+{^.5} ]{^.7}`: a part in brackets vanishes when a source in it is empty, and the whole is
    empty when no source at all is valued. White space is trimmed."""
    sections = [_section(piece, own, depth) for piece in re.findall(r"\[[^\[\]]*\]|[^\[\]]+", text)]
    if text.count("[") != text.count("]"):
        raise problem("invalid", f"format `{text}`: a bracket is not closed")

    def formatted(run: Run, segment: Segment, raw: str, parts: Sequence[str]) -> str:
        text, valued = "", False
        for section in sections:
            piece, said = section(run, segment, raw, parts)
            text += piece
            valued = valued or said
        return text.strip() if valued else ""

    return formatted


def _section(piece: str, own: str, depth: int) -> Callable[[Run, Segment, str, Sequence[str]], tuple[str, bool]]:
    optional = piece.startswith("[")
    pieces = _PLACEHOLDER.split(piece.strip("[]") if optional else piece)
    literals, reads = pieces[::2], [text_of(source(name), own, depth) for name in pieces[1::2]]
    if len(reads) == 1:
        return _single(literals[0], reads[0], literals[1], optional)

    def section(run: Run, segment: Segment, raw: str, parts: Sequence[str]) -> tuple[str, bool]:
        values = [read(run, segment, raw, parts) for read in reads]
        if optional and not all(values):
            return "", False
        text = "".join(a + b for a, b in zip(literals, [*values, ""], strict=True))
        return text, any(values)

    return section


def _single(before: str, read: Read, after: str, optional: bool) -> Callable[..., tuple[str, bool]]:
    def section(run: Run, segment: Segment, raw: str, parts: Sequence[str]) -> tuple[str, bool]:
        value = read(run, segment, raw, parts)
        return ("", False) if optional and not value else (f"{before}{value}{after}", bool(value))

    return section
