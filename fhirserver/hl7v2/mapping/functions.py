"""The few named functions that a rule may read a field with, where neither a datatype map nor a table can say it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fhirserver.hl7v2.mapping import conditions, times, values
from fhirserver.hl7v2.mapping.run import Run
from fhirserver.hl7v2.mapping.tables import Table
from fhirserver.hl7v2.message import Segment

Convert = Callable[[Run, Segment, str], Any]
Function = Callable[[int, Table, list[conditions.Read]], Convert]


def _authority(depth: int, systems: Table, plus: list[conditions.Read]) -> Convert:
    def convert(run: Run, segment: Segment, text: str) -> str:
        found = [values.leaf(run, part, depth + 1) for part in values.parts_of(run, text, depth)[:3]] + ["", "", ""]
        return values.authority(run, found[0], found[1], found[2])

    return convert


def _universal(depth: int, systems: Table, plus: list[conditions.Read]) -> Convert:
    def convert(run: Run, segment: Segment, text: str) -> str | None:
        found = [values.leaf(run, part, depth + 1) for part in values.parts_of(run, text, depth)[:3]] + ["", "", ""]
        return values.universal_uri(found[1], found[2]) if found[1] else values.universal_uri(found[0], "")

    return convert


def _local_authority(depth: int, systems: Table, plus: list[conditions.Read]) -> Convert:
    return lambda run, segment, text: values.authority(run, "", "", "")


def _coding_system(depth: int, systems: Table, plus: list[conditions.Read]) -> Convert:
    return lambda run, segment, text: values.coding_system(run, systems, values.leaf(run, text, depth))


def _whole(depth: int, systems: Table, plus: list[conditions.Read]) -> Convert:
    return lambda run, segment, text: values.whole(run, text) or None


def _narrative(depth: int, systems: Table, plus: list[conditions.Read]) -> Convert:
    def convert(run: Run, segment: Segment, text: str) -> Any:
        found = values.whole(run, text)
        return values.narrative(found) if found else None

    return convert


def _later(depth: int, systems: Table, plus: list[conditions.Read]) -> Convert:
    """The moment read, plus the duration (and its unit) that `plus` names: [AIS-7, AIS-8]."""

    def convert(run: Run, segment: Segment, text: str) -> Any:
        start = values.PRIMITIVES["dateTime"](run, values.leaf(run, text, depth))
        amount = plus[0](run, segment, "", ()) if plus else ""
        unit = plus[1](run, segment, "", ()) if len(plus) > 1 else ""
        added = values.minutes(amount, unit)
        return times.plus_minutes(start, float(added)) if start and added is not None else None

    return convert


def _entity_authority(depth: int, systems: Table, plus: list[conditions.Read]) -> Convert:
    """The system of an EI: its components 2 to 4 are an HD laid flat."""

    def convert(run: Run, segment: Segment, text: str) -> str:
        found = [values.leaf(run, part, depth + 1) for part in values.parts_of(run, text, depth)[1:4]] + ["", "", ""]
        return values.authority(run, found[0], found[1], found[2])

    return convert


def _namespace(kind: str) -> Function:
    """A system of ours for things that senders only name: `<namespace>facility`."""

    def made(depth: int, systems: Table, plus: list[conditions.Read]) -> Convert:
        return lambda run, segment, text: f"{run.context.namespace}{kind}" if values.leaf(run, text, depth) else None

    return made


FUNCTIONS: Mapping[str, Function] = {
    "authority": _authority,
    "sender-authority": _local_authority,
    "universal": _universal,
    "coding-system": _coding_system,
    "text": _whole,
    "narrative": _narrative,
    "later": _later,
    "entity-authority": _entity_authority,
    "facility-system": _namespace("facility"),
    "location-system": _namespace("location"),
    "device-system": _namespace("device"),
    "plan-system": _namespace("plan"),
}
