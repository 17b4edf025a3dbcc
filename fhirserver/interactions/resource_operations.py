"""The operations on any resource: $validate, $meta, $meta-add, $meta-delete; and the table of HL7's operations served.

FHIR R4: resource-operations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from fhirserver.auth.access import Access
from fhirserver.fhir import Resource
from fhirserver.fhir.parameters import parameters_of
from fhirserver.fhir.problem import Issue, Problem, outcome, problem
from fhirserver.fhir.validation import validate
from fhirserver.interactions.capabilities import served_types
from fhirserver.interactions.everything import everything
from fhirserver.interactions.model import OperationRow, Request, Response, Server
from fhirserver.interactions.operations import parameters, text_parameter
from fhirserver.interactions.read import current
from fhirserver.interactions.write import answer, persist, store
from fhirserver.search.query import Missing, Not, either
from fhirserver.store.model import Stored
from fhirserver.store.search import compile_search, find

MODES = ("create", "update", "delete", "profile")
LABELS = {"tag": "Meta.tag", "security": "Meta.security", "profile": "Meta.profile"}
MOST_LABELLED = 2_000
"""Resources that $meta on a type or the system looks at, of each type."""
Merge = Callable[[Resource, Resource], Resource]


def validation(server: Server, request: Request, access: Access) -> Response:
    """$validate: an OperationOutcome with every fault of the resource in the body, or of the stored one.

    The answer is 200 whether or not the resource is valid. Raises Problem for a call that is itself wrong.
    """
    resource, mode, profile = _to_validate(server, request, access)
    issues = [] if mode == "delete" else _faults(server, request, resource, profile)
    if mode in ("create", "update", "delete") and not any(issue.severity in ("error", "fatal") for issue in issues):
        issues += _refusals(server, request, access, resource, mode)
    if not issues:
        issues = [Issue("informational", "No faults were found.", (), "information")]
    return Response(200, resource=outcome(issues))


def _to_validate(server: Server, request: Request, access: Access) -> tuple[Any, str, str]:
    """The resource, the mode and the profile, from Parameters, a bare resource in the body, or what is stored."""
    bare = isinstance(request.body, dict) and request.body.get("resourceType") != "Parameters"
    values = parameters(replace(request, body=None) if bare else request, "resource", "mode", "profile")
    resource = request.body if bare else values.get("resource")
    mode, profile = text_parameter(values, "mode"), text_parameter(values, "profile")
    if mode and mode not in MODES:
        raise problem("value", f"mode is one of {', '.join(MODES)}.", "Parameters.parameter.where(name='mode')")
    if mode in ("update", "delete") and not request.id:
        raise problem("invalid", f"mode {mode} is about a resource that exists: call it on {request.type}/[id].")
    if mode == "create" and request.id:
        raise problem("invalid", f"mode create is about a new resource: call it on {request.type}.")
    if request.id and (resource is None or mode == "delete"):
        resource = current(server, access, request.type or "", request.id, request).resource()
    if resource is None:
        raise problem("required", "$validate needs a resource in its body.", "Parameters.parameter")
    return resource, mode, profile


def _faults(server: Server, request: Request, resource: Any, profile: str) -> list[Issue]:
    if not isinstance(resource, dict):
        raise problem("structure", "The resource to validate must be a JSON object.", "Parameters.parameter")
    named = request.type or ""
    if resource.get("resourceType") != named:
        text = f"The resource is of type {str(resource.get('resourceType'))[:64]}, the URL says {named}."
        return [Issue("value", text, ("resourceType",))]
    if not profile:
        return validate(server.definitions, resource)
    url = profile.partition("|")[0]
    if url not in server.definitions.profiles and url != server.definitions.types[named].url:
        return [Issue("not-found", f"The profile {profile[:300]} is not known here.")]
    meta = resource.get("meta") if isinstance(resource.get("meta"), dict) else {}
    claimed = [*_listed(meta, "profile"), *([] if profile in _listed(meta, "profile") else [profile])]
    return validate(server.definitions, {**resource, "meta": {**(meta or {}), "profile": claimed}})


def _refusals(server: Server, request: Request, access: Access, resource: Any, mode: str) -> list[Issue]:
    """Why this write would be refused now although the resource is valid: by access, by a rule, by its id."""
    type = request.type or ""
    rule = server.rules.get(type)
    try:
        access.require(type, mode[0])
        refused = rule.refusals(request.organization) if rule else {}
        if mode in refused:
            raise problem("not-supported", refused[mode], status=405)
        if mode == "create":
            if rule:
                rule.create(server.context(server, request.principal, request.organization), resource)
            return []
        stored = current(server, access, type, request.id or "", request)
        if mode == "update" and resource.get("id") != request.id:
            raise problem("value", f"The id in the body must be {request.id}.", f"{type}.id")
        if rule:
            _try_rule(server, request, stored, resource, mode)
    except Problem as error:
        return list(error.issues)
    return []


def _try_rule(server: Server, request: Request, stored: Stored, resource: Resource, mode: str) -> None:
    rule = server.rules[stored.type]
    context = server.context(server, request.principal, request.organization)
    if mode == "delete":
        rule.delete(context, stored.resource())
    else:
        rule.update(context, stored.resource(), dict(stored.private), resource)


def meta(server: Server, request: Request, access: Access) -> Response:
    """$meta: the meta of a resource; of a type or the system the profiles, tags and security labels in use."""
    parameters(request)
    if request.id:
        found = current(server, access, request.type or "", request.id, request)
        return _returned(found.resource().get("meta", {}))
    types = [request.type] if request.type else sorted(served_types(server, request.organization))
    union: Resource = {}
    for type in server.store.existing(types):
        labelled = either(*(Not(Missing(f"_{name}", True)) for name in LABELS))
        search = compile_search(server.store, access, type, [labelled], request.session)
        for version in find(server.store, search, (), MOST_LABELLED).matches if search else ():
            union = _added(union, version.resource().get("meta", {}))
    return _returned(union)


def meta_add(server: Server, request: Request, access: Access) -> Response:
    """$meta-add: adds the profiles, tags and security labels of the given Meta, in a new version."""
    return _merged(server, request, access, _added)


def meta_delete(server: Server, request: Request, access: Access) -> Response:
    """$meta-delete: takes the profiles, tags and security labels of the given Meta out, in a new version."""
    return _merged(server, request, access, _without)


def _merged(server: Server, request: Request, access: Access, merge: Merge) -> Response:
    given = _given_meta(request)
    type = request.type or ""
    rule = server.rules.get(type)
    refused = rule.refusals(request.organization) if rule else {}
    if "update" in refused:
        raise problem("not-supported", refused["update"], status=405)

    def attempt() -> Response:
        previous = current(server, access, type, request.id or "", request)
        resource = previous.resource()
        before = resource.get("meta", {})
        after = merge(before, given)
        if after == before:
            return _returned(before)
        written = store(server, request, access, {**resource, "meta": after}, previous, previous.id, "PUT")
        done = answer(server, replace(request, prefer=replace(request.prefer, returned="minimal")), written, 200)
        return replace(done, resource=_returned(written.version.resource()["meta"]).resource)

    return persist(request, attempt)


def _given_meta(request: Request) -> Resource:
    given = parameters(request, "meta").get("meta")
    where = "Parameters.parameter.where(name='meta')"
    if not isinstance(given, dict):
        raise problem("required", f"${request.operation} needs one parameter meta with a valueMeta.", where)
    for name in LABELS:
        wrong = [each for each in _listed(given, name) if not isinstance(each, str if name == "profile" else dict)]
        if wrong or not isinstance(given.get(name, []), list):
            raise problem("structure", f"{name} must be a list as in {LABELS[name]}.", where)
    if not any(_listed(given, name) for name in LABELS):
        raise problem("required", f"The meta names none of {', '.join(LABELS)}.", where)
    return given


def _added(meta: Resource, given: Resource) -> Resource:
    """The meta with the labels of the other one that it does not have yet."""
    merged = dict(meta)
    for name in LABELS:
        known = {_label(each) for each in _listed(meta, name)}
        fresh = [each for each in _listed(given, name) if _label(each) not in known]
        if fresh:
            merged[name] = [*_listed(meta, name), *fresh]
    return merged


def _without(meta: Resource, given: Resource) -> Resource:
    """The meta without the labels of the other one."""
    merged = dict(meta)
    for name in LABELS:
        gone = {_label(each) for each in _listed(given, name)}
        kept = [each for each in _listed(meta, name) if _label(each) not in gone]
        merged[name] = kept
        if not kept:
            del merged[name]
    return merged


def _label(value: Any) -> tuple[str, str]:
    """What tells labels apart: the canonical URL, or system and code."""
    return (str(value.get("system", "")), str(value.get("code", ""))) if isinstance(value, Mapping) else ("", value)


def _listed(meta: Any, name: str) -> list[Any]:
    value = meta.get(name) if isinstance(meta, Mapping) else None
    return value if isinstance(value, list) else []


def _returned(meta: Resource) -> Response:
    return Response(200, resource=parameters_of([{"name": "return", "valueMeta": meta}] if meta else []))


def _hl7(name: str) -> str:
    return f"http://hl7.org/fhir/OperationDefinition/{name}"


def _rows(rows: Iterable[tuple[Any, ...]]) -> tuple[OperationRow, ...]:
    return tuple(
        OperationRow(name, types, levels, letter, function, affects, definition=_hl7(definition))
        for name, types, levels, letter, function, affects, definition in rows
    )


_ANY = ("Resource",)
# fmt: off
OPERATIONS: tuple[OperationRow, ...] = _rows((
    # name          types           levels                          letter function   affects state  definition
    ("validate",    _ANY,           ("type", "instance"),           "",  validation,  False, "Resource-validate"),
    ("meta",        _ANY,           ("system", "type", "instance"), "r", meta,        False, "Resource-meta"),
    ("meta-add",    _ANY,           ("instance",),                  "u", meta_add,    True,  "Resource-meta-add"),
    ("meta-delete", _ANY,           ("instance",),                  "u", meta_delete, True,  "Resource-meta-delete"),
    ("everything",  ("Patient",),   ("instance",),                  "r", everything,  False, "Patient-everything"),
    ("everything",  ("Encounter",), ("instance",),                  "r", everything,  False, "Encounter-everything"),
))
# fmt: on
