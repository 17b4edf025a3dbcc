"""One overlay of mapping rules: written as a form or, by experts, as JSON; checked while it is written, tried on a
message and on the last ones, kept as a draft, published, taken out of use.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from zoneinfo import available_timezones

from flask import Response as HttpResponse

from fhirserver.fhir import Resource
from fhirserver.fhir.json import decode, encode, pretty
from fhirserver.fhir.problem import Issue, Problem, problem
from fhirserver.rules.model import target
from fhirserver.web.console.here import Here
from fhirserver.web.console.hospital import sheet as sheets
from fhirserver.web.console.hospital.mapping import MOST_MESSAGE, TYPE, may_edit, message_of, title_of
from fhirserver.web.console.hospital.messages import converted
from fhirserver.web.console.hospital.pair import Pair, pair, text_of
from fhirserver.web.console.hospital.sheet import MAP, OVERLAY, RULE, Card, Row, Sheet

MOST_OVERLAY = 1024 * 1024
COMPARED = 100
MOST_SHIPPED = 400
STATUSES = {"draft": "draft", "publish": "active", "retire": "retired"}
WRONG = ("error", "fatal")
SHIPPED = ("segment", "fragment", "message", "datatype", "table")
CHARSETS = ("UNICODE UTF-8", "ASCII", "8859/1", "8859/2", "8859/5", "8859/9", "8859/15", "ISO IR87", "GB 18030-2000")
"""Of table 0211 those that are seen; any other can be typed."""
_MAP_TITLE = re.compile(r"HL7v2 (\w+) map (.+)")


@dataclass(slots=True)
class Edit:
    """What is on the page: the form or the JSON text, and what was found out about it. `faults` are by the name of a
    card or row, "" for those of the whole; None where nothing was checked.
    """

    view: str
    sheet: Sheet = field(default_factory=Sheet)
    text: str = ""
    places: Mapping[str, str] = field(default_factory=dict)
    faults: dict[str, list[str]] | None = None
    sides: Pair | None = None
    compared: Resource | None = None
    message: str = ""


def overlay_new(here: Here) -> HttpResponse:
    """A new overlay."""
    return _edited(here, None)


def overlay(here: Here) -> HttpResponse:
    """One overlay: edit, try, publish or take out of use."""
    found = here.read(TYPE, here.values["id"], base=here.organization)
    if not any(each.get("url") == OVERLAY for each in found.get("extension", ())):
        raise problem("not-found", here.t("common.error.no_page"))
    return _edited(here, found)


def _edited(here: Here, kept: Resource | None) -> HttpResponse:
    edit = _sent(here) if here.posted else _opened(here, kept)
    if here.posted:
        with here.trying():
            answer = _done(here, edit, kept)
            if answer is not None:
                return answer
    if here.refused:
        edit.faults = _placed(edit, here.refused.issues)
    differing = _differences(edit.compared) if edit.compared else []
    return here.page(
        "hospital/overlay.html",
        title=title_of(kept) if kept else here.t("hospital.overlay-new.title"),
        kept=kept,
        edit=edit,
        action=here.url("hospital.overlay", id=kept["id"]) if kept else here.url("hospital.overlay-new"),
        kinds=sheets.KINDS,
        compared=_counts(edit.compared) if edit.compared else None,
        messages=differing,
        names=_names(here, [each["id"] for each in differing]),
        may=may_edit(here),
        **(
            _offers(here, edit.sheet)
            if edit.view == "form" and here.part not in ("checked", "tried", "compared")
            else {}
        ),
    )


def _opened(here: Here, kept: Resource | None) -> Edit:
    if here.asked.get("view") == "json":
        return Edit("json", text=_pretty(kept or _beginning(here)))
    if kept is None:
        return Edit("form", _blank(here))
    try:
        return Edit("form", sheets.sheet_of(kept))
    except Problem:
        return Edit("json", text=_pretty(kept))


def _sent(here: Here) -> Edit:
    view = here.form.get("view") or ("json" if "overlay" in here.form else "form")
    message = here.form.get("message", "")[:MOST_MESSAGE]
    if view == "json":
        return Edit("json", text=here.form.get("overlay", ""), message=message)
    return Edit("form", sheets.sheet_from(here.form_pairs()), message=message)


def _done(here: Here, edit: Edit, kept: Resource | None) -> HttpResponse | None:
    """Does what the form asks for; the answer where that is another page. Raises Problem."""
    action, _, where = here.form.get("action", "").partition(".")
    if action in CHANGES:
        CHANGES[action](here, edit.sheet, where)
        return None
    if action == "latest":
        edit.message = _latest(here)
        return None
    given = _given(here, edit)
    if action in ("form", "json"):
        _turned(here, edit, given, action)
    elif action == "try":
        text = message_of(edit.message)
        edit.sides = pair(text, converted(here, None, message=text, overlay=given))
    elif action == "compare":
        edit.compared = here.operate(TYPE, None, "compare", base=here.organization, overlay=given, count=COMPARED)
    elif action in STATUSES:
        return _saved(here, kept, given, action)
    elif action:
        raise problem("value", here.t("common.error.form"))
    if action in ("", "try", "compare"):
        edit.faults = _placed(edit, _checked(here, kept, given))
    return None


def _given(here: Here, edit: Edit) -> Resource:
    """The overlay that the form or the text says. Raises Problem with the field that cannot be read."""
    if edit.view == "json":
        return _of_text(here, edit.text)
    try:
        found, edit.places = sheets.resource_of(edit.sheet)
    except Problem as fault:
        said = (Issue(i.code, here.t(f"hospital.overlay.wrong.{i.diagnostics}"), i.expression) for i in fault.issues)
        raise Problem(tuple(said)) from None
    if not found["extension"][-1]["extension"]:  # it has to say whose it is
        found["extension"][-1] = _head_of(here)
    return found


def _of_text(here: Here, text: str) -> Resource:
    if len(text) > MOST_OVERLAY:
        raise problem("too-long", here.t("hospital.overlay.long"), "overlay")
    try:
        found = decode(text.encode())
    except Problem as refusal:
        issues = tuple(Issue(each.code, each.diagnostics, ("overlay",)) for each in refusal.issues)
        raise Problem(issues, status=refusal.status) from None
    if not isinstance(found, dict) or found.get("resourceType") != TYPE:
        raise problem("value", here.t("hospital.overlay.no_map"), "overlay")
    return found


def _turned(here: Here, edit: Edit, given: Resource, view: str) -> None:
    """The other view of the same. Raises Problem where the form cannot show it."""
    if view == "json":
        edit.view, edit.text = view, _pretty(given)
        return
    try:
        edit.sheet = sheets.sheet_of(given)
    except Problem:
        raise problem("not-supported", here.t("hospital.overlay.wrong.form"), "overlay") from None
    edit.view = view


def _saved(here: Here, kept: Resource | None, given: Resource, action: str) -> HttpResponse:
    """Writes the overlay: as a draft, in use, or out of use. Raises Problem for what the maps do not take."""
    body = {**given, "status": STATUSES[action]}
    if kept is None:
        body.pop("id", None)
        made = here.ask("create", TYPE, base=here.organization, body=body).content() or {}
    else:
        body["id"], match = kept["id"], here.form.get("version") or kept["meta"]["versionId"]
        answer = here.ask("update", TYPE, kept["id"], base=here.organization, body=body, if_match=match)
        made = answer.content() or kept
    said = f"hospital.said.overlay_{action}"
    return here.go(here.url("hospital.overlay", id=made["id"]), said, name=title_of(made))


def _checked(here: Here, kept: Resource | None, given: Resource) -> list[Issue]:
    """What the server would say if it were published now."""
    body = {**given, "status": "active", **({"id": kept["id"]} if kept else {})}
    id, mode = (kept["id"], "update") if kept else (None, "create")
    told = here.operate(TYPE, id, "validate", base=here.organization, mode=mode, resource=body)
    wrong = [each for each in told.get("issue", ()) if each["severity"] in WRONG]
    return [Issue(each["code"], each.get("diagnostics", ""), tuple(each.get("expression", ()))) for each in wrong]


def _placed(edit: Edit, issues: Any) -> dict[str, list[str]]:
    """Each fault at the card or row that it is about."""
    found: dict[str, list[str]] = {}
    for issue in issues:
        where = issue.expression[0] if issue.expression else ""
        while where and where not in edit.places and not where.startswith(("row.", "card.", "segment.")):
            where = where.rpartition(".")[0]
        key = ".".join(edit.places.get(where, where).split(".")[:3])
        found.setdefault(key if key.startswith(("row.", "card.", "segment.")) else "", []).append(issue.diagnostics)
    return found


# What buttons of the form do to it


def _add_card(here: Here, sheet: Sheet, where: str) -> None:
    kind, _, name = here.form.get("map", "").strip().rpartition(":")
    card = Card(kind if kind in sheets.KINDS else "segment", name.strip(), rows=[Row({}, fresh=bool(name))])
    card.fresh = not name
    sheet.cards.append(card)


def _drop_card(here: Here, sheet: Sheet, where: str) -> None:
    del sheet.cards[_number(here, where, len(sheet.cards))]


def _add_row(here: Here, sheet: Sheet, where: str) -> None:
    rows = sheet.cards[_number(here, where, len(sheet.cards))].rows
    if len(rows) >= sheets.MOST_ROWS:
        raise problem("too-costly", here.t("hospital.overlay.full", count=sheets.MOST_ROWS))
    rows.append(Row({"action": "add"}, fresh=True))


def _drop_row(here: Here, sheet: Sheet, where: str) -> None:
    card, _, row = where.partition(".")
    rows = sheet.cards[_number(here, card, len(sheet.cards))].rows
    del rows[_number(here, row, len(rows))]


def _take(action: str) -> Callable[[Here, Sheet, str], None]:
    def take(here: Here, sheet: Sheet, where: str) -> None:
        """A rule as it is shipped, to replace or to remove."""
        card, wanted = sheet.cards[_number(here, where, len(sheet.cards))], here.form.get(f"shipped.{where}", "")
        for map_ in _shipped(here, [card]).values():
            for said in map_:
                if said["id"] == wanted:
                    card.rows = [row for row in card.rows if not row.empty]
                    fields = said if action == "replace" else {"id": wanted}
                    card.rows.append(Row({**fields, "action": action}, fresh=True))

    return take


def _drop_of(name: str) -> Callable[[Here, Sheet, str], None]:
    def drop(here: Here, sheet: Sheet, where: str) -> None:
        listed = getattr(sheet, name)
        del listed[_number(here, where, len(listed))]

    return drop


def _number(here: Here, text: str, most: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 7 and int(text) < most):
        raise problem("value", here.t("common.error.form"))
    return int(text)


CHANGES: Mapping[str, Callable[[Here, Sheet, str], None]] = {
    "add-card": _add_card,
    "drop-card": _drop_card,
    "add-row": _add_row,
    "drop-row": _drop_row,
    "replace": _take("replace"),
    "remove": _take("remove"),
    "add-authority": lambda here, sheet, where: sheet.authorities.append(("", "")),
    "drop-authority": _drop_of("authorities"),
    "add-segment": lambda here, sheet, where: sheet.segments.append(("", "")),
    "drop-segment": _drop_of("segments"),
}


# What the form offers


def _offers(here: Here, sheet: Sheet) -> dict[str, Any]:
    """What there is to choose from: shipped maps and tables, the rules of the maps on the page, senders, zones."""
    query = (("context", ",".join(SHIPPED)), ("_elements", "title,extension"), ("_count", str(MOST_SHIPPED)))
    found = [named for each in here.found(TYPE, *query) if (named := _map_name(each))]
    endpoints = here.found("Endpoint", ("organization", f"Organization/{here.organization}"), ("_elements", "name"))
    return {
        "maps": sorted(each for each in found if each[0] != "table"),
        "tables": sorted(name for kind, name in found if kind == "table"),
        "shipped": _shipped(here, sheet.cards),
        "endpoints": [(f"Endpoint/{each['id']}", str(each.get("name") or each["id"])) for each in endpoints],
        "zones": _zones(),
        "charsets": CHARSETS,
        "types": sorted(here.server.definitions.resource_types),
    }


@cache
def _zones() -> tuple[str, ...]:
    """The names of time zones, read from the disk once."""
    return tuple(sorted(each for each in available_timezones() if "/" in each and not each.startswith("Etc/")))


def _map_name(resource: Resource) -> tuple[str, str] | None:
    """Kind and name of a shipped map, out of its summary."""
    for each in resource.get("extension", ()):
        if each.get("url") == MAP:
            said = sheets.values_of(each["extension"])
            return str(said.get("kind", "")), str(said.get("map", ""))
    match = _MAP_TITLE.fullmatch(str(resource.get("title", "")))
    return (match[1], match[2]) if match else None


def _shipped(here: Here, cards: list[Card]) -> dict[str, list[dict[str, str]]]:
    """Name of a map -> the fields of its shipped rules, of the maps of these cards."""
    names = {f"v2-{card.name.strip().replace('_', '-')}": card for card in cards if card.kind != "table" and card.name}
    ids = [id for id in names if re.fullmatch(r"[A-Za-z0-9.-]{1,64}", id)]
    if not ids:
        return {}
    found = here.found(TYPE, ("_id", ",".join(ids)), ("_count", str(len(ids))))
    rules = {}
    for each in found:
        card, elements = names[each["id"]], [one for group in each.get("group", ()) for one in group["element"]]
        fields = (sheets.rule_of(card.kind, one) for one in elements)
        rules[card.name] = [said for said in fields if said.get("id")]
    return rules


def _latest(here: Here) -> str:
    """The message that came in last. Raises Problem where there is none."""
    found = here.found("InboundMessage", ("_sort", "-received"), ("_count", "1"), base=here.organization)
    if not found:
        raise problem("not-found", here.t("hospital.overlay.no_message"), "message", status=400)
    return text_of(found[0].get("content", {})).replace("\r", "\n")


def _counts(compared: Resource) -> dict[str, int]:
    return {part["name"]: int(part["valueInteger"]) for part in compared["parameter"] if "valueInteger" in part}


def _differences(compared: Resource) -> list[dict[str, Any]]:
    """The messages that do not become the same, each with what differs."""
    found = []
    for part in compared["parameter"]:
        if part["name"] != "message":
            continue
        one: dict[str, Any] = {"differences": [], "faults": []}
        for each in part["part"]:
            if each["name"] == "difference":
                one["differences"].append({inner["name"]: _value(inner) for inner in each["part"]})
            elif each["name"] == "fault":
                one["faults"].append(_value(each))
            else:
                one[each["name"]] = _value(each)
        one["id"] = target(one["reference"], "InboundMessage")
        found.append(one)
    return found


def _names(here: Here, ids: list[str]) -> dict[str, str]:
    """Message id -> its event and control id."""
    if not ids:
        return {}
    query = (("_id", ",".join(ids)), ("_count", str(len(ids))), ("_elements", "event,controlId"))
    found = here.found("InboundMessage", *query, base=here.organization)
    return {each["id"]: f"{each.get('event', '')} {each.get('controlId', '')}".strip() for each in found}


def _value(part: Resource) -> Any:
    return next((value for name, value in part.items() if name.startswith("value")), None)


def _pretty(overlay: Resource) -> str:
    return pretty(encode({name: value for name, value in overlay.items() if name != "meta"})).decode()


def _blank(here: Here) -> Sheet:
    """What a new form starts from: the segment that is changed most, and a row to fill in."""
    rest = {"parts": _head_of(here)["extension"], "status": "draft"}
    return Sheet(cards=[Card("segment", "PID.Patient", rows=[Row({"action": "add"})])], rest=encode(rest).decode())


def _head_of(here: Here) -> Resource:
    owner = {"url": "organization", "valueReference": {"reference": f"Organization/{here.organization}"}}
    return {"url": OVERLAY, "extension": [owner]}


def _beginning(here: Here) -> Resource:
    """What a new text starts from: a rule of one's own in the map of the segment PID."""
    rule = {
        "code": "PID-26.1",
        "target": [{"code": "extension(https://example.org/citizenship).valueCode", "equivalence": "relatedto"}],
        "extension": [{"url": RULE, "extension": [{"url": "id", "valueString": "citizenship"}]}],
    }
    map_ = [{"url": "map", "valueString": "PID.Patient"}, {"url": "kind", "valueCode": "segment"}]
    return {
        "resourceType": TYPE,
        "title": here.t("hospital.overlay-new.title"),
        "status": "draft",
        "extension": [_head_of(here)],
        "group": [{"extension": [{"url": MAP, "extension": map_}], "element": [rule]}],
    }
