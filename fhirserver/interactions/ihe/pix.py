"""Patient/$ihe-pix: from one identifier of a person to those of other domains. IHE PIXm, ITI-83; the feed of ITI-104.

A person is the Patient resources that have the identifier, and those that these are linked to: `seealso` in either
direction, `replaced-by` to whom they have become, where the link names a Patient of this base or an identifier. A
Patient that was merged into another has no identifiers any more, as after an ITI-104 feed that resolves a duplicate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from fhirserver.auth.access import Access
from fhirserver.fhir import Resource
from fhirserver.fhir.parameters import parameters_of
from fhirserver.fhir.problem import Problem, problem
from fhirserver.interactions import conditional
from fhirserver.interactions.model import OperationRow, Request, Response, Server
from fhirserver.interactions.operations import parameters
from fhirserver.interactions.search import matching, selection
from fhirserver.rules.model import CANONICAL
from fhirserver.store.model import Stored

TYPE = "Patient"
MOST_PATIENTS = 50
"""Resources that one person may be; further links are not followed."""
MOST_SYSTEMS = 20
FOLLOWED = ("seealso", "replaced-by")


def ihe_pix(server: Server, request: Request, access: Access) -> Response:
    """$ihe-pix: the identifiers of a person in other domains, and the Patients that stand for the person.

    Raises Problem as ITI-83 says: not-found for a source that nobody has, code-invalid (400) for a source of an
    unknown domain, code-invalid (403) for an unknown target domain.
    """
    values = parameters(request, "sourceIdentifier", "targetSystem")
    access.require(TYPE, "s")
    system, value = _source(values.get("sourceIdentifier"))
    targets = _targets(values.get("targetSystem"))
    person = _person(server, request, access, _holders(server, request, access, system, value))
    for target in targets:
        if target not in (request.base, *_own(request)) and not has_domain(server, request, access, target):
            raise problem("code-invalid", "targetSystem not found", "targetSystem", status=403)
    answered = [*_identifiers(person, (system, value), targets), *_ids(request, person, (system, value), targets)]
    body = parameters_of(answered)
    return Response(200, resource=body, seen=[f"{TYPE}/{one.id}" for one in person])


def feed(server: Server, request: Request, access: Access) -> Response:
    """A conditional update; of a Patient as ITI-104 has it, where a duplicate names its survivor by identifier: the
    link gets the reference too, so that whoever follows references finds the survivor.
    """
    if request.type == TYPE and request.unit is None and isinstance(request.body, dict):
        links = request.body.get("link")
        if isinstance(links, list):
            request = replace(
                request,
                body={**request.body, "link": [_referring(server, request, access, link) for link in links]},
            )
    return conditional.update(server, request, access)


def _referring(server: Server, request: Request, access: Access, link: Any) -> Any:
    other = link.get("other") if isinstance(link, dict) else None
    if not isinstance(other, dict) or "reference" in other or not isinstance(other.get("identifier"), dict):
        return link
    access.require(TYPE, "s")
    found = _linked(server, request, access, other)
    if len(found) != 1:
        return link
    return {**link, "other": {"reference": f"{TYPE}/{found[0].id}", **other}}


def _source(given: Any) -> tuple[str, str]:
    """System and value of the source, given as system|value or as an Identifier."""
    if isinstance(given, Mapping):
        system, value = str(given.get("system", "")), str(given.get("value", ""))
    else:
        system, _, value = str(given or "").partition("|")
    if isinstance(given, list) or not system or not value:
        text = "sourceIdentifier is required, once, as system|value: urn:oid:1.2.3.4|987."
        raise problem("required", text, "sourceIdentifier")
    return system, value


def _targets(given: Any) -> list[str]:
    found = given if isinstance(given, list) else [given] if given else []
    if len(found) > MOST_SYSTEMS or not all(isinstance(each, str) and each for each in found):
        raise problem("value", f"targetSystem is a URI, at most {MOST_SYSTEMS} times.", "targetSystem")
    return list(dict.fromkeys(each.rstrip("|") for each in found))


def _own(request: Request) -> tuple[str, str]:
    return f"{request.base}/", f"{request.base}/{TYPE}"


def _holders(server: Server, request: Request, access: Access, system: str, value: str) -> list[Stored]:
    """The Patients that have the source identifier; with this base as the system, the one that the value names."""
    if system in (request.base, *_own(request)):
        found = server.store.live(access, TYPE, value.rpartition("/")[2])
        holders = [found] if found else []
    else:
        holders = _with(server, request, access, f"{_escaped(system)}|{_escaped(value)}")
        if not holders and not has_domain(server, request, access, system):
            raise problem(
                "code-invalid", "sourceIdentifier Assigning Authority not found", "sourceIdentifier", status=400
            )
    if not holders:
        raise problem("not-found", "sourceIdentifier Patient Identifier not found", "sourceIdentifier")
    return holders


def _with(server: Server, request: Request, access: Access, token: str, name: str = "identifier") -> list[Stored]:
    query = selection(server, request, TYPE, ((name, token),))
    return matching(server, access, query, request.session, limit=MOST_PATIENTS)


def has_domain(server: Server, request: Request, access: Access, system: str) -> bool:
    """Whether anybody here has an identifier of this domain."""
    query = selection(server, request, TYPE, (("identifier", f"{_escaped(system)}|"),))
    return bool(matching(server, access, query, request.session, limit=1))


def _escaped(text: str) -> str:
    for special in ("\\", ",", "$", "|"):
        text = text.replace(special, f"\\{special}")
    return text


def _person(server: Server, request: Request, access: Access, holders: Iterable[Stored]) -> list[Stored]:
    """The Patients that stand for the person, in the order in which links lead to them."""
    found: dict[str, Stored] = {}
    waiting = list(holders)
    while waiting and len(found) < MOST_PATIENTS:
        one = waiting.pop(0)
        if one.id in found:
            continue
        found[one.id] = one
        for link in one.resource().get("link", ()):
            if link.get("type") in FOLLOWED:
                waiting += _linked(server, request, access, link["other"])
        waiting += [
            other
            for other in _with(server, request, access, f"{TYPE}/{one.id}", "link")
            if any(link.get("type") == "seealso" for link in other.resource().get("link", ()))
        ]
    return [one for one in found.values() if not _merged(one.resource())]


def _linked(server: Server, request: Request, access: Access, other: Mapping[str, Any]) -> list[Stored]:
    reference = str(other.get("reference", "")).removeprefix(f"{request.base}/")
    type, _, id = reference.partition("/")
    if type == TYPE and id:
        found = server.store.live(access, TYPE, id)
        return [found] if found else []
    identifier = other.get("identifier") or {}
    if not identifier.get("system") or not identifier.get("value"):
        return []
    try:
        token = f"{_escaped(str(identifier['system']))}|{_escaped(str(identifier['value']))}"
        return _with(server, request, access, token)
    except Problem:
        return []


def _merged(patient: Resource) -> bool:
    links = patient.get("link", ())
    return patient.get("active") is False and any(link.get("type") == "replaced-by" for link in links)


def _identifiers(person: Iterable[Stored], source: tuple[str, str], targets: list[str]) -> list[Resource]:
    found: dict[tuple[str, str], Resource] = {}
    for one in person:
        for identifier in one.resource().get("identifier", ()):
            key = (str(identifier.get("system", "")), str(identifier.get("value", "")))
            if all(key) and key != source and (not targets or key[0] in targets):
                found.setdefault(key, identifier)
    return [{"name": "targetIdentifier", "valueIdentifier": each} for each in found.values()]


def _ids(request: Request, person: Iterable[Stored], source: tuple[str, str], targets: list[str]) -> list[Resource]:
    own = (request.base, *_own(request))
    if targets and not set(own) & set(targets):
        return []
    itself = source[1].rpartition("/")[2] if source[0] in own else ""
    return [
        {"name": "targetId", "valueReference": {"reference": f"{TYPE}/{one.id}"}} for one in person if one.id != itself
    ]


OPERATIONS = (
    OperationRow(
        "ihe-pix",
        (TYPE,),
        ("type",),
        "r",
        ihe_pix,
        affects_state=False,
        bases=("organization",),
        definition=f"{CANONICAL}/OperationDefinition/Patient-ihe-pix",
    ),
)
