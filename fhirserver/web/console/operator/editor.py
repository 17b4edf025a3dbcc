"""The editor: a resource as JSON, held to $validate before it is stored, every fault beside its expression."""

from __future__ import annotations

from typing import Any

from flask import Response as HttpResponse

from fhirserver.fhir import Resource
from fhirserver.fhir.json import decode, encode, pretty
from fhirserver.fhir.problem import Problem, problem
from fhirserver.web.console.here import Here
from fhirserver.web.console.operator.resources import base_of, shown, to, type_of

MOST_TEXT = 2_000_000
WRONG = ("error", "fatal")


def new(here: Here) -> HttpResponse:
    """A new resource."""
    type = type_of(here)
    text = pretty(encode({"resourceType": type})).decode()
    return _edit(here, type, "", text, "") if here.posted else _page(here, type, text)


def edit(here: Here) -> HttpResponse:
    """Another version of a resource."""
    type, id = type_of(here), here.values["id"]
    if here.posted:
        return _edit(here, type, id, here.form.get("resource", ""), here.form.get("version", ""))
    found = here.read(type, id, base=base_of(here))
    return _page(here, type, pretty(encode(found)).decode(), version=found["meta"]["versionId"])


def remove(here: Here) -> HttpResponse:
    """Deletes a resource, once DELETE is typed."""
    type, id, base = type_of(here), here.values["id"], base_of(here)
    with here.trying():
        here.require_word("DELETE")
        here.ask("delete", type, id, base=base)
    if here.refused:
        return shown(here, here.read(type, id, base=base))
    return here.go(to(here, "list", type=type), said="operator.resource.deleted", name=f"{type}/{id}")


def _edit(here: Here, type: str, id: str, text: str, version: str) -> HttpResponse:
    given = here.form.get("resource", text)
    issues: list[Resource] = []
    with here.trying():
        resource = _resource(here, given, type)
        issues = _validated(here, type, id, resource)
        if here.form.get("do") == "save" and not any(each["severity"] in WRONG for each in issues):
            return _stored(here, type, id, resource, version)
    return _page(here, type, given, version=version, issues=issues, checked=not here.refused)


def _resource(here: Here, text: str, type: str) -> Resource:
    if len(text) > MOST_TEXT:
        raise problem("too-long", here.t("operator.edit.too_long"), "resource")
    try:
        found = decode(text)
    except (Problem, RecursionError) as error:
        said = error.issues[0].diagnostics if isinstance(error, Problem) else here.t("operator.edit.not_json")
        raise problem("structure", said, "resource") from None
    if not isinstance(found, dict) or found.get("resourceType") != type:
        raise problem("value", here.t("operator.edit.other_type", type=type), "resource")
    return found


def _validated(here: Here, type: str, id: str, resource: Resource) -> list[Resource]:
    mode = "update" if id else "create"
    told = here.operate(type, id or None, "validate", base=base_of(here), mode=mode, resource=resource)
    return [each for each in told.get("issue", ()) if each["severity"] != "information"]


def _stored(here: Here, type: str, id: str, resource: Resource, version: str) -> HttpResponse:
    base = base_of(here)
    if id:
        answer = here.ask("update", type, id, base=base, body=resource, if_match=version or None)
    else:
        answer = here.ask("create", type, base=base, body=resource)
    made = answer.content() or {}
    if answer.once:
        return here.page("operator/made.html", title=here.t("operator.made.title"), made=made, to=to)
    return here.go(to(here, "resource", type=type, id=made["id"]), said="operator.resource.saved")


def _page(here: Here, type: str, text: str, **values: Any) -> HttpResponse:
    values = dict[str, Any](version="", issues=[], checked=False) | values
    named = here.values.get("id", "")
    title = here.t("operator.edit.of", name=f"{type}/{named}") if named else here.t("operator.edit.new", type=type)
    back = to(here, "resource", type=type, id=named) if named else to(here, "list", type=type)
    wrong = any(each["severity"] in WRONG for each in values["issues"])
    status = 422 if wrong else 200
    return here.page(
        "operator/edit.html", title=title, status=status, type=type, text=text, back=back, wrong=wrong, **values
    )
