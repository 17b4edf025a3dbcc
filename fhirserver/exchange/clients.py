"""Operations on a ClientApplication: $rotate-secret gives it a new secret, $secrets says when each was used, $why
explains what it may do and who says so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl

from fhirserver.auth.access import Access, everything
from fhirserver.auth.principal import Principal
from fhirserver.auth.scopes import ACTIONS
from fhirserver.fhir import Resource
from fhirserver.fhir.instants import instant_text
from fhirserver.fhir.parameters import parameters_of
from fhirserver.fhir.problem import Problem, problem
from fhirserver.interactions.model import OperationRow, Request, Response, Server
from fhirserver.interactions.operations import parameters, reference_parameter, text_parameter
from fhirserver.interactions.read import current
from fhirserver.interactions.table import BY_CODE
from fhirserver.interactions.versions import put
from fhirserver.interactions.write import answer, persist
from fhirserver.rules import client as rule
from fhirserver.rules import user as users
from fhirserver.rules.model import CANONICAL, REGISTRY, target

TYPE, USER = "ClientApplication", "User"


def rotate_secret(server: Server, request: Request, access: Access) -> Response:
    """$rotate-secret: the client with its new secret, this once; the old one works for `overlap` more seconds.

    Raises Problem: forbidden for strangers, business-rule for a client without a secret.
    """
    overlap = parameters(request, "overlap").get("overlap", rule.DEFAULT_OVERLAP)
    if not isinstance(overlap, int) or isinstance(overlap, bool):
        raise problem("value", "overlap is a whole number of seconds.", "Parameters.parameter")

    def attempt() -> Response:
        previous = current(server, access, TYPE, request.id or "", request)
        context = server.context(server, request.principal, request.organization)
        prepared = rule.rotate(context, previous.resource(), dict(previous.private), overlap)
        written = put(server, request, access, prepared, previous, f"{TYPE}/{previous.id}", "POST")
        return answer(server, request, written, 200)

    return persist(request, attempt)


def secrets(server: Server, request: Request, access: Access) -> Response:
    """$secrets: of each secret of a client when it was made, was last used and ends, and whether it is weak; and when
    the client last authenticated by a key. Never a secret, nor anything made of one.
    """
    parameters(request)
    version = current(server, access, TYPE, request.id or "", request)
    now = server.now()
    held = [entry for entry in version.private.get("secrets", ()) if entry.get("expires", "9") > instant_text(now)]
    parts = [{"name": "secret", "part": _of_secret(entry, entry is held[-1])} for entry in held]
    if version.private.get("used"):
        parts.append({"name": "keyLastUsed", "valueInstant": instant_text(version.private["used"])})
    return Response(200, resource=parameters_of(parts))


def _of_secret(entry: Mapping[str, Any], newest: bool) -> list[Resource]:
    times = (("created", entry["created"]), ("lastUsed", entry.get("used")), ("expires", entry.get("expires")))
    parts: list[Resource] = [{"name": name, "valueInstant": _instant(value)} for name, value in times if value]
    parts.append({"name": "current", "valueBoolean": newest})
    if entry.get("weak"):
        parts.append({"name": "warning", "valueString": rule.WEAK})
    return parts


def _instant(value: str | datetime) -> str:
    return instant_text(value) if isinstance(value, datetime) else value


def why(server: Server, request: Request, access: Access) -> Response:
    """$why: whether the client may do an `interaction` with a `type` (or `method` and `url`) in an organization, and
    what each party says.

    Called on a ClientApplication (with `organization`) by its own side, on a ClientAuthorization by either side of it,
    on a User (`organization` left out: on the registry) by the user, an administrator of theirs or an operator.
    Raises Problem: value for an interaction or type that there is not, forbidden for anybody else.
    """
    values = parameters(request, "organization", "type", "interaction", "method", "url")
    type_, letter, told = _interaction(server, values)
    asked = current(server, access, request.type or "", request.id or "", request).resource()
    if request.type == USER:
        return _of_user(server, request, asked, values, (type_, letter, told))
    if request.type == TYPE:
        client, organization = asked, reference_parameter(values, "organization", "Organization")
    else:
        client = current(server, everything(REGISTRY), TYPE, target(asked["client"], TYPE), request).resource()
        organization = target(asked["organization"], "Organization")
    _may_ask(request.principal, client, organization)
    principal = Principal("client", client["id"], scopes=client.get("scope", ""), name=str(client.get("name", "")))
    parties = _parties(server, principal, organization, type_, letter, told)
    if len(parties) == 1 and parties[0][0] == "":
        parties = [("client" if client.get("active") is False else "authorization", *parties[0][1:])]
    return Response(200, resource=_explained(parties, type_, letter))


def _interaction(server: Server, values: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """Type, SMART letter and what policies see of the interaction that is asked about."""
    method, url = text_parameter(values, "method").upper(), text_parameter(values, "url")
    told: dict[str, Any] = {}
    if method or url:
        path, _, search = url.partition("?")
        row, parts = server.locate(method, path)
        type_ = parts.get("member") or parts.get("type", "")
        query: dict[str, list[str]] = {}
        for name, value in parse_qsl(search, keep_blank_values=True):
            query.setdefault(name, []).append(value)
        told = {"method": method, "id": parts.get("id"), "operation": parts.get("operation"), "query": query}
        letter = row.letter or ("s" if "member" in parts else "r")
    else:
        type_ = text_parameter(values, "type")
        row = BY_CODE.get(text_parameter(values, "interaction"))
        letter = row.letter if row and row.letter else ""
    if row is None or not letter or type_ not in server.definitions.resource_types:
        text = (
            "Give a resource type and an interaction on it (read, create, update, delete, search-type, ...),"
            " or a method and a url below the base, as in GET Observation?category=exam."
        )
        raise problem("value", text, "Parameters.parameter")
    told["interaction"] = row.code
    return type_, letter, {name: value for name, value in told.items() if value}


def _may_ask(principal: Principal, client: Resource, organization: str) -> None:
    owner = target(client.get("managingOrganization"), "Organization")
    is_itself = principal.kind == "client" and principal.id == client["id"]
    if not (is_itself or principal.operator or principal.admin(owner) or principal.admin(organization)):
        raise problem("forbidden", "Only the client's own side and the organization itself may ask why.")


def _of_user(
    server: Server, request: Request, user: Resource, values: dict[str, Any], asked: tuple[str, str, dict[str, Any]]
) -> Response:
    by, home = request.principal, target(user.get("organization"), "Organization")
    if not (by.operator or by.id == user["id"] or by.admin(home)):
        raise problem("forbidden", "Only the user, an administrator of theirs and an operator may ask why.")
    place = reference_parameter(values, "organization", "Organization") if values.get("organization") else REGISTRY
    name = str(user.get("name") or user["email"])
    principal = Principal("user", user["id"], home, users.roles(user), users.operator(user), name=name)
    if user.get("active") is False:
        parties = [("user", False, f"User {name} is not active: they cannot sign in.")]
    else:
        parties = [(who or "role", permits, text) for who, permits, text in _parties(server, principal, place, *asked)]
    return Response(200, resource=_explained(parties, *asked[:2]))


def _parties(
    server: Server, principal: Principal, organization: str, type_: str, letter: str, told: dict[str, Any]
) -> list[tuple[str, bool, str]]:
    """What each party says; one without a name for a refusal of everything."""
    try:
        said = server.access(server, principal, organization).about(lambda: told).explain(type_, letter)
    except Problem as refusal:
        said = [("", False, refusal.issues[0].diagnostics)]
    return [(party, permits, _with_name(server, text, organization)) for party, permits, text in said]


def _with_name(server: Server, text: str, organization: str) -> str:
    """The reason with the organization's name before its id, where it stands alone."""
    alone = re.compile(rf"(?<![(/\w-]){re.escape(organization)}(?![\w/-])") if organization else None
    if alone is None or not alone.search(text):
        return text
    found = server.store.live(everything(REGISTRY), "Organization", organization)
    name = found.resource().get("name") if found else None
    return alone.sub(lambda match: f"{name} ({match[0]})", text) if name else text


def _explained(parties: Sequence[tuple[str, bool, str]], type_: str, letter: str) -> Resource:
    parts: list[dict[str, Any]] = [
        {"name": "permitted", "valueBoolean": all(permits for _, permits, _ in parties)},
        {"name": "action", "valueString": f"{ACTIONS[letter]} {type_}"},
        *(_party(name, permits, text) for name, permits, text in parties),
    ]
    return parameters_of(parts)


def _party(name: str, permits: bool, text: str) -> dict[str, Any]:
    parts = [{"name": "name", "valueCode": name}, {"name": "permits", "valueBoolean": permits}]
    if text:
        parts.append({"name": "reason", "valueString": text})
    return {"name": "party", "part": parts}


def _row(name: str, type_: str, function: Any, *, affects_state: bool) -> OperationRow:
    definition = f"{CANONICAL}/OperationDefinition/{type_}-{name}"
    return OperationRow(
        name, (type_,), ("instance",), "r", function, affects_state, bases=("registry",), definition=definition
    )


CLIENTS = (
    _row("rotate-secret", TYPE, rotate_secret, affects_state=True),
    _row("secrets", TYPE, secrets, affects_state=False),
    _row("why", TYPE, why, affects_state=False),
    _row("why", "ClientAuthorization", why, affects_state=False),
    _row("why", USER, why, affects_state=False),
)
"""The operations; in the operations table they stand under `Type/name`."""
