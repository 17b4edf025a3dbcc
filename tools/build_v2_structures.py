"""Builds mappings/structures/v2.json: which fields a segment has, which components a datatype has, over all versions
of HL7v2.

Read from hl7apy's reference tables of all versions; the newest version that does not withdraw a field decides its
datatype and table.
Run it with no arguments; the same hl7apy gives the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

VERSIONS = ("2_8_2", "2_8_1", "2_8", "2_7", "2_6", "2_5_1", "2_5", "2_4", "2_3_1", "2_3", "2_2", "2_1")
TARGET = Path(__file__).parent.parent / "mappings" / "structures" / "v2.json"
# Where the reference tables themselves are wrong: hl7apy gives OBR-27 of version 2.7 the datatype of OBR-26.
CORRECTIONS = {("OBR", 27): "TQ"}
WITHDRAWN = ("WD", "", None)


def build() -> bytes:
    """The JSON text: segments and datatypes as lists of `TYPE` or `TYPE:table`, message structures as their
    segments.
    """
    segments: dict[str, dict[int, str]] = {}
    datatypes: dict[str, dict[int, str]] = {}
    messages: dict[str, list[str]] = {}
    for version in VERSIONS:
        package = f"hl7apy.v{version}"
        for name, definition in import_module(f"{package}.segments").SEGMENTS.items():
            _merge(segments.setdefault(name, {}), definition)
        structures = import_module(f"{package}.datatypes")
        for name, members in structures.DATATYPES_STRUCTS.items():
            _merge(datatypes.setdefault(name, {}), ("sequence", members))
        for name, definition in import_module(f"{package}.messages").MESSAGES.items():
            messages.setdefault(name, sorted(_segments(definition)))
    for (name, number), datatype in CORRECTIONS.items():
        segments[name][number] = datatype
    value = {"segments": _listed(segments), "datatypes": _listed(datatypes), "messages": messages}
    return (json.dumps(value, sort_keys=True, separators=(",", ":")) + "\n").encode()


def _merge(found: dict[int, str], definition: Any) -> None:
    if len(definition) < 2 or definition[0] not in ("sequence", "choice"):
        return
    for name, reference, *_ in definition[1]:
        number = name.rpartition("_")[2]
        if not number.isdigit():
            continue
        datatype, table = reference[2], reference[4]
        kept = found.get(int(number), "")
        if not kept and datatype not in WITHDRAWN:
            found[int(number)] = f"{datatype}:{table.removeprefix('HL7')}" if table else datatype


def _segments(definition: Any) -> set[str]:
    found: set[str] = set()
    for name, reference, _, kind in definition[1]:
        found |= {name} if kind == "SEG" else _segments(reference)
    return found


def _listed(found: Mapping[str, Mapping[int, str]]) -> dict[str, list[str]]:
    return {
        name: [members.get(n, "") for n in range(1, max(members) + 1)]
        for name, members in sorted(found.items())
        if members
    }


if __name__ == "__main__":
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_bytes(build())
