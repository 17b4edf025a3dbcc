"""Patient/$everything and Encounter/$everything: a compartment with what it refers to, in pages.

FHIR R4: patient-operation-everything, encounter-operation-everything, compartmentdefinition. The compartment's types
are read one after the other; each page carries what its resources refer to outside the compartment (practitioners,
organizations, locations, medications), so that a page can be understood alone. A resource referred to from several
pages is on each of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from fhirserver.auth.access import Access
from fhirserver.fhir import Resource
from fhirserver.fhir.problem import problem
from fhirserver.fhir.references import named
from fhirserver.interactions.capabilities import served_types
from fhirserver.interactions.cursor import open_cursor, seal_cursor
from fhirserver.interactions.model import Pairs, Request, Response, Server
from fhirserver.interactions.operations import parameters
from fhirserver.interactions.read import current
from fhirserver.search.parse import parse
from fhirserver.search.query import Clause, Missing, both, compartment, either
from fhirserver.search.types.date import bounds
from fhirserver.store.model import Stored
from fhirserver.store.search import by_references, compile_search, find

MOST_REFERRED = 1_000
ROUNDS = 2  # a PractitionerRole's Practitioner and Organization are wanted, but not all that hangs on an Organization
UNASKED = frozenset({"AuditEvent"})
"""Types that are in the compartment but shown only where `_type` names them: they grow with every reading."""

# The date of care of a type, which `start` and `end` are about; types not named here have none and are always in.
CARE_DATE: Mapping[str, str] = {
    **dict.fromkeys(
        (
            *("AdverseEvent", "AllergyIntolerance", "Appointment", "CarePlan", "CareTeam", "ClinicalImpression"),
            *("Composition", "DiagnosticReport", "DocumentReference", "Encounter", "EpisodeOfCare", "Flag"),
            *("Immunization", "ImmunizationEvaluation", "ImmunizationRecommendation", "Invoice", "MeasureReport"),
            *("Observation", "Procedure", "RiskAssessment", "SupplyRequest"),
        ),
        "date",
    ),
    **dict.fromkeys(
        (
            *("Claim", "ClaimResponse", "CoverageEligibilityRequest", "CoverageEligibilityResponse"),
            *("DocumentManifest", "ExplanationOfBenefit", "Media"),
        ),
        "created",
    ),
    "AuditEvent": "date",
    "ChargeItem": "occurrence",
    "Communication": "sent",
    "CommunicationRequest": "authored",
    "Condition": "onset-date",
    "DetectedIssue": "identified",
    "DeviceRequest": "authored-on",
    "Goal": "start-date",
    "ImagingStudy": "started",
    "MedicationAdministration": "effective-time",
    "MedicationDispense": "whenhandedover",
    "MedicationRequest": "authoredon",
    "MedicationStatement": "effective",
    "NutritionOrder": "datetime",
    "Provenance": "recorded",
    "QuestionnaireResponse": "authored",
    "RequestGroup": "authored",
    "ServiceRequest": "authored",
    "Specimen": "collected",
    "VisionPrescription": "datewritten",
}
NAMES = ("start", "end", "_since", "_type", "_count", "_cursor")


@dataclass(frozen=True, slots=True)
class Asked:
    """What is wanted: types (() all), page size, the parameters that its cursor belongs to, and where to go on."""

    types: tuple[str, ...]
    count: int
    kept: Pairs
    url: str
    since: datetime | None
    texts: Mapping[str, str] = field(default_factory=dict)
    cursor: str = ""

    @property
    def key(self) -> str:
        return f"{self.url}?{urlencode(self.kept)}"


def everything(server: Server, request: Request, access: Access) -> Response:
    """A page of the compartment of a Patient or Encounter, as a searchset Bundle.

    Each type is read as far as the caller may search it. Raises Problem: not-found, deleted, invalid.
    """
    asked = _asked(server, request)
    current(server, access, request.type or "", request.id or "", request)
    start = open_cursor(server, asked.key, asked.cursor) if asked.cursor else []
    matches, after = _page(server, request, access, asked, start)
    referred = _referred(server, request, access, asked, matches)
    bundle: Resource = {"resourceType": "Bundle", "type": "searchset", "link": _links(server, asked, after)}
    entries = [_entry(server, request, version, "match") for version in matches]
    entries += [_entry(server, request, version, "include") for version in referred]
    if entries:
        bundle["entry"] = entries
    return Response(200, resource=bundle, seen=[f"{each.type}/{each.id}" for each in (*matches, *referred)])


def _asked(server: Server, request: Request) -> Asked:
    values = parameters(request, *NAMES)
    texts: dict[str, str] = {}
    for name, value in values.items():
        if name == "_type" and isinstance(value, list):
            value = ",".join(map(str, value))
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise problem(
                "invalid", f"{name} may be given once, as a text.", f"Parameters.parameter.where(name='{name}')"
            )
        texts[name] = str(value)
    types = tuple(part for part in texts.get("_type", "").split(",") if part)
    for type in types:
        if type not in server.definitions.resource_types:
            raise problem("invalid", f"_type: {type[:64]} is not a resource type here.", "_type")
    for name in ("start", "end", "_since"):
        if name in texts:
            bounds(texts[name], name)
    count = texts.get("_count", str(server.page_size))
    if not (count.isascii() and count.isdecimal() and 0 < len(count) < 10 and int(count)):
        raise problem("invalid", "_count must be a whole number from 1 on.", "_count")
    return Asked(
        types,
        min(int(count), server.page_size_limit),
        tuple((name, texts[name]) for name in ("start", "end", "_since", "_type") if name in texts),
        f"{request.base}/{request.type}/{request.id}/$everything",
        bounds(texts["_since"], "_since")[0] if "_since" in texts else None,
        texts,
        texts.get("_cursor", ""),
    )


def _page(
    server: Server, request: Request, access: Access, asked: Asked, start: Sequence[Any]
) -> tuple[list[Stored], list[Any] | None]:
    """The matches of a page, and where the next one begins: its type and keyset, None where there is none."""
    begin, keyset = (start[0], list(start[1:]) or None) if start else ("", None)
    matches: list[Stored] = []
    for type in _types(server, request, asked):
        if type < begin:
            continue
        clause = compartment(server.definitions, request.type or "", request.id or "", type)
        assert clause is not None
        search = compile_search(server.store, access, type, [clause, *_criteria(server, asked, type)], request.session)
        if search is None:
            continue
        room = asked.count - len(matches)
        after = keyset if type == begin else None
        page = find(server.store, search, (), room or 1, after=after, session=request.session)
        if not room:
            if page.matches:
                return matches, [type]
            continue
        matches += page.matches
        if page.after:
            return matches, [type, *page.after]
    return matches, None


def _types(server: Server, request: Request, asked: Asked) -> list[str]:
    """The compartment's types that are wanted, served and stored here, in the order of their names."""
    inside = server.definitions.compartments.get(request.type or "", {})
    served = served_types(server, request.organization)
    wanted = [type for type in inside if type in (asked.types or served) and type in served]
    return sorted(type for type in server.store.existing(wanted) if type in asked.types or type not in UNASKED)


def _criteria(server: Server, asked: Asked, type: str) -> Iterator[Clause]:
    """`_since` on the version, `start` and `end` on the date of care; what has no such date is in."""
    pairs = [("_lastUpdated", f"ge{asked.texts['_since']}")] if "_since" in asked.texts else []
    yield from parse(server.definitions, type, pairs, strict=True).clauses
    parameter = CARE_DATE.get(type)
    edges = [(name, prefix) for name, prefix in (("start", "ge"), ("end", "le")) if name in asked.texts]
    if parameter and edges:
        pairs = [(parameter, prefix + asked.texts[name]) for name, prefix in edges]
        dated = both(*parse(server.definitions, type, pairs, strict=True).clauses)
        yield either(dated, Missing(parameter, True))


def _referred(
    server: Server, request: Request, access: Access, asked: Asked, matches: Iterable[Stored]
) -> list[Stored]:
    """What the page refers to outside the compartment, as far as the caller may read it; never another patient's."""
    inside = {
        *server.definitions.compartments.get(request.type or "", {}),
        "Patient" if request.type == "Patient" else "",
    }
    served = served_types(server, request.organization)
    seen = {f"{version.type}/{version.id}" for version in matches}
    found: list[Stored] = []
    fresh: list[Stored] = list(matches)
    for _ in range(ROUNDS):
        texts = {text for version in fresh for text in named(version.resource(), f"{request.base}/")}
        wanted = [text for text in sorted(texts - seen) if _type_of(text) in served and _type_of(text) not in inside]
        if asked.types:
            wanted = [text for text in wanted if _type_of(text) in asked.types]
        seen.update(wanted)
        room = MOST_REFERRED - len(found)
        fresh = by_references(server.store, access, wanted[:room], session=request.session) if wanted else []
        found += [each for each in fresh if asked.since is None or each.instant >= asked.since]
    return found


def _type_of(reference: str) -> str:
    return reference.partition("/")[0]


def _links(server: Server, asked: Asked, after: list[Any] | None) -> list[Resource]:
    def url(cursor: str) -> str:
        pairs = [*asked.kept, *([("_count", str(asked.count))] if "_count" in asked.texts or cursor else [])]
        pairs += [("_cursor", cursor)] if cursor else []
        return asked.url + (f"?{urlencode(pairs)}" if pairs else "")

    links = [{"relation": "self", "url": url(asked.cursor)}]
    if asked.cursor:
        links.append({"relation": "first", "url": url("")})
    if after:
        links.append({"relation": "next", "url": url(seal_cursor(server, asked.key, after))})
    return links


def _entry(server: Server, request: Request, version: Stored, mode: str) -> Resource:
    resource = version.resource()
    rule = server.rules.get(version.type)
    if rule and rule.present:
        resource = rule.present(resource, request.principal)
    url = f"{request.base}/{version.type}/{version.id}"
    return {"fullUrl": url, "resource": resource, "search": {"mode": mode}}
