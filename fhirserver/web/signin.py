"""From an authorization request to a code: who the user is, which patient, what the application may do. A user decides.

RFC 6749 4.1, RFC 7636 (S256 only), RFC 9207 (iss), SMART App Launch 2.2 standalone launch, OpenID Connect logout.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from urllib.parse import urlencode, urlsplit

from flask import Blueprint
from flask import Response as HttpResponse
from flask import request as http

from fhirserver.auth import scopes, tokens
from fhirserver.auth.keys import by_kid
from fhirserver.auth.principal import Principal
from fhirserver.auth.sandbox import sandbox_of
from fhirserver.fhir import Resource
from fhirserver.fhir.instants import instant_text
from fhirserver.fhir.problem import Problem
from fhirserver.rules.model import target
from fhirserver.store.kept import Kept, grants_of, of_client
from fhirserver.web import codes
from fhirserver.web.asking import PARAMETERS, Asked, Fault, Refused, about_patient, asked, client_of, prompts
from fhirserver.web.codes import Consent
from fhirserver.web.pages import page
from fhirserver.web.sessions import Sessions, SignedIn, csrf, digest, ours, set_cookie
from fhirserver.web.tokens import Tokens, person
from fhirserver.web.wellknown import AUTHORIZE_PATH, LOGOUT_PATH

FLOW = "fhirserver_flow"
FLOW_LIFETIME = timedelta(minutes=15)
GRANT_LIFETIME = timedelta(days=365)
WORDS = {
    "openid": "Know who you are",
    "profile": "See your name",
    "email": "See your e-mail address",
    "fhirUser": "Know which user of the exchange you are",
    "offline_access": "Go on when you have signed out",
    "online_access": "Go on while you are signed in",
    "launch/patient": "Know which patient you choose",
}


class SignIn:
    """The authorization endpoint and the pages behind it."""

    def __init__(self, of: Tokens) -> None:
        assert of.kept is not None
        self.tokens = of
        self.kept: Kept = of.kept
        self.sessions = Sessions(of)

    def add_to(self, blueprint: Blueprint) -> None:
        """Adds the routes."""
        for path, view, methods in (
            (AUTHORIZE_PATH, self.authorize, ["GET", "POST"]),
            ("/oauth2/sign-in", self.sign_in, ["POST"]),
            ("/oauth2/patient", self.choose, ["POST"]),
            ("/oauth2/consent", self.consent, ["GET", "POST"]),
            (LOGOUT_PATH, self.logout, ["GET", "POST"]),
        ):
            blueprint.add_url_rule(path, path.rpartition("/")[2], self._guarded(view), methods=methods)

    def authorize(self) -> HttpResponse:
        """The authorization endpoint: keeps the request for this browser and asks the user to sign in or to consent."""
        given = http.form if http.method == "POST" else http.args
        parameters = {name: given.get(name, "") for name in PARAMETERS}
        client = client_of(self.tokens, parameters, given.getlist)
        try:
            request = asked(self.tokens, parameters, client)
            if any(len(given.getlist(name)) > 1 for name in PARAMETERS):
                raise Refused("invalid_request", "A parameter is given more than once.")
        except Refused as refusal:
            return self._back(parameters, error=refusal.error, error_description=refusal.description)
        flow = secrets.token_urlsafe(32)
        self._keep(flow, request.parameters)
        answer = self._next(request, flow)
        self._cookie(answer, FLOW, flow, FLOW_LIFETIME)
        return answer

    def sign_in(self) -> HttpResponse:
        """Takes e-mail address and password. The same answer, after the same time, for a wrong one of either."""
        request, flow = self._flow()
        email, password = http.form.get("email", ""), http.form.get("password", "")
        signed_in = self.sessions.sign_in(email, password, http.remote_addr or "")
        if signed_in is None:
            return self._sign_in_page(request, flow, "The e-mail address or the password is wrong.")
        done = prompts(request.parameters) - {"login", "select_account"}
        self._keep(flow, {**request.parameters, "prompt": " ".join(done), "max_age": ""})
        answer = HttpResponse(status=303, headers={"Location": "/oauth2/consent"})
        self.sessions.remember(answer, signed_in.cookie)
        return answer

    def choose(self) -> HttpResponse:
        """Takes the patient the user chose: one that this user may see."""
        request, flow = self._flow()
        user = self._signed_in().user
        chosen = http.form.get("patient", "")
        if chosen not in dict(self._patients(user, request.organization, chosen)):
            return self._patient_page(request, flow, user, "", "Choose one of these patients.")
        self._keep(flow, {**request.parameters, "patient": chosen})
        return HttpResponse(status=303, headers={"Location": "/oauth2/consent"})

    def consent(self) -> HttpResponse:
        """Shows what is asked for, or takes the decision and leads back to the application with a code."""
        request, flow = self._flow(checked=http.method == "POST")
        if http.method == "GET":
            return self._next(request, flow, http.args.get("find", ""))
        signed_in = self._signed_in()
        self.kept.drop(f"flow/{digest(flow)}")
        if http.form.get("decision") != "allow":
            return self._back(request.parameters, error="access_denied", error_description="The user said no.")
        chosen = [word for word in request.scope.split() if word in http.form.getlist("scope")]
        if not chosen:
            return self._back(request.parameters, error="access_denied", error_description="The user allowed nothing.")
        self._remember(request, signed_in.user, " ".join(chosen))
        return self._code(request, signed_in, " ".join(chosen))

    def logout(self) -> HttpResponse:
        """Ends the sign-in session once the user confirms; leads back only where the application named has
        registered.
        """
        to, signed_in = self._registered(), self.sessions.of(http.cookies)
        if signed_in and http.method == "GET":
            given = {name: http.values.get(name, "") for name in ("client_id", "id_token_hint", "state")}
            values = {"csrf": csrf(signed_in.cookie), "to": to, "given": given}
            return page("sign-out", "Sign out?", leads_to=_origin(to), values=values)
        if signed_in:
            if not ours(http.form.get("csrf", ""), signed_in.cookie):
                raise Fault("This page is out of date.")
            self.sessions.end(signed_in.cookie)
        answer = led_to(to, http.values.get("state", "")) if to else page("signed-out", "You are signed out")
        self.sessions.remember(answer, "")
        return answer

    def _registered(self) -> str:
        """Where to lead after signing out: a redirect URI of the client named, else nowhere."""
        to = http.values.get("post_logout_redirect_uri", "")
        hint = tokens.hinted(by_kid(self.tokens.keys()), http.values.get("id_token_hint", ""), self.tokens.issuer)
        named, meant = http.values.get("client_id", ""), str(hint.get("aud", ""))
        found = self.tokens.client(named or meant) if to and (not named or not meant or named == meant) else None
        return to if found and to in found[0].get("redirectUri", ()) else ""

    # Which request, by whom

    def _keep(self, flow: str, parameters: Mapping[str, str]) -> None:
        key = f"flow/{digest(flow)}"
        self.kept.drop(key)
        self.kept.put(key, parameters, self._now() + FLOW_LIFETIME)

    def _flow(self, checked: bool = True) -> tuple[Asked, str]:
        """The request this browser is in the middle of. Raises Fault where there is none, or the form is not ours."""
        flow = http.cookies.get(FLOW, "")
        parameters = self.kept.get(f"flow/{digest(flow)}", self._now()) if flow else None
        if parameters is None:
            raise Fault("This sign-in has expired, or it was begun in another browser.")
        if checked and not ours(http.form.get("csrf", ""), flow):
            raise Fault("This page is out of date.")
        client = client_of(self.tokens, parameters, lambda name: [])
        try:
            return asked(self.tokens, parameters, client), flow
        except Refused as refusal:
            raise Fault(refusal.description) from None

    # Who decides, and on what

    def _signed_in(self) -> SignedIn:
        found = self.sessions.of(http.cookies)
        if found is None:
            raise Fault("You are not signed in any more.")
        return found

    def _next(self, request: Asked, flow: str, find: str = "") -> HttpResponse:
        """The page that is next: sign in, choose a patient, consent; or the code where the user consented before."""
        wanted = prompts(request.parameters)
        silent, signed_in = "none" in wanted, self.sessions.of(http.cookies)
        if signed_in is None or {"login", "select_account"} & wanted or self._too_long_ago(request, signed_in):
            return self._silence(request, "login_required") if silent else self._sign_in_page(request, flow)
        user = signed_in.user
        if request.organization != "registry" and _whose(request) not in person(user)["roles"]:
            text = "The user has no role in this organization."
            return self._back(request.parameters, error="access_denied", error_description=text)
        if request.about_patient and not request.parameters.get("patient"):
            if silent:
                return self._silence(request, "interaction_required")
            return self._patient_page(request, flow, user, find)
        if "consent" not in wanted and self._consented(request, user):
            self.kept.drop(f"flow/{digest(flow)}")
            return self._code(request, signed_in, request.scope)
        return self._silence(request, "consent_required") if silent else self._consent_page(request, flow, user)

    def _too_long_ago(self, request: Asked, signed_in: SignedIn) -> bool:
        age = request.parameters.get("max_age", "")
        return bool(age) and self._now().timestamp() - signed_in.since > int(age)

    def _silence(self, request: Asked, error: str) -> HttpResponse:
        return self._back(request.parameters, error=error, error_description="The user would have to be asked.")

    def _consented(self, request: Asked, user: Resource) -> bool:
        """Whether the user allowed all of this before."""
        before, types = self.kept.get(self._grant_key(request, user), self._now()), self.tokens.types()
        if before is None or before.get("since") not in (None, _since(request, user)):
            return False
        return scopes.cached(before["scope"], types).covers(scopes.cached(request.scope, types))

    def _sign_in_page(self, request: Asked, flow: str, fault: str = "") -> HttpResponse:
        values = {"fault": fault, "csrf": csrf(flow), **self._names(request)}
        return page("sign-in", "Sign in", status=401 if fault else 200, values=values)

    def _patient_page(self, request: Asked, flow: str, user: Resource, find: str, fault: str = "") -> HttpResponse:
        found = self._patients(user, request.organization, find)
        values = {"fault": fault, "csrf": csrf(flow), "find": find, "patients": found, **self._names(request)}
        return page("patient", "Choose a patient", values=values)

    def _consent_page(self, request: Asked, flow: str, user: Resource) -> HttpResponse:
        types = self.tokens.types()
        words = request.scope.split()
        known = self.tokens.organization(request.organization) if self.tokens.organization else None
        values = {
            "csrf": csrf(flow),
            "scopes": [(word, _in_words(word, types)) for word in words],
            "user": user.get("name") or user["email"],
            "organization": (known or {}).get("name", "the registry"),
            "patient": request.parameters.get("patient", ""),
            **self._names(request),
        }
        leads_to = _origin(request.parameters["redirect_uri"])
        return page("consent", "Allow access?", leads_to=leads_to, values=values)

    def _names(self, request: Asked) -> dict[str, str]:
        owner = target(request.client.get("managingOrganization"), "Organization")
        known = self.tokens.organization(owner) if self.tokens.organization and owner else None
        return {"client": str(request.client["name"]), "publisher": str((known or {}).get("name", ""))}

    def _patients(self, user: Resource, organization: str, find: str) -> list[tuple[str, str]]:
        if self.tokens.patients is None or not find:
            return []
        principal = Principal("user", user["id"], **person(user))
        return list(self.tokens.patients(principal, organization, find[:200]))

    # What comes of it

    def _grant_key(self, request: Asked, user: Resource) -> str:
        return f"grant/{user['id']}/{request.client['id']}/{request.organization}"

    def _remember(self, request: Asked, user: Resource, scope: str) -> None:
        key = self._grant_key(request, user)
        self.kept.drop(key)
        value = {"client": request.client["id"], "organization": request.organization, "scope": scope}
        value |= {"granted": instant_text(self._now()), "since": _since(request, user)}
        groups = (grants_of(user["id"]), of_client(request.client["id"]))
        self.kept.put(key, value, self._now() + GRANT_LIFETIME, *groups)

    def _code(self, request: Asked, signed_in: SignedIn, scope: str) -> HttpResponse:
        consent = Consent(
            client=request.client["id"],
            user=signed_in.user["id"],
            scope=scope,
            audience=request.parameters["aud"].rstrip("/"),
            patient=request.parameters.get("patient", "") if about_patient(scope) else "",
            redirect_uri=request.parameters["redirect_uri"],
            challenge=request.parameters["code_challenge"],
            nonce=request.parameters["nonce"],
            signed_in=signed_in.since,
            session=digest(signed_in.cookie),
            client_since=str(request.client.get("registered", "")),
            user_since=str(signed_in.user.get("registered", "")),
        )
        return self._back(request.parameters, code=codes.new_code(self.kept, consent, self._now()))

    def _back(self, parameters: Mapping[str, str], **answer: str) -> HttpResponse:
        """Leads back to the application, with its state and our name (RFC 9207)."""
        state = {"state": parameters["state"]} if parameters["state"] else {}
        uri = parameters["redirect_uri"]
        text = urlencode({**answer, **state, "iss": self.tokens.issuer})
        response = HttpResponse(status=303, headers={"Location": f"{uri}{'&' if '?' in uri else '?'}{text}"})
        self._cookie(response, FLOW, "", timedelta(0))
        return response

    def _cookie(self, answer: HttpResponse, name: str, value: str, lifetime: timedelta) -> None:
        secure = self.tokens.issuer.startswith("https")
        set_cookie(answer, name, value, lifetime, path="/oauth2", secure=secure)

    def _now(self) -> datetime:
        return self.tokens.now()

    def _guarded(self, view: Callable[[], HttpResponse]) -> Callable[[], HttpResponse]:
        """The view with its faults as pages."""

        def show() -> HttpResponse:
            try:
                return view()
            except Fault as fault:
                return page("fault", "This did not work", status=400, values={"fault": str(fault)})
            except Problem as refusal:
                answer = page(
                    "fault",
                    "This did not work",
                    status=refusal.status,
                    values={"fault": refusal.issues[0].diagnostics},
                )
                answer.headers.update(refusal.headers)
                return answer

        return show


def _whose(request: Asked) -> str:
    """The organization whose people may sign in here: of a client's own sandbox, the one that owns the client."""
    if request.organization == sandbox_of(request.client["id"]):
        return target(request.client.get("managingOrganization"), "Organization")
    return request.organization


def _since(request: Asked, user: Resource) -> list[str]:
    """Since when there have been this client and this user: others may have had their ids before."""
    return [str(each.get("registered", "")) for each in (request.client, user)]


def _in_words(word: str, types: frozenset[str]) -> str:
    """One word of a scope as the page says it."""
    of = " of the chosen patient" if word.startswith("patient/") else ""
    return WORDS.get(word) or scopes.sentence(scopes.cached(word, types)) + of


def led_to(uri: str, state: str) -> HttpResponse:
    """The way to a redirect URI after signing out, with the application's state."""
    query = f"{'&' if '?' in uri else '?'}{urlencode({'state': state})}" if state else ""
    return HttpResponse(status=303, headers={"Location": uri + query})


def _origin(uri: str) -> str:
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc}" if parts.netloc else f"{parts.scheme}:" if parts.scheme else ""
