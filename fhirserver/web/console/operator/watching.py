"""The installation at work: health, what waits, packages and search parameters, settings, signing keys."""

from __future__ import annotations

import base64
from typing import Any

from flask import Response as HttpResponse

from fhirserver.fhir import Resource
from fhirserver.fhir.problem import problem
from fhirserver.rules.model import reference
from fhirserver.web.console.here import Here
from fhirserver.web.console.listing import Filter

DEFINED = ("StructureDefinition", "SearchParameter", "ValueSet", "CodeSystem", "ConceptMap")
"""What packages bring, as far as it is counted."""
FIGURES = ("seconds", "milliseconds", "megabytes", "kilobytes", "number")


def values(part: Resource) -> dict[str, Any]:
    """The parts of a parameter by name; those that have parts themselves as lists."""
    found: dict[str, Any] = {}
    for each in part.get("part") or part.get("parameter") or ():
        if "part" in each:
            found.setdefault(each["name"], []).append(values(each))
        else:
            found[each["name"]] = next((value for name, value in each.items() if name != "name"), None)
    return found


def health(here: Here) -> HttpResponse:
    """Every part of the installation, and whether it works; it refreshes itself."""
    told = values(here.operate(None, None, "health", method="GET"))
    said = {each["name"]: _said(here, each) for each in told["component"]}
    return here.page("operator/health.html", told=told, said=said)


def _said(here: Here, component: dict[str, Any]) -> list[str]:
    """What there is to say of a component, in words."""
    counted = (
        [here.t(f"operator.counted.{component['name']}", count=component["count"])] if "count" in component else []
    )
    figures = [here.t(f"operator.figure.{name}", count=component[name]) for name in FIGURES if component.get(name)]
    return [*filter(None, (component.get("detail"), component.get("version"))), *counted, *figures]


def queues(here: Here) -> HttpResponse:
    """What waits. Sent as a form: an organization's dead letters once more."""
    if here.posted:
        with here.trying():
            place = reference("Organization", here.form.get("organization", ""))
            done = values(here.operate(None, None, "redeliver", organization=place))
            return here.go(here.url("operator.queues"), said="operator.queues.redelivered", count=done["found"])
    told = values(here.operate(None, None, "queues", method="GET"))
    return here.page("operator/queues.html", told=told, bases=[_base(each) for each in told.get("base", ())])


def _base(base: dict[str, Any]) -> dict[str, Any]:
    """What waits at one base: counts by type and status."""
    counts: dict[str, dict[str, int]] = {}
    for each in base["waiting"]:
        counts.setdefault(each["type"], {})[each["status"]] = each["count"]
    return {"organization": base.get("organization") or {}, "counts": counts}


def definitions(here: Here) -> HttpResponse:
    """Search parameters of the registry, and what is being indexed."""
    filters = (Filter("status", "status", ("active", "draft", "retired"), "operator.publication"),)
    found = here.list("SearchParameter", ("_sort", "name"), find="name:contains", filters=filters)
    told = values(here.operate(None, None, "queues", method="GET"))
    return here.page("operator/definitions.html", found=found, indexing=told.get("indexing", ()))


def definition(here: Here) -> HttpResponse:
    """One search parameter: how far its index has come on each of its types."""
    found = here.read("SearchParameter", here.values["id"])
    told = here.operate("SearchParameter", found["id"], "reindex-status", method="GET")
    types = [{"type": each["name"], **values(each)} for each in told.get("parameter", ())]
    return here.page("operator/definition.html", title=str(found.get("name", found["id"])), one=found, types=types)


def packages(here: Here) -> HttpResponse:
    """Implementation guides and profiles that were loaded. Sent as a form: a package to load."""
    done: dict[str, Any] = {}
    reasons: list[str] = []
    if here.posted:
        with here.trying():
            content = here.form_file("package")
            if not content:
                raise problem("required", here.t("operator.packages.none"), "content")
            told = here.operate(None, None, "load-package", content=base64.b64encode(content).decode())
            done = values(told)
            reasons = [part["valueString"] for part in told["parameter"] if part["name"] == "reason"]
    found = here.list("ImplementationGuide", ("_sort", "name"), find="name:contains")
    counts = [(type, here.count(type)) for type in DEFINED]
    return here.page(
        "operator/packages.html", found=found, counts=counts, done=done, reasons=reasons, most=here.most_megabytes
    )


def settings(here: Here) -> HttpResponse:
    """Every setting in force, secrets masked."""
    told = values(here.operate(None, None, "settings", method="GET"))
    return here.page("operator/settings.html", settings=told["setting"])


def keys(here: Here) -> HttpResponse:
    """The keys that sign tokens; sent as a form a new one is made."""
    if here.posted:
        with here.trying():
            revoke = here.form.get("how") == "revoke"
            if revoke:
                here.require_word("REVOKE")
            here.operate(None, None, "rotate-signing-key", at_once=here.form.get("how") == "at-once", revoke=revoke)
            return here.go(here.url("operator.keys"), said="operator.keys.rotated")
    told = values(here.operate(None, None, "signing-keys", method="GET"))
    return here.page("operator/keys.html", keys=told["key"])
