"""An overlay of mapping rules as a form: a ConceptMap to fields that people fill in, and back. Pure.

A card of the form is a map, a row of it a rule or, in a table, a code. What no field shows stays as it is: of a rule in
`more`, of a card in `more`, of the whole in `rest`. What it means is said by the server ($validate, $convert).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from fhirserver.fhir import Resource
from fhirserver.fhir.json import decode, encode
from fhirserver.fhir.problem import Issue, Problem
from fhirserver.rules.model import CANONICAL

OVERLAY = f"{CANONICAL}/StructureDefinition/hl7v2-overlay"
MAP = f"{CANONICAL}/StructureDefinition/hl7v2-map"
RULE = f"{CANONICAL}/StructureDefinition/hl7v2-rule"
KINDS = ("segment", "fragment", "message", "datatype", "table")
"""The kinds of maps that cards are for; groups of other kinds are kept as they are."""
ACTIONS = ("add", "replace", "remove")
MODES = ("on", "make", "new")
TEXTS = ("id", "table", "as", "when", "unmapped", "value", "use")
"""The parts of a rule that are one text, and have a field each."""
HEADS = ("title", "endpoint", "sending-application", "sending-facility", "timezone", "charset")
MOST_CARDS, MOST_ROWS, MOST_LIST = 100, 500, 50
_NUMBERED = re.compile(r"(\d+)[\s:]+([A-Za-z]+)$")


@dataclass(slots=True)
class Row:
    """A rule: `said` by the names of its fields (action, source, target, mode, beside, more, and TEXTS); a code of a
    table: code, target, display.
    """

    said: dict[str, str] = field(default_factory=dict)
    fresh: bool = False
    """Whether it was added just now: that is where the cursor goes."""

    @property
    def empty(self) -> bool:
        """Whether nothing was filled in: then it is left out."""
        return not any(value.strip() for name, value in self.said.items() if name not in ("action", "mode"))


@dataclass(slots=True)
class Card:
    """A map: its kind and name, the FHIR type of a new one, the systems of a table, and its rows."""

    kind: str = "segment"
    name: str = ""
    type: str = ""
    source: str = ""
    target: str = ""
    more: str = ""
    rows: list[Row] = field(default_factory=list)
    fresh: bool = False


@dataclass(slots=True)
class Sheet:
    """The whole form. `heads` are by HEADS; `segments` pairs of a Z segment and its fields, as "2 IS, 3 CWE";
    `authorities` pairs of a namespace and its URI; `required` names of tables, with commas; `rest` JSON.
    """

    heads: dict[str, str] = field(default_factory=dict)
    authorities: list[tuple[str, str]] = field(default_factory=list)
    segments: list[tuple[str, str]] = field(default_factory=list)
    required: str = ""
    cards: list[Card] = field(default_factory=list)
    rest: str = "{}"


# From a resource


def sheet_of(resource: Resource) -> Sheet:
    """The form of an overlay. Raises Problem for one that says what the form does not: it is edited as JSON."""
    try:
        sheet = _sheet_of(resource)
        if _fits(sheet) and _sorted(resource_of(sheet)[0]) == _sorted(
            {name: each for name, each in resource.items() if name != "meta"}
        ):
            return sheet
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, StopIteration):
        pass
    raise Problem((Issue("invalid", "form", ("overlay",)),))


def _fits(sheet: Sheet) -> bool:
    """Whether a form takes it all: what is more would be lost when it is sent."""
    lists = (sheet.authorities, sheet.segments)
    return (
        len(sheet.cards) <= MOST_CARDS
        and all(len(card.rows) <= MOST_ROWS for card in sheet.cards)
        and all(len(each) <= MOST_LIST for each in lists)
    )


def _sorted(value: Any) -> str:
    """A text that is the same for what means the same: the parts of an extension have no order."""
    if isinstance(value, Mapping):
        return str([(name, _sorted(value[name])) for name in sorted(value)])
    if not isinstance(value, list):
        return str(value)
    parts = [_sorted(each) for each in value]
    named = all(isinstance(each, Mapping) and "url" in each for each in value)
    return str(sorted(parts) if named else parts)


def _sheet_of(resource: Resource) -> Sheet:
    said = [part for each in _extensions(resource, OVERLAY) for part in each.get("extension", ())]
    once = {part["url"]: _plain(part) for part in said}
    sheet = Sheet({name: str(once.pop(name, "") or "") for name in HEADS} | {"title": str(resource.get("title", ""))})
    for part in said:
        if part["url"] == "authority":
            name, _, uri = str(_plain(part)).partition("=")
            sheet.authorities.append((name, uri))
        elif part["url"] == "segment":
            declared = values_of(part["extension"], repeats=True)
            fields = declared.get("field", ())
            fields = fields if isinstance(fields, list) else [fields]
            sheet.segments.append((declared["name"], ", ".join(f"{each['number']} {each['type']}" for each in fields)))
    sheet.required = ", ".join(str(_plain(part)) for part in said if part["url"] == "required-table")
    shown = {*HEADS, "authority", "segment", "required-table"}
    others: list[Resource] = []
    for group in resource.get("group", ()):
        card = _card_of(group)
        others, sheet.cards = (others, [*sheet.cards, card]) if card else ([*others, group], sheet.cards)
    rest = {name: value for name, value in resource.items() if name not in ("title", "extension", "group", "meta")}
    rest |= {
        "extension": [each for each in resource.get("extension", ()) if each.get("url") != OVERLAY],
        "parts": [part for part in said if part["url"] not in shown],
        "group": others,
    }
    sheet.rest = encode({name: value for name, value in rest.items() if value}).decode()
    return sheet


def _card_of(group: Resource) -> Card | None:
    settings = values_of(next(iter(_extensions(group, MAP)))["extension"])
    kind, name = str(settings.pop("kind")), str(settings.pop("map", ""))
    if kind not in KINDS or set(group) - {"extension", "source", "target", "element"} or len(group["extension"]) > 1:
        return None
    type = str(settings.pop("type", ""))
    card = Card(kind, name, type, str(group.get("source", "")), str(group.get("target", "")), _more(settings))
    read = _code_of if kind == "table" else rule_of
    card.rows = [Row(read(kind, element)) for element in group.get("element", ())]
    return card


def _code_of(kind: str, element: Resource) -> dict[str, str]:
    target: Resource = next(iter(element.get("target", ())), {})
    gone = target.get("equivalence") == "unmatched"
    to, display = (str(target.get(name, "")) for name in ("code", "display"))
    return {"code": str(element["code"]), "target": "" if gone else to, "display": "" if gone else display}


def rule_of(kind: str, element: Resource) -> dict[str, str]:
    """The fields of a rule of a map of this kind, out of its group.element."""
    rule = values_of([part for each in _extensions(element, RULE) for part in each["extension"]])
    return _fields(kind, {**rule, "source": element.get("code", ""), "target": _goal(element)})


def _goal(element: Resource) -> str:
    return next((str(each.get("code", "")) for each in element.get("target", ())), "")


def _fields(kind: str, rule: Mapping[str, Any]) -> dict[str, str]:
    """The fields of a rule: its parts, with `source` and `target`."""
    left = dict(rule)
    said = {"action": str(left.pop("action", "add")), "source": str(left.pop("source", ""))}
    said["target"] = str(left.pop("target", ""))
    if kind in ("fragment", "message"):
        said["mode"] = str(left.pop("mode", "on"))
    for name in ("before", "after"):
        if name in left:
            said["beside"] = f"{name} {left.pop(name)}"
    said |= {name: str(left.pop(name)) for name in TEXTS if isinstance(left.get(name), str)}
    return {**said, "more": _more(left)}


def _more(values: Mapping[str, Any]) -> str:
    return encode(dict(values)).decode() if values else ""


def _extensions(holder: Resource, url: str) -> list[Resource]:
    return [each for each in holder.get("extension", ()) if each.get("url") == url]


def _plain(part: Resource) -> Any:
    value = next((value for name, value in part.items() if name.startswith("value")), None)
    return value.get("reference", "") if isinstance(value, Mapping) else value


def values_of(parts: Iterable[Resource], *, repeats: bool = False) -> dict[str, Any]:
    """What the parts of an extension say, by name; a part `name[]` is a member of a list, one with parts an object."""
    values: dict[str, Any] = {}
    for part in parts:
        name = str(part["url"])
        value = values_of(part["extension"], repeats=repeats) if "extension" in part else _plain(part)
        if name.endswith("[]"):
            values.setdefault(name[:-2], []).append(value)
        elif repeats and name in values:
            values[name] = [*(values[name] if isinstance(values[name], list) else [values[name]]), value]
        else:
            values[name] = value
    return values


# From what was filled in


def sheet_from(form: Iterable[tuple[str, str]]) -> Sheet:
    """The form as it was sent: names are `head.title`, `authority.0.name`, `segment.0.name`, `card.0.kind`,
    `row.0.2.id`. Lists are bounded.
    """
    said = dict(form)
    sheet = Sheet({name: said.get(f"head.{name}", "") for name in HEADS}, required=said.get("required", ""))
    sheet.rest = said.get("rest", "") or "{}"
    sheet.authorities = list(_pairs(said, "authority", "uri"))
    sheet.segments = list(_pairs(said, "segment", "fields"))
    rows = _rows(said)
    for number in _numbers(said, "card", MOST_CARDS):
        names = ("kind", "name", "type", "source", "target", "more")
        kind, name, type, source, target, more = (said.get(f"card.{number}.{each}", "") for each in names)
        kind = kind if kind in KINDS else KINDS[0]
        card = Card(kind, name, type, source, target, more, rows.get(number, []))
        sheet.cards.append(card)
    return sheet


def _numbers(said: Mapping[str, str], name: str, most: int) -> list[int]:
    found = {key.split(".")[1] for key in said if key.startswith(f"{name}.")}
    return sorted(int(each) for each in found if each.isascii() and each.isdigit() and len(each) < 6)[:most]


def _pairs(said: Mapping[str, str], name: str, second: str) -> Iterator[tuple[str, str]]:
    for number in _numbers(said, name, MOST_LIST):
        yield said.get(f"{name}.{number}.name", "").strip(), said.get(f"{name}.{number}.{second}", "").strip()


def _rows(said: Mapping[str, str]) -> dict[int, list[Row]]:
    """The rows of each card, in their order."""
    found: dict[tuple[int, int], dict[str, str]] = {}
    for key, value in said.items():
        parts = key.split(".")
        if parts[0] == "row" and len(parts) == 4 and all(each.isascii() and each.isdigit() for each in parts[1:3]):
            found.setdefault((int(parts[1][:6]), int(parts[2][:6])), {})[parts[3]] = value
    rows: dict[int, list[Row]] = {}
    for card, row in sorted(found)[: MOST_CARDS * MOST_ROWS]:
        rows.setdefault(card, []).append(Row(found[card, row]))
    return {card: each[:MOST_ROWS] for card, each in rows.items()}


# To a resource


def resource_of(sheet: Sheet) -> tuple[Resource, dict[str, str]]:
    """The overlay that a form says, and where it says each element: FHIRPath to the name of a card or row, as
    `row.0.2`. Raises Problem with the names of the fields that cannot be read.
    """
    faults: list[Issue] = []
    rest = _object(sheet.rest, "rest", faults)
    others, parts, groups = rest.pop("extension", []), rest.pop("parts", []), rest.pop("group", [])
    places: dict[str, str] = {}
    made: list[Resource] = []
    for number, card in enumerate(sheet.cards):
        if not all(row.empty for row in card.rows):
            places[f"ConceptMap.group[{len(made)}]"] = f"card.{number}"
            made.append(_group(card, number, f"ConceptMap.group[{len(made)}]", places, faults))
    head = {"url": OVERLAY, "extension": [*parts, *_head_parts(sheet, faults)]}
    if faults:
        raise Problem(tuple(faults))
    title = sheet.heads.get("title", "").strip()
    resource: Resource = {"resourceType": "ConceptMap", **rest, **({"title": title} if title else {})}
    resource["extension"] = [*others, head]
    found = [*made, *groups]
    return {**resource, **({"group": found} if found else {})}, places


def _head_parts(sheet: Sheet, faults: list[Issue]) -> Iterator[Resource]:
    for name in HEADS[1:]:
        text = sheet.heads.get(name, "").strip()
        if text and name == "endpoint":
            yield {"url": name, "valueReference": {"reference": text}}
        elif text:
            yield {"url": name, "valueString": text}
    for name, uri in sheet.authorities:
        if name or uri:
            yield {"url": "authority", "valueString": f"{name}={uri}"}
    for table in filter(None, (each.strip() for each in sheet.required.split(","))):
        yield {"url": "required-table", "valueString": table}
    for number, (name, fields) in enumerate(sheet.segments):
        if name or fields:
            declared = [
                _declared(each.strip(), f"segment.{number}", faults) for each in fields.split(",") if each.strip()
            ]
            yield {"url": "segment", "extension": [{"url": "name", "valueString": name.upper()}, *declared]}


def _declared(text: str, where: str, faults: list[Issue]) -> Resource:
    match = _NUMBERED.match(text)
    if not match:
        faults.append(Issue("value", "segment", (where,)))
        return {}
    parts = [{"url": "number", "valueInteger": int(match[1][:6])}, {"url": "type", "valueString": match[2].upper()}]
    return {"url": "field", "extension": parts}


def _group(card: Card, number: int, place: str, places: dict[str, str], faults: list[Issue]) -> Resource:
    settings = {**({"type": card.type.strip()} if card.type.strip() else {})}
    settings |= _object(card.more, f"card.{number}.more", faults)
    parts = [{"url": "map", "valueString": card.name.strip()}, {"url": "kind", "valueCode": card.kind}]
    group: Resource = {"extension": [{"url": MAP, "extension": [*parts, *parts_of(settings)]}]}
    group |= {name: text for name, text in (("source", card.source.strip()), ("target", card.target.strip())) if text}
    elements: list[Resource] = []
    for at, row in enumerate(card.rows):
        if not row.empty:
            where = f"row.{number}.{at}"
            places[f"{place}.element[{len(elements)}]"] = where
            elements.append(_code(row) if card.kind == "table" else _rule(row, card.kind, where, faults))
    return {**group, **({"element": elements} if elements else {})}


def _code(row: Row) -> Resource:
    said = {name: value.strip() for name, value in row.said.items()}
    if not said.get("target"):
        return {"code": said.get("code", ""), "target": [{"equivalence": "unmatched"}]}
    display = {"display": said["display"]} if said.get("display") else {}
    return {"code": said.get("code", ""), "target": [{"code": said["target"], **display, "equivalence": "equivalent"}]}


def _rule(row: Row, kind: str, where: str, faults: list[Issue]) -> Resource:
    said = {name: value.strip() for name, value in row.said.items()}
    parts: dict[str, Any] = {name: said[name] for name in TEXTS if said.get(name)}
    side, _, other = said.get("beside", "").partition(" ")
    if side in ("before", "after") and other.strip():
        parts[side] = other.strip()
    elif said.get("beside"):
        faults.append(Issue("value", "beside", (f"{where}.beside",)))
    if kind in ("fragment", "message") and said.get("target") and said.get("mode"):
        parts["mode"] = said["mode"]
    parts |= _object(said.get("more", ""), f"{where}.more", faults)
    action = said.get("action", "add")
    taken = [{"url": "action", "valueCode": action}] if action != "add" else []
    made: Resource = {"code": said["source"]} if said.get("source") else {}
    if said.get("target"):
        made["target"] = [{"code": said["target"], "equivalence": "relatedto"}]
    return {**made, "extension": [{"url": RULE, "extension": [*taken, *parts_of(parts)]}]}


def _object(text: str, where: str, faults: list[Issue]) -> dict[str, Any]:
    """A field that holds a JSON object, empty for nothing."""
    if not text.strip():
        return {}
    try:
        found = decode(text.encode())
    except (Problem, RecursionError):
        found = None
    if isinstance(found, dict):
        return found
    faults.append(Issue("structure", "more", (where,)))
    return {}


def parts_of(values: Mapping[str, Any]) -> list[Resource]:
    """Values as the parts of an extension."""
    parts: list[Resource] = []
    for name, value in values.items():
        many = isinstance(value, list)
        parts += [_part(f"{name}[]" if many else name, one) for one in (value if many else [value])]
    return parts


def _part(name: str, value: Any) -> Resource:
    if isinstance(value, Mapping):
        return {"url": name, "extension": parts_of(value)}
    kinds = ((bool, "valueBoolean"), (int, "valueInteger"), (Decimal, "valueDecimal"))
    return {"url": name, next((key for kind, key in kinds if isinstance(value, kind)), "valueString"): value}
