"""What compiled rules do: read, convert, write. Each function here makes the closure of one kind of rule or
conversion.
"""

from __future__ import annotations

import marshal
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fhirserver.fhir.problem import problem
from fhirserver.hl7v2.mapping import conditions, grammar, values
from fhirserver.hl7v2.mapping.functions import Convert
from fhirserver.hl7v2.mapping.paths import Target
from fhirserver.hl7v2.mapping.run import Entry, Run, Unmapped
from fhirserver.hl7v2.mapping.tables import Table
from fhirserver.hl7v2.message import NULL, Segment

MOST_REMEMBERED = 10_000
MOST_REMEMBERED_TEXT = 500

Rule = Callable[[Run, Segment, str, Sequence[str], dict[str, Any]], None]
Write = Callable[[Run, Segment, dict[str, Any], Any, str], None]
"""Writes a value into an object; the last argument is the source, for the trace."""
Members = Sequence[tuple[int, Rule]]
"""Rules in their order, each with the number of the field (in a segment map) or component without which it does
nothing; 0 for a rule that must always be asked."""


def each(members: Members, run: Run, segment: Segment, raw: str, parts: Sequence[str], out: dict[str, Any]) -> None:
    """Runs the rules of an object, passing over those whose component is empty."""
    count = len(parts)
    for number, rule in members:
        if not number or (number <= count and parts[number - 1]):
            rule(run, segment, raw, parts, out)


def copied(value: Any) -> Any:
    """A copy of a JSON value."""
    if isinstance(value, dict):
        return {name: copied(member) for name, member in value.items()}
    if isinstance(value, list):
        return [copied(member) for member in value]
    return tuple(copied(member) for member in value) if isinstance(value, tuple) else value


def copier(value: Any) -> Callable[[], Any]:
    """Makes copies of a JSON value, each time a new one: by marshal, four times as fast as `copied`, where it can."""
    try:
        frozen = marshal.dumps(value)
    except ValueError:  # it has a Decimal in it
        return lambda: copied(value)
    return lambda: marshal.loads(frozen)  # noqa: S302 - our own bytes, out of this process


def where_begun(rule: Rule) -> Rule:
    def begun(run: Run, segment: Segment, raw: str, parts: Sequence[str], out: dict[str, Any]) -> None:
        if out and (len(out) > 1 or "resourceType" not in out):
            rule(run, segment, raw, parts, out)

    return begun


def guarded(check: conditions.Check, rule: Rule) -> Rule:
    def guarded(run: Run, segment: Segment, raw: str, parts: Sequence[str], out: dict[str, Any]) -> None:
        if check(run, segment, raw, parts):
            rule(run, segment, raw, parts, out)

    return guarded


def filled(convert: Convert, literal: Mapping[str, Any]) -> Convert:
    """What the sender left out of an object, taken from the rule: the home telephone is for use at home."""

    def filled(run: Run, segment: Segment, text: str) -> Any:
        value = convert(run, segment, text)
        if value is not None:
            for name, member in literal.items():
                value.setdefault(name, copied(member))
        return value

    return filled


def defaulting(element: str, rule: Rule) -> Rule:
    """What this rule writes serves a resource that is new; it says nothing about one that is stored already."""

    def defaulting(run: Run, segment: Segment, raw: str, parts: Sequence[str], out: dict[str, Any]) -> None:
        if element not in out:
            rule(run, segment, raw, parts, out)
            run.entry.defaulted.add(element)

    return defaulting


def where_absent(element: str, rule: Rule) -> Rule:
    """What is written only where no rule before it has filled the element."""

    def absent(run: Run, segment: Segment, raw: str, parts: Sequence[str], out: dict[str, Any]) -> None:
        if element not in out and f"_{element}" not in out:
            rule(run, segment, raw, parts, out)

    return absent


def literal(value: Any, write: Write, where: str, own: str) -> Rule:
    plain, fresh = not isinstance(value, (dict, list)), copier(value)

    def literal(run: Run, segment: Segment, raw: str, parts: Sequence[str], out: dict[str, Any]) -> None:
        write(run, segment, out, value if plain else fresh(), "")

    return literal


def link(name: str, write: Write, path: Target) -> Rule:
    if path.property.type != "Reference":
        raise problem("invalid", f"`{path.text}` is a {path.property.type}; a link needs a Reference")

    def link(run: Run, segment: Segment, raw: str, parts: Sequence[str], out: dict[str, Any]) -> None:
        entry = named(run, name)
        if entry is not None:
            write(run, segment, out, reference_to(entry), "")

    return link


def named(run: Run, name: str) -> Entry | None:
    """The resource made under a name: in this group, one around it, or shared by the whole message."""
    group: Any = run.group
    while group is not None:
        if name in group.scope:
            found: Entry = group.scope[name]
            return found
        group = group.parent
    return run.shared.get(name)


def reference_to(entry: Entry, display: str = "") -> dict[str, Any]:
    """A Reference to an entry; its fullUrl is filled in when the Bundle is put together."""
    reference: dict[str, Any] = {"reference": ""}
    if display:
        reference["display"] = display
    entry.references.append(reference)
    return reference


def fields(src: grammar.Source, own: str, depth: int, convert: Convert, write: Write, path: Target) -> Rule:
    """Reads a field (its repetitions where the target repeats), converts and writes; notes an explicit null."""
    read, many = conditions.field_of(src, own), path.many and src.segment != "^"
    whole = not src.component
    top = bool(own) and src.field > 0 and depth == 0
    text, start, element = str(src), depth if src.segment == "^" else 0, path.element

    def rule(run: Run, segment: Segment, raw: str, parts: Sequence[str], out: dict[str, Any]) -> None:
        found = read(run, segment, raw, parts)
        if not found:
            return
        if found == NULL:
            if top:
                run.entry.deletes.append(element)
            return
        if top:
            run.field = text
        pieces = found.split(run.repetition) if src.field and run.repetition and run.repetition in found else [found]
        for piece in pieces if many else pieces[:1]:
            part = piece if whole else conditions.component_of(run, piece, src, start)
            value = convert(run, segment, part) if part and part != NULL else None
            if value is not None:
                write(run, segment, out, value, text)

    if src.segment == "^" and src.component and not src.subcomponent:
        return component(src.component - 1, convert, write, text)
    return rule


def lines(src: grammar.Source, own: str, write: Write, path: Target, append: bool) -> Rule:
    """Text whose repetitions are lines, delimiters that somebody forgot to escape included; `append` goes on after
    what is there already.
    """
    read, text, name = conditions.field_of(src, own), str(src), path.property.name

    def rule(run: Run, segment: Segment, raw: str, parts: Sequence[str], out: dict[str, Any]) -> None:
        found = read(run, segment, raw, parts)
        pieces = found.split(run.repetition) if run.repetition else [found]
        value = "\n".join(values.whole(run, piece) for piece in pieces).strip("\n")
        if value:
            write(run, segment, out, f"{out[name]}\n{value}" if append and name in out else value, text)

    return rule


def component(number: int, convert: Convert, write: Write, text: str) -> Rule:
    def component(run: Run, segment: Segment, raw: str, parts: Sequence[str], out: dict[str, Any]) -> None:
        if number < len(parts):
            part = parts[number]
            if part and part != NULL:
                value = convert(run, segment, part)
                if value is not None:
                    write(run, segment, out, value, text)

    return component


def text_at(depth: int) -> Convert:
    """The decoded text of the first subcomponent; None for none."""

    def text_of(run: Run, segment: Segment, text: str) -> str | None:
        if depth and run.subcomponent not in text and run.escape not in text:
            return text.strip() or None
        return values.leaf(run, text, depth) or None

    return text_of


def complex(members: Members, depth: int) -> Convert:
    """An object made by the rules of a datatype map. They are counted as used, but the trace names the field's own
    rule.
    """

    def convert(run: Run, segment: Segment, text: str) -> Any:
        kept = len(run.entry.traces) if run.trace else 0
        item: dict[str, Any] = {}
        parts = text.split(run.component) if depth == 0 and run.component else values.parts_of(run, text, depth)
        count = len(parts)
        for number, rule in members:
            if not number or (number <= count and parts[number - 1]):
                rule(run, segment, text, parts, item)
        if run.trace:
            del run.entry.traces[kept:]
        return item or None

    return convert


def reference(
    made: str, members: Members, display: conditions.Read, depth: int, name: str, *, remembered: bool
) -> Convert:
    """A Reference to the resource that a datatype map makes: to an entry where it has an identifier, else by its
    display. Whoever stands in a message twice is read once; with `remembered`, whoever stood in a message before.
    """
    read = _reading(made, members, display, depth)
    if remembered:
        read = remembering(read)

    def found_in(run: Run, segment: Segment, text: str) -> tuple[Entry | None, str]:
        kept = len(run.entry.traces) if run.trace else 0
        resource, shown = read(run, segment, text)
        entry = run.known(made, resource) if len(resource) > 1 else None
        if run.trace:
            del run.entry.traces[kept:]
            if entry is not None:
                entry.traces.append(("", place(segment, run.field), name))
        return entry, shown

    def convert(run: Run, segment: Segment, text: str) -> Any:
        key = (name, depth, text)
        found = run.references.get(key)
        if found is None:
            found = run.references[key] = found_in(run, segment, text)
        entry, shown = found
        if entry is not None:
            return reference_to(entry, shown)
        return {"type": made, "display": shown} if shown else None

    return convert


ReadResource = Callable[[Run, Segment, str], tuple[dict[str, Any], str]]


def _reading(made: str, members: Members, display: conditions.Read, depth: int) -> ReadResource:
    def read(run: Run, segment: Segment, text: str) -> tuple[dict[str, Any], str]:
        resource: dict[str, Any] = {"resourceType": made}
        parts = values.parts_of(run, text, depth)
        each(members, run, segment, text, parts, resource)
        return resource, display(run, segment, text, parts)

    return read


def remembering(read: Callable[[Run, Segment, str], Any]) -> Callable[[Run, Segment, str], Any]:
    """Reads a text once for all messages that are read alike: the same codes, clinicians and places stand in most of
    them. What gave a warning is read anew each time.
    """
    memory: dict[tuple[Any, str], Callable[[], Any]] = {}

    def remember(run: Run, segment: Segment, text: str) -> Any:
        if run.trace or len(text) > MOST_REMEMBERED_TEXT:
            return read(run, segment, text)
        key = (run.reading, text)
        fresh = memory.get(key)
        if fresh is not None:
            return fresh()
        before = len(run.warnings) + len(run.unmapped)
        found = read(run, segment, text)
        if len(run.warnings) + len(run.unmapped) == before:
            if len(memory) >= MOST_REMEMBERED:
                memory.clear()
            memory[key] = copier(found)
        return found

    return remember


def fill(
    run: Run, path: str, members: Members, segment: Segment, raw: str, parts: Sequence[str], item: dict[str, Any]
) -> None:
    outer = run.prefix
    if run.trace:
        name = path.replace("+", "")
        held = run.entry.resource.get(name) if not outer else None
        run.prefix = f"{outer}{name}[{len(held or ())}]." if path.endswith("+") else f"{outer}{name}."
    each(members, run, segment, raw, parts, item)
    run.prefix = outer


def with_codes(
    where: str, convert: Convert, table: Table | None, system: str, depth: int, type: str, needed: bool
) -> Convert:
    """A coded value with the table's own coding put first; the code system of the field for codes that name none."""
    source = system or (table.source if table else "")

    def coded(run: Run, segment: Segment, text: str) -> Any:
        value = convert(run, segment, text)
        code = values.leaf(run, values.parts_of(run, text, depth)[0], depth + 1)
        if value is None or not code:
            return value
        codings = [value] if type == "Coding" else value.setdefault("coding", [])
        for coding in codings:
            if coding.get("code") == code and source:
                coding.setdefault("system", source)
        mapped = table.translate(code) if table else None
        if mapped is not None:
            return enriched(value, codings, one_coding(mapped.system, mapped.code, mapped.display), type)
        if table is not None:
            run.unmapped.append(Unmapped(table.name, code[:80], run.field, where, needed))
        return value

    return coded


def enriched(value: dict[str, Any], codings: list[dict[str, Any]], mapped: dict[str, Any], type: str) -> dict[str, Any]:
    for coding in codings:
        if coding.get("system") == mapped.get("system") and coding.get("code") == mapped["code"]:
            if "display" in mapped:
                coding.setdefault("display", mapped["display"])
            return value
    if type == "Coding":
        return mapped
    codings.insert(0, mapped)
    return value


def one_coding(system: str, code: str, display: str) -> dict[str, Any]:
    made = {"system": system, "code": code, "display": display}
    return {name: text for name, text in made.items() if text}


def place(segment: Segment, source: str) -> str:
    """`PID[1]-3`: the field of a source in its occurrence of the segment."""
    same = segment.message.all(segment.name)
    occurrence = same.index(segment) + 1
    if source.startswith(f"{segment.name}-"):
        return f"{segment.name}[{occurrence}]{source[len(segment.name) :]}"
    return source or f"{segment.name}[{occurrence}]"
