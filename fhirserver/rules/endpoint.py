"""Endpoint on the registry: whose messages a sender's are. Its organization is one that the writer administers.

What an active Endpoint for HL7v2 claims (application and facility, with each certificate; or being the default) is kept
in its private part, where the store holds it unique: two that claim the same sender cannot both be written.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from fhirserver.fhir import Resource
from fhirserver.fhir.problem import problem
from fhirserver.rules.model import REGISTRY, Context, Prepared, Rule, listed, reference, target

BASE = "https://fhirserver.example/fhir"
APPLICATION = f"{BASE}/NamingSystem/hl7v2-sending-application"
FACILITY = f"{BASE}/NamingSystem/hl7v2-sending-facility"
CERTIFICATE = f"{BASE}/NamingSystem/certificate-sha256"
SUBJECT = f"{BASE}/NamingSystem/certificate-subject"
EXTENSION = f"{BASE}/StructureDefinition/endpoint-hl7v2"
CONNECTION = {"system": "http://terminology.hl7.org/CodeSystem/endpoint-connection-type", "code": "hl7v2-mllp"}

# The codes that parts of the extension may have; the first is what an absent part means.
CODES: Mapping[str, tuple[str, ...]] = {
    "acknowledgment": ("msh", "original", "enhanced", "aa"),
    "acknowledgment-point": ("stored", "transformed", "persisted"),
    "merge": ("re-point", "keep"),
}


def create(context: Context, resource: Resource) -> Prepared:
    """Raises Problem: required without an organization, forbidden for one that the writer does not administer."""
    if context.organization != REGISTRY:
        return Prepared(resource)
    endpoint, principal = dict(resource), context.principal
    endpoint.setdefault("status", "active")
    if "managingOrganization" not in endpoint and principal.organization:
        endpoint["managingOrganization"] = reference("Organization", principal.organization)
    organization = target(endpoint.get("managingOrganization"), "Organization")
    if not organization:
        text = "Endpoint.managingOrganization is missing: reference the Organization whose messages come from here."
        raise problem("required", text, "Endpoint.managingOrganization")
    if not (principal.operator or principal.kind in ("operator", "system") or principal.admin(organization)):
        raise problem("forbidden", f"Only an administrator of organization {organization} may write its endpoints.")
    claimed = claims(endpoint)
    _check(endpoint)
    return Prepared(endpoint, {"claims": claimed} if claimed else {})


def update(context: Context, previous: Resource, private: Mapping[str, Any], resource: Resource) -> Prepared:
    """Raises Problem(forbidden) where a writer would move the endpoint to an organization it does not administer."""
    kept = {"managingOrganization": previous["managingOrganization"]} if "managingOrganization" in previous else {}
    return create(context, {**kept, **resource})


def settings(endpoint: Resource) -> dict[str, list[Any]]:
    """What the extension endpoint-hl7v2 says: the values of each part."""
    said: dict[str, list[Any]] = {}
    for extension in listed(endpoint.get("extension")):
        if isinstance(extension, dict) and extension.get("url") == EXTENSION:
            for part in listed(extension.get("extension")):
                if isinstance(part, dict):
                    value = next((v for name, v in part.items() if name.startswith("value")), None)
                    said.setdefault(str(part.get("url", "")), []).append(value)
    return said


def identified(endpoint: Resource, system: str) -> list[str]:
    """The values of the identifiers of one system."""
    identifiers = [each for each in listed(endpoint.get("identifier")) if isinstance(each, dict)]
    return [str(i["value"]) for i in identifiers if i.get("system") == system and i.get("value")]


def fingerprint(value: str) -> str:
    """A SHA-256 fingerprint however it was written: with colons, in capitals."""
    return value.lower().replace(":", "").replace(" ", "")


def claims(endpoint: Resource) -> list[str]:
    """The senders that an Endpoint claims for its organization; none where it is not active or not for HL7v2."""
    connection = endpoint.get("connectionType")
    code = connection.get("code") if isinstance(connection, dict) else ""
    if endpoint.get("status") != "active" or code != CONNECTION["code"]:
        return []
    applications, facilities = identified(endpoint, APPLICATION) or [""], identified(endpoint, FACILITY) or [""]
    certificates = [fingerprint(each) for each in identified(endpoint, CERTIFICATE)]
    subjects = [", ".join(sorted(part.strip() for part in each.split(","))) for each in identified(endpoint, SUBJECT)]
    shown = [*certificates, *subjects] or [""]
    found = [each for each in product(applications[:1], facilities[:1], shown) if any(each)]
    if not found and True in settings(endpoint).get("default", ()):
        return ["default"]
    return ["\n".join(each) for each in found]


def _check(endpoint: Resource) -> None:
    said = settings(endpoint)
    for name in said.get("timezone", ()):
        if not _is_zone(str(name)):
            text = f"{str(name)[:60]} is no time zone: give its IANA name, as in America/Chicago."
            raise problem("value", text, f"Endpoint.extension('{EXTENSION}').extension('timezone')")
    for name, codes in CODES.items():
        wrong = next((value for value in said.get(name, ()) if value not in codes), None)
        if wrong is not None:
            text = f"{name} is one of {', '.join(codes)}, not {str(wrong)[:40]}."
            raise problem("value", text, f"Endpoint.extension('{EXTENSION}').extension('{name}')")


def _is_zone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True


RULE = Rule("Endpoint", create=create, update=update)
