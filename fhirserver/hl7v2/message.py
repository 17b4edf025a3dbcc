"""A lazy HL7v2 message: split only as far as it is asked, tolerant of what senders really send, losing nothing.

HL7 v2.8.2 chapter 2: 2.5 (segments, fields, delimiters, `""`), 2.7 (escapes). Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from fhirserver.fhir.problem import Problem, problem
from fhirserver.hl7v2 import charset as charsets
from fhirserver.hl7v2.escape import CONTROLS, Escapes

NULL = '""'
MAX_BYTES = 64 * 1024 * 1024
MAX_SEGMENTS = 20_000
MAX_REPETITIONS = 10_000
"""Repetitions in one segment; and ten times as many in a message. Each may become an element with parts of its own."""
MOST_WARNINGS = 100
MOST_HEADER = 8192
_AROUND = b"\x00\x0b\x1c\r\n\t "
VERSIONS = ("2.1", "2.2", "2.3", "2.3.1", "2.4", "2.5", "2.5.1", "2.6", "2.7", "2.7.1", "2.8", "2.8.1", "2.8.2", "2.9")

_SEGMENT = re.compile(r"[A-Za-z][A-Za-z0-9]{2}$")
_PATH = re.compile(r"([A-Z][A-Z0-9]{2})(?:\[(\d{1,5})\])?-(\d{1,3})(?:\[(\d{1,5})\])?(?:\.(\d{1,3}))?(?:\.(\d{1,3}))?$")


class Segment:
    """One segment. `fields[n]` is the raw text of field n (of MSH too: MSH-1 is the separator itself); `fields[0]`
    its name.
    """

    __slots__ = ("fields", "message", "name", "number", "text")
    fields: list[str]

    def __init__(self, message: Message, name: str, text: str, number: int) -> None:
        self.message = message
        self.name = name
        self.text = text
        self.number = number

    def __getattr__(self, name: str) -> Any:
        """The fields, split at the first use: from then on they are an attribute like the others."""
        if name != "fields":
            raise AttributeError(name)
        separator = self.message.field
        parts = self.text.split(separator)
        if self.name in ("MSH", "FHS", "BHS"):
            parts.insert(1, separator)
        self.fields = parts
        return parts

    def raw(self, number: int) -> str:
        """The raw text of a field, empty where the segment is shorter."""
        fields = self.fields
        return fields[number] if number < len(fields) else ""

    def repetitions(self, number: int) -> list[str]:
        """The raw repetitions of a field; none for an empty field."""
        raw = self.raw(number)
        if not raw:
            return []
        return raw.split(self.message.repetition) if self.message.repetition and number > 2 else [raw]

    def value(self, number: int, component: int = 1, subcomponent: int = 1, repetition: int = 1) -> str:
        """The decoded text of one subcomponent, empty where absent. An explicit null reads as `""` (two quotes)."""
        found = self.repetitions(number)
        return self.message.part(found[repetition - 1], component, subcomponent) if repetition <= len(found) else ""

    def __repr__(self) -> str:
        return f"Segment({self.name}, {self.number})"


class Message:
    """A parsed message. Make one with `Message.parse`; `segments` keep the sender's order, Z segments and all."""

    __slots__ = (
        "_by_name",
        "_read",
        "charset",
        "component",
        "escape",
        "escapes",
        "field",
        "raw",
        "repetition",
        "segments",
        "subcomponent",
        "warnings",
    )

    def __init__(self, raw: bytes, codec: str, delimiters: str, warnings: list[str]) -> None:
        self.raw = raw
        self.charset = codec
        self.field = delimiters[0]
        rest = delimiters[1:5].ljust(4, "\0")
        self.component, self.repetition, self.escape, self.subcomponent = (c if c != "\0" else "" for c in rest)
        self.escapes = Escapes(self.field, self.component, self.repetition, self.escape, self.subcomponent, codec)
        self.warnings = warnings
        self.segments: list[Segment] = []
        self._by_name: dict[str, list[Segment]] = {}
        self._read: dict[str, str] = {}

    @classmethod
    def parse(
        cls, raw: bytes, charset: str = charsets.DEFAULT, *, limit: int = MAX_BYTES, force: bool = False
    ) -> Message:
        """The message in these bytes. `charset` is the endpoint's set, used where MSH-18 is empty (or always, with
        `force`).

        Raises Problem(structure) where there is no MSH with delimiters, Problem(too-long) beyond the size or segment
        bounds.
        """
        if len(raw) > limit:
            raise problem("too-long", f"The message has {len(raw)} bytes; at most {limit} are taken.")
        charsets.refuse_wide(raw)
        body = raw.removeprefix(b"\xef\xbb\xbf").strip(_AROUND)
        delimiters = _delimiters(body)
        text, codec, warnings = charsets.decode(body, () if force else _declared(body, delimiters), charset)
        if body[3 : 3 + len(delimiters)].decode("latin-1") != delimiters:
            warnings.append("MSH-2 gives one delimiter twice; the second was passed over")
        message = cls(raw, codec, delimiters, warnings)
        message._split(text)
        return message

    @classmethod
    def header(cls, raw: bytes) -> Message | None:
        """The first segment alone of bytes that are refused as a whole, None where that cannot be read either."""
        line = raw.lstrip(_AROUND).replace(b"\n", b"\r").partition(b"\r")[0]
        try:
            return cls.parse(line[:MOST_HEADER])
        except Problem:
            return None

    def _split(self, text: str) -> None:
        if CONTROLS.search(text):
            text = CONTROLS.sub(" ", text)
            self.warnings.append("control characters were taken out, which no text may have")
        text = text.replace("\r\n", "\r").replace("\n", "\r")
        self._bound(text)
        lines: list[str] = []
        for line in text.split("\r"):
            if line[3:4] in (self.field, "") and _SEGMENT.match(line[:3]):
                self._add(lines)
                lines = [line]
            elif line.strip():
                lines.append(line)
        self._add(lines)

    def _bound(self, text: str) -> None:
        if text.count("\r") >= MAX_SEGMENTS:
            raise problem("too-long", f"The message has more than {MAX_SEGMENTS} lines.")
        if self.repetition and text.count(self.repetition) > 10 * MAX_REPETITIONS:
            raise problem("too-long", f"The message has more than {10 * MAX_REPETITIONS} repetitions.")

    def _add(self, lines: list[str]) -> None:
        """A segment. A line that is none is text broken by the sender: it belongs to the segment before it."""
        if not lines:
            return
        name, number = lines[0][:3].upper(), len(self.segments) + 1
        segment = Segment(self, name, "\n".join(lines), number)
        if self.repetition and segment.text.count(self.repetition) > MAX_REPETITIONS:
            text = f"{name} (segment {number}) has more than {MAX_REPETITIONS} repetitions."
            raise problem("too-long", text, name)
        self.segments.append(segment)
        self._by_name.setdefault(name, []).append(segment)
        text = f"a line that is no segment was appended to {name} (segment {number})"
        self.warnings += [text] * min(len(lines) - 1, MOST_WARNINGS - len(self.warnings))

    def all(self, name: str) -> list[Segment]:
        """Every segment of that name, in order."""
        return self._by_name.get(name, [])

    def first(self, name: str) -> Segment | None:
        """The first segment of that name, or None."""
        found = self._by_name.get(name)
        return found[0] if found else None

    def part(self, text: str, component: int = 1, subcomponent: int = 1) -> str:
        """The decoded text of one subcomponent of one raw repetition."""
        if self.component and self.component in text:
            parts = text.split(self.component)
            text = parts[component - 1] if component <= len(parts) else ""
        elif component > 1:
            return ""
        if self.subcomponent and self.subcomponent in text:
            parts = text.split(self.subcomponent)
            text = parts[subcomponent - 1] if subcomponent <= len(parts) else ""
        elif subcomponent > 1:
            return ""
        return self.escapes.decode(text)

    def __getitem__(self, path: str) -> str:
        """`message["PID-3.1"]`, `message["OBX[2]-5[1].2.1"]`: decoded text, empty where absent. Raises KeyError for a
        bad path.
        """
        said = self._read.get(path)
        if said is None:  # of the header the same is asked again and again
            said = self._read[path] = self._value(*parse_path(path))
        return said

    def _value(
        self, name: str, occurrence: int, number: int, repetition: int, component: int, subcomponent: int
    ) -> str:
        found = self._by_name.get(name, [])
        if occurrence > len(found):
            return ""
        segment = found[occurrence - 1]
        if name in ("MSH", "FHS", "BHS") and number <= 2:
            return segment.raw(number)
        return segment.value(number, component, subcomponent, repetition)

    def __iter__(self) -> Iterator[Segment]:
        return iter(self.segments)

    @property
    def control_id(self) -> str:
        """MSH-10 as the sender wrote it, not decoded: an acknowledgment gives it back byte for byte."""
        return self.segments[0].raw(10)

    @property
    def code(self) -> str:
        """MSH-9.1, the message code (`ADT`)."""
        return self["MSH-9.1"].upper() or "ACK" * ("MSA" in self._by_name)

    @property
    def trigger(self) -> str:
        """MSH-9.2, the trigger event (`A01`); read from EVN-1, or from `ADT_A01` or `ADT-A01` in MSH-9.1, where the
        sender left it out.
        """
        return self["MSH-9.2"].upper() or self["EVN-1"].upper()

    @property
    def event(self) -> str:
        """Code and trigger as one word: `ADT_A01`."""
        return f"{self.code}_{self.trigger}" if self.trigger else self.code

    @property
    def version(self) -> str:
        """The known version nearest to MSH-12.1."""
        return nearest_version(self["MSH-12.1"])


def _delimiters(body: bytes) -> str:
    if body[:3].upper() not in (b"MSH", b"FHS", b"BHS"):
        raise problem("structure", "The message does not begin with an MSH segment.", "MSH")
    end = next((i for i, byte in enumerate(body[:12]) if i > 3 and byte in (body[3], 13, 10)), min(len(body), 9))
    characters = body[3:end].decode("latin-1")
    drawn = characters.isascii() and characters.isprintable() and not any(c.isalnum() or c == " " for c in characters)
    if len(characters) < 3 or not drawn:
        raise problem("structure", "MSH-1 and MSH-2 do not give the delimiters.", "MSH-2")
    return "".join(dict.fromkeys(characters))


def _declared(body: bytes, delimiters: str) -> list[str]:
    """The repetitions of MSH-18: read as Latin-1, since table 0211 and the delimiters are ASCII."""
    end = min((i for i in (body.find(b"\r"), body.find(b"\n")) if i >= 0), default=len(body))
    fields = body[: min(end, MOST_HEADER)].decode("latin-1").split(delimiters[0])
    return fields[17].split(delimiters[2]) if len(fields) > 17 and fields[17] else []


@lru_cache(maxsize=1024)
def nearest_version(text: str) -> str:
    """The known version nearest to `2.3.1`, `v2.5`, `2.10`; the newest not above it; 2.5 for nonsense."""
    found = re.search(r"(\d{1,2})\.(\d{1,2})(?:\.(\d{1,2}))?", text)
    if not found:
        return "2.5"
    wanted = tuple(int(part or 0) for part in found.groups())
    known: Mapping[str, tuple[int, ...]] = {v: tuple(int(p) for p in (v + ".0").split(".")[:3]) for v in VERSIONS}
    return max((v for v in VERSIONS if known[v] <= wanted), key=lambda v: known[v], default=VERSIONS[0])


@lru_cache(maxsize=4096)
def parse_path(path: str) -> tuple[str, int, int, int, int, int]:
    """Segment, its occurrence, field, repetition, component, subcomponent of a path; each 1 where unsaid. Raises
    KeyError.
    """
    match = _PATH.match(path)
    if not match:
        raise KeyError(path)
    name, occurrence, number, repetition, component, subcomponent = match.groups()
    return name, int(occurrence or 1), int(number), int(repetition or 1), int(component or 1), int(subcomponent or 1)
