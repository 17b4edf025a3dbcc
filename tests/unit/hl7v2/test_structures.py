"""The structure tables are what hl7apy's reference tables say; the groups hold no segment that their structure never
has.
"""

from __future__ import annotations

import json

from fhirserver.hl7v2.mapping.structure import walk
from fhirserver.hl7v2.message import Message
from tests.unit.hl7v2.maps import CASES, ROOT, maps
from tools.build_v2_structures import TARGET, build

# In our trees and in no version's structure: senders put them there all the same.
TOLERATED = frozenset(
    [
        "ARV",
        "DB1",
        "PDA",
        "PRT",
        "ROL",
        "RF1",
        "AUT",
        "NTE",
        "TQ1",
        "TQ2",
        "CTI",
        "FT1",
        "BLG",
        "IN3",
        "GT1",
        "AL1",
        "DG1",
        "SAC",
    ]
)


def test_building_the_tables_again_gives_the_same_bytes() -> None:
    assert build() == TARGET.read_bytes()


def test_the_groups_of_a_structure_hold_its_segments() -> None:
    messages = json.loads((ROOT / "mappings" / "structures" / "v2.json").read_text())["messages"]
    strange: dict[str, set[str]] = {}
    for name, tree in maps().structures.groups.items():
        if name in messages and name not in ("OMG_O19", "OML_O21", "ORM_O01") and not name.startswith("ADT_"):
            held = {segment for group in walk(tree) for segment in (*group.anchors, *group.members)}
            if held - set(messages[name]) - TOLERATED:
                strange[name] = held - set(messages[name]) - TOLERATED
    assert strange == {}


def test_segments_are_placed_in_the_group_they_follow() -> None:
    message = Message.parse((CASES / "oru-r01-lab.hl7").read_bytes())
    placed = [(s.name, g.type.name) for s, g in maps().structures.place(message, "ORU_R01")]
    assert placed[:3] == [("MSH", "ORU_R01"), ("PID", "PATIENT"), ("NTE", "PATIENT")]
    assert placed[-4:] == [("OBX", "OBSERVATION"), ("NTE", "OBSERVATION"), ("OBX", "OBSERVATION"), ("SPM", "SPECIMEN")]


def test_a_second_order_stands_in_a_group_of_its_own() -> None:
    message = Message.parse((CASES / "omg-o19-two-orders.hl7").read_bytes())
    orders = [group for segment, group in maps().structures.place(message, "OMG_O19") if segment.name in ("ORC", "OBR")]
    assert orders[0] is orders[1]
    assert orders[2] is orders[3]
    assert orders[0] is not orders[2]
