"""User: a person with a role in one organization, or a platform operator. The password is written, never read."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import datetime
from itertools import groupby
from typing import Any

from fhirserver.auth.principal import Principal
from fhirserver.auth.secrets import MOST_PASSWORD, hash_password
from fhirserver.fhir import Resource
from fhirserver.fhir.instants import instant_text
from fhirserver.fhir.problem import problem
from fhirserver.rules.model import Context, Prepared, Rule, only_on_registry, reference, target

ROLES = ("admin", "member")
LEAST_PASSWORD = 16
PERSONS = ("Practitioner", "PractitionerRole", "Patient", "RelatedPerson", "Person")
"""What SMART App Launch lets `fhirUser` name."""
_PERSON = re.compile(rf"(?:{'|'.join(PERSONS)})/[A-Za-z0-9\-.]{{1,64}}")
_EMAIL = re.compile(r"(?!.*=\?)[^@\s\"<>()\[\],;:\\\x00-\x1f\x7f]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])")


def user_id(email: str) -> str:
    """The id of the User with this e-mail address: there can only be one, whatever the case of its letters."""
    return hashlib.sha256(normal_email(email).encode()).hexdigest()[:32]


def normal_email(email: str) -> str:
    """The address as it is compared and stored. Raises Problem(value) for what is no address."""
    if not _EMAIL.fullmatch(email.strip()):
        raise problem("value", "User.email must be an e-mail address, like name@example.org.", "User.email")
    return email.strip().lower()


def roles(user: Mapping[str, Any]) -> dict[str, str]:
    """The role per organization id that this user has, as `Principal.roles` wants it; none for an inactive user."""
    organization = target(user.get("organization"), "Organization")
    if user.get("active") is False or user.get("role") not in ROLES or not organization:
        return {}
    return {organization: str(user["role"])}


def operator(user: Mapping[str, Any]) -> bool:
    """Whether the user is an active platform operator."""
    return user.get("active") is not False and user.get("role") == "operator"


def create(context: Context, resource: Resource) -> Prepared:
    """A new User under the id its address gives. Raises Problem for a bad address, password, role or organization."""
    only_on_registry(context, "User")
    email = normal_email(str(resource.get("email", "")))
    user = {**resource, "id": user_id(email), "email": email}
    user.setdefault("active", True)
    user.setdefault("role", "member")
    user["registered"] = instant_text(context.now)
    _place(context.principal, user)
    _check_person(user)
    return _prepared(context, user, {})


def update(context: Context, previous: Resource, private: Mapping[str, Any], resource: Resource) -> Prepared:
    """The changed User; without a password the old one stays. The address is its identity and cannot change."""
    email = normal_email(str(resource.get("email", "")))
    if email != previous["email"]:
        raise problem("business-rule", "A user's address cannot change: create another user.", "User.email")
    user = {**resource, "email": email}
    user.setdefault("active", previous.get("active", True))
    user.setdefault("role", previous["role"])
    if "organization" not in user and "organization" in previous:
        user["organization"] = previous["organization"]
    user.pop("registered", None)
    again = (previous.get("active") is False and user["active"] is not False) or "password" in user
    since = instant_text(context.now) if again else previous.get("registered")
    user |= {"registered": since} if since else {}
    _require_operator(context.principal, previous)
    _not_oneself(context.principal, previous, user)
    moved = target(user.get("organization"), "Organization") != target(previous.get("organization"), "Organization")
    if moved and not _is_operator(context.principal):
        raise problem("forbidden", "Only an operator may move a user to another organization.", "User.organization")
    _place(context.principal, user)
    _check_person(user)
    return _prepared(context, user, private)


def delete(context: Context, user: Resource) -> None:
    """Raises Problem: business-rule for somebody who would remove himself, forbidden for an operator's account."""
    _require_operator(context.principal, user)
    _not_oneself(context.principal, user, {**user, "active": False})


def _check_person(user: Resource) -> None:
    """Raises Problem(value) unless the person is a resource on the base of the user's organization."""
    person = user.get("person")
    reference_ = person.get("reference") if isinstance(person, Mapping) else None
    known = isinstance(reference_, str) and _PERSON.fullmatch(reference_) and user["role"] != "operator"
    if person is not None and not known:
        text = f"User.person is a resource of the user's organization, as in Practitioner/123: {', '.join(PERSONS)}."
        raise problem("value", text, "User.person")


def _require_operator(principal: Principal, user: Resource) -> None:
    """An operator's account is for operators to write, whatever organization it names: it opens all of them."""
    if user.get("role") == "operator" and not _is_operator(principal):
        raise problem("forbidden", "Only an operator may write an operator's account.", "User.role")


def _not_oneself(principal: Principal, previous: Resource, user: Resource) -> None:
    """Nobody takes his own rights away: an organization is left without an administrator by two people at least. Nor
    does anybody set his own password without the present one.
    """
    if principal.kind == "user" and principal.id == previous["id"] and "password" in user:
        text = "Change your own password with $change-password, which asks for the present one."
        raise problem("business-rule", text, "User.password")
    lost = user.get("active") is False or user["role"] != previous["role"]
    if principal.kind == "user" and principal.id == previous["id"] and lost:
        text = "Nobody can remove or deactivate himself or change his own role: ask another administrator."
        raise problem("business-rule", text, "User.role")


def older(seconds: int, user: Mapping[str, Any], since: str = "") -> bool:
    """Whether something of that second is from before the user was added, activated again or given another password: it
    counts no more. `since` is the user's `registered` of that time, where it is known: a second is too coarse.
    """
    registered = str(user.get("registered") or "")
    if since:
        return since != registered
    return bool(registered) and seconds < int(datetime.fromisoformat(registered).timestamp())


def _place(principal: Principal, user: Resource) -> None:
    """Gives the user the writer's organization where none is said, and refuses what the writer may not give."""
    if user["role"] == "operator":
        if not _is_operator(principal):
            raise problem("forbidden", "Only an operator may make an operator.", "User.role")
        user.pop("organization", None)  # an operator is no organization's: nobody administers him
        return
    if "organization" not in user and principal.organization:
        user["organization"] = reference("Organization", principal.organization)
    organization = target(user.get("organization"), "Organization")
    if not organization:
        raise problem("required", "User.organization is missing: reference an Organization.", "User.organization")
    if not (_is_operator(principal) or principal.admin(organization)):
        raise problem("forbidden", f"Only an administrator of organization {organization} may write its users.")


def _is_operator(principal: Principal) -> bool:
    return principal.operator or principal.kind == "operator"


def _prepared(context: Context, user: Resource, private: Mapping[str, Any]) -> Prepared:
    password = user.pop("password", None)
    return Prepared(user, dict(private)) if password is None else with_password(context, user, private, password)


def with_password(context: Context, user: Resource, private: Mapping[str, Any], password: Any) -> Prepared:
    """The User with another password. Raises Problem(value) that names every rule it breaks."""
    check_new_password(password)
    return Prepared(user, {**private, "password": hash_password(password, context.new_secret())})


def check_new_password(password: Any) -> None:
    """Raises Problem(value) that names every rule the password breaks: length, a digit, a special character, no
    runs.
    """
    if not isinstance(password, str):
        raise problem("value", "User.password must be a text.", "User.password")
    faults = [
        text
        for broken, text in (
            (
                not LEAST_PASSWORD <= len(password) <= MOST_PASSWORD,
                f"have {LEAST_PASSWORD} to {MOST_PASSWORD} characters",
            ),
            (not any(c.isdigit() for c in password), "contain a digit"),
            (all(c.isalnum() for c in password), "contain a special character"),
            (
                any(len(list(run)) > 2 for _, run in groupby(password)),
                "not repeat a character more than twice in a row",
            ),
        )
        if broken
    ]
    if faults:
        raise problem("value", f"The password must {', '.join(faults)}.", "User.password")


RULE = Rule("User", create=create, update=update, delete=delete)
