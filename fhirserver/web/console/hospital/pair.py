"""A message and what became of it, side by side: the fields of the raw text, the lines of the FHIR Bundle, and which
field wrote which line, out of the trace of InboundMessage/$convert.

Pure, and only for the eye: nothing here decides what a message means.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

MOST_SEGMENTS, MOST_FIELD, MOST_LINES = 400, 2_000, 4_000
_FIELD = re.compile(r"([A-Z][A-Z0-9]{2})(?:\[(\d+)\])?(?:-(\d+))?")
_STEP = re.compile(r"[^.(]+(?:\([^)]*\)[^.]*)?")
HEADERS = ("MSH", "FHS", "BHS")
"""Segments whose first field is the separator itself."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One field of a segment: its key (PID[1]-5), its label (PID-5), its text, and whether it wrote anything."""

    key: str
    label: str
    text: str
    traced: bool


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment: its cells, the first of which is its name."""

    name: str
    cells: tuple[Cell, ...]
    separator: str


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the Bundle as JSON: how deep it stands, its text, and the keys of the fields that wrote it."""

    depth: int
    text: str
    keys: tuple[str, ...] = ()
    why: str = ""


@dataclass(frozen=True, slots=True)
class Block:
    """One resource of the Bundle."""

    type: str
    url: str
    lines: tuple[Line, ...]

    def holds(self, key: str) -> bool:
        """Whether a field wrote anything of it."""
        return any(key in line.keys for line in self.lines)


@dataclass(slots=True)
class Trace:
    """One element that was written: by which field, rule and layer."""

    entry: str
    element: str
    field: str
    rule: str
    layer: str


@dataclass(slots=True)
class Pair:
    """Both sides. `cut` says that not all of it is shown."""

    segments: list[Segment] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    mapping: str = ""
    warnings: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    unmapped: list[str] = field(default_factory=list)
    trace: list[Trace] = field(default_factory=list)
    cut: bool = False


def text_of(attachment: Mapping[str, Any]) -> str:
    """The bytes of an Attachment as text: UTF-8 where they are, else each byte a character."""
    try:
        raw = base64.b64decode(str(attachment.get("data", "")), validate=True)
    except (binascii.Error, ValueError):
        return ""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def pair(raw: str, converted: Mapping[str, Any] | None) -> Pair:
    """The two sides of a message; without what it was converted to, the left one alone."""
    made = Pair()
    parts = (converted or {}).get("parameter", ())
    for part in parts:
        if part["name"] in ("warning", "skipped", "unmapped"):
            {"warning": made.warnings, "skipped": made.skipped, "unmapped": made.unmapped}[part["name"]].append(
                str(part["valueString"])
            )
        elif part["name"] == "mapping":
            made.mapping = str(part["valueString"])
        elif part["name"] == "trace":
            said = {each["name"]: str(each.get("valueString", "")) for each in part["part"]}
            made.trace.append(Trace(*(said.get(name, "") for name in ("entry", "element", "field", "rule", "layer"))))
    _inherit(made.trace)
    bundle: Mapping[str, Any] = next((part["resource"] for part in parts if part["name"] == "bundle"), {})
    written = {key for each in made.trace for key in keys_of(each.field)}
    lines = raw.replace("\n", "\r").split("\r")
    made.segments = list(_segments([line for line in lines if line][:MOST_SEGMENTS], written))
    made.blocks = list(_blocks(bundle, made.trace))
    made.cut = len(lines) > MOST_SEGMENTS or sum(len(block.lines) for block in made.blocks) >= MOST_LINES
    return made


def keys_of(source: str) -> list[str]:
    """The keys of the fields that a trace names, as PID[1]-5: without component and repetition."""
    if source == "$trigger":
        return ["MSH[1]-9"]
    return [
        f"{segment}[{number or 1}]" + (f"-{each}" if each else "") for segment, number, each in _FIELD.findall(source)
    ]


def _inherit(trace: Sequence[Trace]) -> None:
    """A rule that reads `the value at hand` (^) read what the rule around it did."""
    around = {(each.entry, each.rule, each.element): each.field for each in trace}
    for each in trace:
        if each.field.startswith("^"):
            rule, element = each.rule, each.element
            while "/" in rule and each.field.startswith("^"):
                rule = rule.rpartition("/")[0]
                found = (around.get((each.entry, rule, above)) for above in _above(element))
                each.field = next((text for text in found if text and not text.startswith("^")), each.field)


def _above(element: str) -> Iterator[str]:
    while element:
        yield element
        yield re.sub(r"\[\d+\]$", "", element)
        element = element.rpartition(".")[0]


def _segments(lines: Sequence[str], written: set[str]) -> Iterator[Segment]:
    separator = lines[0][3:4] if lines else "|"
    counts: dict[str, int] = {}
    for line in lines:
        name, *fields = line.split(separator) if separator else [line]
        name = name[:60]
        counts[name] = counts.get(name, 0) + 1
        begin = 2 if name in HEADERS else 1
        segment = f"{name}[{counts[name]}]"
        cells = [Cell(segment, name, name, segment in written)]
        for number, text in enumerate(fields, begin):
            key = f"{segment}-{number}"
            cells.append(Cell(key, f"{name}-{number}", text[:MOST_FIELD], key in written))
        yield Segment(name, tuple(cells), separator)


def _blocks(bundle: Mapping[str, Any], trace: Sequence[Trace]) -> Iterator[Block]:
    room = MOST_LINES
    for entry in bundle.get("entry", ()):
        resource = entry["resource"]
        table: dict[tuple[str, ...], list[Trace]] = {}
        for each in trace:
            if each.entry == entry.get("fullUrl"):
                table.setdefault(tuple(map(_step, _STEP.findall(each.element))), []).append(each)
        lines = []
        for line in _object("", resource, 0, (str(resource["resourceType"]),), table, last=True):
            lines.append(line)
            if len(lines) >= room:
                break
        room -= len(lines)
        yield Block(str(resource["resourceType"]), str(entry.get("fullUrl", "")), tuple(lines))
        if room <= 0:
            return


Table = Mapping[tuple[str, ...], Sequence[Trace]]


def _object(label: str, value: Any, depth: int, path: tuple[str, ...], table: Table, *, last: bool) -> Iterator[Line]:
    keys, why = _written(path, table)
    comma = "" if last else ","
    if isinstance(value, dict) and value:
        yield Line(depth, f"{label}{{", keys, why)
        names = list(value)
        for name in names:
            below = (*path, name.removeprefix("_"))
            inner = f"{json.dumps(name)}: "
            yield from _object(inner, value[name], depth + 1, below, table, last=name == names[-1])
        yield Line(depth, f"}}{comma}", keys, why)
    elif isinstance(value, list) and value:
        yield Line(depth, f"{label}[", keys, why)
        for number, each in enumerate(value):
            step = f"{path[-1]}[{number}]"
            if isinstance(each, dict) and path[-1] == "extension" and each.get("url"):
                step = _step(f"extension({each['url']})")
            yield from _object("", each, depth + 1, (*path[:-1], step), table, last=number == len(value) - 1)
        yield Line(depth, f"]{comma}", keys, why)
    else:
        yield Line(depth, f"{label}{_scalar(value)}{comma}", keys, why)


def _scalar(value: Any) -> str:
    return str(value) if isinstance(value, Decimal) else json.dumps(value, ensure_ascii=False)


def _written(path: tuple[str, ...], table: Table) -> tuple[tuple[str, ...], str]:
    """The fields that wrote what stands at a path: those of the element itself, else of the one it is in."""
    for length in range(len(path), 0, -1):
        for steps in _alike(path[:length]):
            found = table.get(steps)
            if found:
                keys = dict.fromkeys(key for each in found for key in keys_of(each.field))
                said = dict.fromkeys(f"{each.field} · {each.rule} · {each.layer}" for each in found)
                return tuple(keys), "\n".join(said)
    return (), ""


def _step(text: str) -> str:
    """A step of a path; an extension by the last part of its URL, which is how rules name those of FHIR."""
    return f"extension({text[10:-1].rpartition('/')[2]})" if text.startswith("extension(") else text


def _alike(path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """How a trace may name what stands at a path: with its place in the list, or without."""
    yield path
    *above, last = path
    if last.endswith("]"):
        yield (*above, last.rpartition("[")[0])
    else:
        yield (*above, f"{last}[0]")
