"""What both sides see of an export: how far it is, which files it has. FHIR Bulk Data Access 2.0; docs/bulk-data.md."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from fhirserver.fhir import Resource
from fhirserver.fhir.problem import Problem
from fhirserver.rules.bulk_export import OPEN, STATUSES, TYPE
from fhirserver.web.console.here import Here
from fhirserver.web.console.listing import Filter

UNDER_WAY = ",".join(OPEN)
NEWEST = ("_sort", "-requested")
_PROGRESS = re.compile(r"(\d+) of (\d+) steps, (\d+) resources")


@dataclass(frozen=True, slots=True)
class Standing:
    """How an export stands: the steps done and all of them, the resources so far; its manifest when it is done."""

    done: int = 0
    steps: int = 0
    resources: int = 0
    manifest: Mapping[str, Any] | None = None


def filters(here: Here, clients: Mapping[str, str]) -> tuple[Filter, ...]:
    """The choices above a list: state, and client by id and name."""
    words = {UNDER_WAY: here.t("common.export.under_way")}
    found = [Filter("status", "status", (UNDER_WAY, *STATUSES), "common.status", words)]
    if clients:
        found.append(Filter("client", "client:identifier", tuple(clients), "common.export.client", clients))
    return tuple(found)


def client_of(export: Resource) -> str:
    """The id of the client that asked for it, "" for a person who came without one."""
    return str(export.get("client", {}).get("identifier", {}).get("value", ""))


def what(here: Here, export: Resource, groups: Mapping[str, str] = MappingProxyType({})) -> str:
    """Of whom or what it is, in words. `groups` are the names of groups by id, as far as the reader may know them."""
    many = int(export.get("patients", 0))
    if "group" in export:
        reference = str(export["group"]["reference"])
        name = groups.get(reference.rpartition("/")[2], "")
        return (
            here.t("common.export.group", name=name) if name else here.t("common.export.group_id", reference=reference)
        )
    if many:
        return here.t("common.export.named", count=many)
    return here.t("common.export.everything") if export["level"] == "system" else here.t("common.export.patients")


def counted(export: Resource) -> tuple[int, int]:
    """How many resources and files it has brought."""
    found = [each["count"] for each in export.get("output", ()) if each["kind"] == "output"]
    return sum(found), len(found)


def held(export: Resource) -> list[tuple[str, str, int, int]]:
    """Its files by kind and type: kind, type, how many resources, in how many files."""
    found: dict[tuple[str, str], list[int]] = {}
    for each in export.get("output", ()):
        found.setdefault((each["kind"], each["type"]), []).append(each["count"])
    return [(kind, type, sum(counts), len(counts)) for (kind, type), counts in found.items()]


def standing(here: Here, export: Resource, base: str) -> Standing | None:
    """How it stands now, as $status says; None where there is nothing to wait for or to fetch any more."""
    if export["status"] not in (*OPEN, "completed"):
        return None
    try:
        answer = here.ask("operation", TYPE, export["id"], operation="$status", base=base, method="GET")
    except Problem as gone:
        if gone.status not in (404, 500):  # it has ended since the page began
            raise
        return None
    if answer.status == 200:
        return Standing(manifest=answer.content())
    said = _PROGRESS.match(answer.headers.get("X-Progress", ""))
    return Standing(int(said[1]), int(said[2]), int(said[3])) if said else Standing()
