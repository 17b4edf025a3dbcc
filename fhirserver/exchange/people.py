"""Operations on a User: a new password, a link to set one, what applications were allowed, and its end.

RFC 6749 (what a user allowed an application), OWASP ASVS 2.1 and 2.5 (passwords, links to reset them).
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

from fhirserver.auth.access import Access, everything
from fhirserver.auth.principal import Principal
from fhirserver.auth.secrets import check_password
from fhirserver.fhir.instants import instant_text
from fhirserver.fhir.parameters import parameters_of
from fhirserver.fhir.problem import problem
from fhirserver.interactions.model import OperationRow, Request, Response, Server
from fhirserver.interactions.operations import parameters, reference_parameter, text_parameter
from fhirserver.interactions.read import current
from fhirserver.interactions.versions import put
from fhirserver.interactions.write import persist
from fhirserver.rules import user as rule
from fhirserver.rules.model import CANONICAL, REGISTRY, reference, target
from fhirserver.store.kept import MAIL, grants_of, link_key, links_of, mail_key, of_user, session_key, sessions_of
from fhirserver.store.model import Stored

TYPE = "User"
LINK_PATH = "/oauth2/password"
LINK_LIFETIME = timedelta(hours=24)


def change_password(server: Server, request: Request, access: Access) -> Response:
    """$change-password: one's own, with the present one; every other session of the user ends.

    Raises Problem: forbidden for anybody else and for a wrong password, throttled after too many, value for a new one
    that breaks the rules.
    """
    values = parameters(request, "current", "password")
    user = _myself(server, request, access)
    given, wanted = (text_parameter(values, name, limit=1024) for name in ("current", "password"))
    address, email = str(request.facts.get("address", "")), str(user.resource()["email"])
    server.store.attempts.refuse(address, email, server.now(), person=True)
    if not check_password(given, user.private.get("password")):
        server.store.attempts.failed(address, email, server.now(), person=True)
        raise problem("forbidden", "The present password is wrong.", "Parameters.parameter.where(name='current')")
    if wanted == given:
        raise problem("value", "The new password is the present one.", "Parameters.parameter.where(name='password')")
    write_password(server, request, wanted)
    server.store.kept.drop_group(sessions_of(user.id), but=session_key(request.principal.token))
    server.store.kept.drop_group(links_of(user.id))
    return Response(204)


def reset_password(server: Server, request: Request, access: Access) -> Response:
    """$reset-password: a link, good once and for a day, with which a user sets a password; links made before end.
    With `mail` it goes to the user's address and is not shown.

    It is also how a user who was added without a password is let in. Raises Problem: forbidden for anybody but an
    administrator of the user's organization and an operator, not-supported for `mail` without a mail server.
    """
    mail = str(parameters(request, "mail").get("mail", "false")).lower() == "true"
    if mail and not server.mails:
        raise problem("not-supported", "There is no mail server: hand the link over yourself.")
    user = current(server, access, TYPE, request.id or "", request)
    resource, asking = user.resource(), request.principal
    theirs = resource.get("role") != "operator" and asking.admin(target(resource.get("organization"), "Organization"))
    if not (_operates(asking) or theirs):
        raise problem("forbidden", "Only an administrator of the user's organization may make a link for a password.")
    if resource.get("active") is False:
        raise problem("business-rule", "The user is not active: activate it first.")
    secret, until = secrets.token_urlsafe(32), server.now() + LINK_LIFETIME
    server.store.kept.drop_group(links_of(user.id))
    value = {"user": user.id, "for": _made_for(resource)}
    server.store.kept.put(link_key(digest(secret)), value, until, links_of(user.id))
    link = f"{server.public_url}{LINK_PATH}?link={secret}"
    if mail:
        _mail(server, request, user.id, link, until)
    parts: list[dict[str, Any]] = [] if mail else [{"name": "link", "valueUri": link}]
    parts.append({"name": "expires", "valueInstant": instant_text(until)})
    return Response(200, resource=parameters_of(parts), once=True)


def _made_for(user: Mapping[str, Any]) -> list[str]:
    """What a link holds for beside the id, which is made of the address alone: this account, where it is now."""
    return [str(user.get("registered", "")), target(user.get("organization"), "Organization"), str(user["role"])]


def _mail(server: Server, request: Request, user: str, link: str, until: datetime) -> None:
    """Lets the link wait to be sent, sealed: a link is as good as a password."""
    id, sealed = f"link-{server.new_id()}", server.context(server, request.principal, REGISTRY).encrypt(link)
    value = {"notice": id, "attempts": 0, "next": server.now(), "until": until, "user": user, "link": sealed}
    server.store.kept.replace(mail_key(id), value, until, MAIL, links_of(user))


def set_password(server: Server, secret: str, password: str, facts: Mapping[str, Any]) -> bool:
    """Sets the password of the user that a link was made for; everything that user had open ends. False for a link
    that is no good any more. Raises Problem(value) for a password that breaks the rules; the link stays good.
    """
    kept, key, now = server.store.kept, link_key(digest(secret)), server.now()
    found = kept.get(key, now)
    user = server.store.live(everything(REGISTRY), TYPE, found["user"]) if found else None
    if user is None or user.resource().get("active") is False:
        return False
    if found and found.get("for") != _made_for(user.resource()):
        return False  # somebody else's account has the address now, or another organization's
    rule.check_new_password(password)
    spent = kept.spend(key, now)
    if spent is None or not spent[1]:
        return False
    name = str(user.resource().get("name") or user.resource()["email"])
    asking = Principal("user", user.id, name=name)
    asked = Request("operation", REGISTRY, server.base(REGISTRY), asking, type=TYPE, id=user.id, facts=facts)
    write_password(server, replace(asked, operation="set-password"), password)
    end_tokens(server, user.id)
    kept.drop_group(sessions_of(user.id))
    return True


def write_password(server: Server, request: Request, password: str) -> None:
    """Writes the next version of a User with another password. Raises Problem(value) for one that breaks the rules."""
    whole, reference_ = everything(REGISTRY), f"{TYPE}/{request.id}"

    def attempt() -> Response:
        previous = current(server, whole, TYPE, request.id or "", request)
        context = server.context(server, request.principal, REGISTRY)
        prepared = rule.with_password(context, previous.resource(), dict(previous.private), password)
        put(server, request, whole, prepared, previous, reference_, "POST")
        return Response(204)

    persist(request, attempt)


def grants(server: Server, request: Request, access: Access) -> Response:
    """$grants: what the user allowed applications, as remembered: client, organization, scope, granted, until."""
    parameters(request)
    user = _myself(server, request, access)
    held = server.store.kept.of_group(grants_of(user.id), server.now())
    parts = [{"name": "grant", "part": _grant(server, value)} for value in held]
    shown = parameters_of(parts)
    return Response(200, resource=shown)


def _grant(server: Server, value: Mapping[str, Any]) -> list[dict[str, Any]]:
    place = value["organization"]
    client = reference("ClientApplication", value["client"], _name(server, "ClientApplication", value["client"]))
    organization = reference("Organization", place, _name(server, "Organization", place))
    return [
        {"name": "client", "valueReference": client},
        *([] if place == REGISTRY else [{"name": "organization", "valueReference": organization}]),
        {"name": "scope", "valueString": value["scope"]},
        *([{"name": "granted", "valueInstant": value["granted"]}] if value.get("granted") else []),
    ]


def _name(server: Server, type: str, id: str) -> str:
    found = server.store.live(everything(REGISTRY), type, id)
    return str(found.resource().get("name", "")) if found else ""


def withdraw_grant(server: Server, request: Request, access: Access) -> Response:
    """$withdraw-grant: forgets what the user allowed a client in an organization (none: on the registry), and ends the
    tokens that came of it, at once.
    """
    values = parameters(request, "client", "organization")
    user = _myself(server, request, access)
    client = reference_parameter(values, "client", "ClientApplication")
    place = reference_parameter(values, "organization", "Organization") if values.get("organization") else REGISTRY
    server.store.kept.drop(f"grant/{user.id}/{client}/{place}")
    end_tokens(server, user.id, client, server.base(place))
    return Response(204)


def end_tokens(server: Server, user: str, client: str = "", audience: str = "") -> None:
    """Ends codes, refresh tokens and access tokens that a user let applications have; of one client and base where
    these are given.
    """
    kept, now = server.store.kept, server.now()
    held = kept.of_group(of_user(user), now)
    mine = [each for each in held if client in ("", each["client"]) and audience in ("", each["audience"])]
    kept.end_families({str(each["family"]) for each in mine}, now)


def digest(secret: str) -> str:
    """The hash under which a link is kept."""
    return sha256(secret.encode()).hexdigest()


def _myself(server: Server, request: Request, access: Access) -> Stored:
    if request.principal.kind != "user" or request.principal.id != request.id:
        raise problem("forbidden", "This is for the user alone: call it on your own User.")
    return current(server, access, TYPE, request.id or "", request)


def _operates(principal: Principal) -> bool:
    return principal.operator or principal.kind == "operator"


def _row(name: str, function: Any, *, affects_state: bool = True) -> OperationRow:
    definition = f"{CANONICAL}/OperationDefinition/{TYPE}-{name}"
    return OperationRow(
        name, (TYPE,), ("instance",), "r", function, affects_state, bases=(REGISTRY,), definition=definition
    )


PEOPLE = (
    _row("change-password", change_password),
    _row("reset-password", reset_password),
    _row("grants", grants, affects_state=False),
    _row("withdraw-grant", withdraw_grant),
)
"""The operations; in the operations table they stand under `User/name`."""
