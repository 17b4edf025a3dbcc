"""An authorization request, looked at: is it one that may be answered, and what does it ask for.

RFC 6749 4.1.1, RFC 7636 (S256 only), SMART App Launch 2.2 standalone launch (`aud`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fhirserver.fhir import Resource
from fhirserver.fhir.problem import Problem
from fhirserver.web import codes
from fhirserver.web.tokens import Tokens, scopes_of

PARAMETERS = (
    "response_type",
    "client_id",
    "redirect_uri",
    "scope",
    "state",
    "code_challenge",
    "code_challenge_method",
    "aud",
    "nonce",
    "prompt",
    "max_age",
    "request",
    "request_uri",
    "response_mode",
)
PROMPTS = frozenset({"none", "login", "consent", "select_account"})
MOST_PARAMETER = 8192


class Fault(Exception):
    """An authorization request that must not be redirected: the user is told."""


@dataclass
class Refused(Exception):
    """An authorization request whose refusal the application is told, at its redirect URI."""

    error: str
    description: str


@dataclass(frozen=True, slots=True)
class Asked:
    """An authorization request that may be answered: its parameters, its client, the organization whose base it is
    about.
    """

    parameters: Mapping[str, str]
    client: Resource
    organization: str
    scope: str

    @property
    def about_patient(self) -> bool:
        """Whether it needs a patient to be chosen."""
        return about_patient(self.scope)


def about_patient(scope: str) -> bool:
    """Whether a scope is about one patient."""
    return any(word == "launch/patient" or word.startswith("patient/") for word in scope.split())


def client_of(tokens: Tokens, parameters: Mapping[str, str], all_of: Callable[[str], list[str]]) -> Resource:
    """The client, once it is certain that its redirect URI may be redirected to. Raises Fault."""
    if any(len(all_of(name)) > 1 for name in ("client_id", "redirect_uri")):
        raise Fault("The application's request names two applications.")
    if any(len(value) > MOST_PARAMETER for value in parameters.values()):
        raise Fault("The application's request is too long.")
    found = tokens.client(parameters["client_id"])
    if found is None or found[0].get("active") is False:
        raise Fault("The application is not registered here.")
    if parameters["redirect_uri"] not in found[0].get("redirectUri", ()):
        raise Fault("The application asks to be answered at an address that it has not registered.")
    return found[0]


def asked(tokens: Tokens, parameters: Mapping[str, str], client: Resource) -> Asked:
    """What the request asks for. Raises Refused for what may not be asked."""
    if parameters["response_type"] != "code":
        raise Refused("unsupported_response_type", "Only response_type code is supported.")
    _check_extras(parameters)
    if "authorization_code" not in client.get("grantType", ()):
        raise Refused("unauthorized_client", "The client is not registered for authorization_code.")
    if parameters["code_challenge_method"] != "S256" or not codes.CHALLENGE.fullmatch(parameters["code_challenge"]):
        raise Refused("invalid_request", "PKCE is required: code_challenge with code_challenge_method S256.")
    organization = _organization(tokens, parameters["aud"])
    try:
        scope = scopes_of(client, tokens.types(), ("user", "patient"), parameters["scope"])
    except Problem as refusal:
        raise Refused("invalid_scope", refusal.issues[0].diagnostics) from None
    if not scope:
        raise Refused("invalid_scope", "None of these scopes is registered for the client.")
    if about_patient(scope) and (tokens.patients is None or organization == "registry"):
        raise Refused("invalid_scope", "Scopes of one patient are not supported on this base.")
    return Asked(parameters, client, organization, scope)


def prompts(parameters: Mapping[str, str]) -> frozenset[str]:
    """What `prompt` asks for (OpenID Connect Core 3.1.2.1)."""
    return frozenset(parameters.get("prompt", "").split())


def _check_extras(parameters: Mapping[str, str]) -> None:
    """Raises Refused for what OpenID Connect and its kin may ask and we do not do: it must not be passed over."""
    for name in ("request", "request_uri"):
        if parameters.get(name):
            raise Refused(f"{name}_not_supported", f"The parameter {name} is not supported.")
    if parameters.get("response_mode", "") not in ("", "query"):
        raise Refused("invalid_request", "Only response_mode query is supported.")
    asked_for = prompts(parameters)
    if asked_for - PROMPTS or ("none" in asked_for and len(asked_for) > 1):
        raise Refused("invalid_request", "prompt is none alone, or some of login, consent and select_account.")
    age = parameters.get("max_age", "")
    if age and not (age.isascii() and age.isdigit() and len(age) < 10):
        raise Refused("invalid_request", "max_age is a number of seconds.")


def _organization(tokens: Tokens, audience: str) -> str:
    root, base = tokens.issuer + "/1/health/", audience.rstrip("/")
    if base == root + "fhir/4":
        return "registry"
    id_ = base.removeprefix(root + "organizations/").removesuffix("/fhir/4")
    known = tokens.organization(id_) if tokens.organization and id_ and "/" not in id_ else None
    if known is None or base != f"{root}organizations/{id_}/fhir/4":
        raise Refused("invalid_request", "aud must be the URL of the FHIR base that the application will call.")
    return id_
