"""What the function of a screen is given: who looks, at which organization, and the ways to ask, to show and to go on.

Everything goes through `interactions.dispatch` as the user who is signed in: no rule lives in the console.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import tzinfo
from typing import Any

from flask import Response as HttpResponse
from flask import request as http

from fhirserver.auth.access import REGISTRY
from fhirserver.auth.principal import Principal
from fhirserver.fhir import Resource
from fhirserver.fhir.parameters import parameters_of
from fhirserver.fhir.problem import Issue, Problem, problem
from fhirserver.interactions.dispatch import admitted, dispatch
from fhirserver.interactions.model import Pairs, Preconditions, Request, Response, Server
from fhirserver.interactions.table import BY_CODE
from fhirserver.web.console import cookies
from fhirserver.web.console.listing import SIZE, Filter, Listing, asked_of, listing_of, search_of
from fhirserver.web.console.pages import Pages
from fhirserver.web.console.texts import Catalogue
from fhirserver.web.sessions import Sessions, csrf
from fhirserver.web.tokens import Tokens

CHANGED_MEANWHILE = 412
"""The status of a write that names an older version."""
_VALUES = ((bool, "valueBoolean"), (int, "valueInteger"), (str, "valueString"))


@dataclass(frozen=True, slots=True)
class Place:
    """An organization that a user has a role in: `audience` is application or hospital, `role` admin or member."""

    id: str
    name: str
    audience: str
    role: str


@dataclass(frozen=True, slots=True)
class Crumb:
    """A step of the way to a screen: its title and address, and whether it is in the navigation."""

    title: str
    address: str


@dataclass(slots=True)
class Here:
    """One request to a screen. `values` are the parts of its path."""

    server: Server
    tokens: Tokens
    sessions: Sessions
    pages: Pages
    texts: Catalogue
    address: Callable[..., str]
    request_id: str
    cookie: str = ""
    """That of the session; where nobody is signed in, that of the form."""
    user: Resource | None = None
    principal: Principal = field(default_factory=lambda: Principal("anonymous"))
    places: Sequence[Place] = ()
    place: Place | None = None
    audience: str = "anybody"
    name: str = ""
    values: Mapping[str, str] = field(default_factory=dict)
    trail: Sequence[Crumb] = ()
    menu: Sequence[Crumb] = ()
    told: tuple[str, str] | None = None
    """What the page before had this one say: tone and text."""
    refused: Problem | None = None
    """Why what the form asked for was not done; the page says it."""

    # What was asked

    @property
    def form(self) -> Mapping[str, str]:
        """The fields of the form that was sent; those of a name that may occur often by `form_list`."""
        return http.form

    def form_list(self, name: str) -> list[str]:
        """All values of a field of the form."""
        return http.form.getlist(name)

    def form_pairs(self) -> list[tuple[str, str]]:
        """Every field of the form with each of its values."""
        return list(http.form.items(multi=True))

    def form_file(self, name: str) -> bytes:
        """The bytes of a file that was sent with the form, empty where none was chosen."""
        sent = http.files.get(name)
        return sent.read() if sent else b""

    @property
    def most_megabytes(self) -> int:
        """How much a form may bring."""
        return max(1, (http.max_content_length or 0) >> 20)

    @property
    def asked(self) -> Mapping[str, str]:
        """The query of the address."""
        return http.args

    @property
    def posted(self) -> bool:
        """Whether a form was sent."""
        return http.method == "POST"

    @property
    def part(self) -> str:
        """The block of the page that htmx asks for, "" for the whole page."""
        partial = http.headers.get("HX-Request") == "true" and http.headers.get("HX-Boosted") != "true"
        return http.headers.get("HX-Target", "") if partial else ""

    @property
    def organization(self) -> str:
        """The id of the organization whose screen this is, "" where it is no organization's."""
        return self.place.id if self.place else ""

    @property
    def secure(self) -> bool:
        """Whether the installation is reached by https."""
        return self.tokens.issuer.startswith("https")

    @property
    def theme(self) -> str:
        """The colours that this browser's user chose: light or dark, "" for those of the system."""
        return cookies.theme(http.cookies)

    @property
    def zone(self) -> tzinfo:
        """The viewer's time zone, as far as a page has told it."""
        return cookies.zone(http.cookies)

    @property
    def back(self) -> str:
        """The address of this page, to come back to; "" where it is the answer to a form."""
        return http.full_path.rstrip("?") if http.method == "GET" else ""

    @property
    def path(self) -> str:
        """The path of this page's address."""
        return http.path

    @property
    def csrf(self) -> str:
        """What every form carries in its field `csrf`."""
        return csrf(self.cookie)

    # What the server is asked

    def ask(
        self,
        interaction: str,
        type: str | None = None,
        id: str | None = None,
        *,
        base: str = REGISTRY,
        query: Pairs = (),
        body: Any = None,
        vid: str | None = None,
        operation: str | None = None,
        method: str = "",
        if_match: str | None = None,
        explain: bool = False,
    ) -> Response:
        """Performs an interaction of the table as the user who is signed in, audited like any other.

        `base` is the registry or an organization's id. Raises Problem for everything that the user must hear about.
        """
        request = Request(
            interaction,
            base,
            self.server.base(base),
            self.principal,
            type=type,
            id=id,
            vid=vid,
            operation=operation,
            query=query,
            body=body,
            explain=explain,
            preconditions=Preconditions(if_match=if_match),
            facts={
                "request": self.request_id,
                "method": method or BY_CODE[interaction].method,
                "path": "/".join(part for part in (type, id, operation) if part),
                "address": http.remote_addr or "",
            },
        )
        return dispatch(self.server, request)

    def read(self, type: str, id: str, *, base: str = REGISTRY) -> Resource:
        """A resource. Raises Problem: not-found, deleted, forbidden."""
        return self.ask("read", type, id, base=base).content() or {}

    def search(self, type: str, *query: tuple[str, str], base: str = REGISTRY) -> Resource:
        """The searchset Bundle of a search."""
        return self.ask("search-type", type, base=base, query=query).content() or {}

    def found(self, type: str, *query: tuple[str, str], base: str = REGISTRY) -> list[Resource]:
        """The resources that match, those of the first page."""
        bundle = self.search(type, *query, base=base)
        return [entry["resource"] for entry in bundle.get("entry", ()) if entry["search"]["mode"] == "match"]

    def count(self, type: str, *query: tuple[str, str], base: str = REGISTRY) -> int | None:
        """How many match, None where there are too many to count."""
        total = self.search(type, *query, ("_summary", "count"), base=base).get("total")
        return None if total is None else int(total)

    def list(
        self,
        type: str,
        *query: tuple[str, str],
        base: str = REGISTRY,
        find: str = "",
        filters: Sequence[Filter] = (),
        size: int = SIZE,
    ) -> Listing:
        """A page of a list for `ui.list`: what always holds in `query` (also _sort, _include), what the address says
        beside it. `find` is the search parameter of the search box, as in `name:contains`; none: no box.
        """
        text, chosen, cursor = asked_of(self.asked, find, filters)
        pairs = (*query, ("_count", str(size)), *search_of(text, chosen, cursor, find, filters, self.zone))
        bundle = self.search(type, *pairs, base=base)
        return listing_of(bundle, http.path, find=text, chosen=chosen, searchable=bool(find), filters=filters)

    def operate(
        self,
        type: str | None,
        id: str | None,
        name: str,
        /,
        *,
        base: str = REGISTRY,
        method: str = "POST",
        **given: Any,
    ) -> Resource:
        """Performs an operation (`name` without $) and answers what it returns. `given` are its parameters: texts,
        numbers, truth values, References, resources, lists of them; None and "" are left out. A name's `_` is `-`.
        """
        parts = [
            part
            for key, value in given.items()
            for each in (value if isinstance(value, list) else [value])
            if (part := _parameter(key.replace("_", "-"), each))
        ]
        body = parameters_of(parts)
        answer = self.ask("operation", type, id, operation=f"${name}", base=base, body=body, method=method)
        return answer.content() or {}

    def may(self, interaction: str, type: str, *, base: str = REGISTRY) -> bool:
        """Whether the user may do this at all: for leaving out a button. What counts is what the server says then."""
        try:
            admitted(self.server, Request(interaction, base, self.server.base(base), self.principal, type=type))
        except Problem:
            return False
        return True

    # What the user is shown

    def t(self, key: str, **values: Any) -> str:
        """A text of the catalogue."""
        return self.texts.text(key, **values)

    def url(self, name: str, **values: Any) -> str:
        """The address of a screen. The organization is this one unless another is given."""
        return self.address(name, self.organization, **values)

    def page(self, template: str, *, title: str = "", status: int = 200, **values: Any) -> HttpResponse:
        """The screen's page, or the block of it that htmx asked for. `title` where it is not the screen's own."""
        status = self.refused.status if self.refused and status == 200 else status
        title = title or (self.trail[-1].title if self.trail else "")
        answer = self.pages.render(template, self.part, status=status, here=self, title=title, **values)
        if self.told and not self.part:
            cookies.hush(answer, self.secure)
        return answer

    def go(self, to: str, said: str = "", *, tone: str = "good", **values: Any) -> HttpResponse:
        """Leads on to an address of the console; `said` is the key of a text that the next page says, never a
        secret.
        """
        answer = HttpResponse(status=303, headers={"Location": to, "Cache-Control": "no-store"})
        if said:
            cookies.say(answer, self.cookie, tone, self.t(said, **values), self.secure)
        return answer

    @contextmanager
    def trying(self) -> Iterator[None]:
        """What the user asked for, inside `with here.trying():`. If it is refused, `refused` is why, and the page says
        so; ask `if not here.refused` behind it.
        """
        try:
            yield
        except Problem as refusal:
            if refusal.status in (401, 404) or refusal.status >= 500:
                raise
            self.refused = self._in_words(refusal)

    def _in_words(self, refusal: Problem) -> Problem:
        """What a person can do about it, where the API speaks of its own headers."""
        if refusal.status != CHANGED_MEANWHILE:
            return refusal
        return Problem((Issue("conflict", self.t("common.error.conflict")),), status=refusal.status)

    @property
    def outrun(self) -> bool:
        """Whether somebody else changed what this form is about while it was open."""
        return self.refused is not None and self.refused.status == CHANGED_MEANWHILE

    def require_word(self, word: str, field: str = "confirmed") -> None:
        """Raises Problem(required) unless the user typed this word, to confirm what cannot be undone."""
        if self.form.get(field, "").strip() != word:
            raise problem("required", self.t("common.confirm.wrong", word=word), field)

    def fault(self, *names: str) -> str:
        """What is wrong with a field: the issues whose expression is, or ends in, one of these names, or is about the
        operation's parameter of that name.
        """
        issues = self.refused.issues if self.refused else ()
        said = [issue.diagnostics for issue in issues if any(_about(each, names) for each in issue.expression)]
        return " ".join(said)


def _about(expression: str, names: Sequence[str]) -> bool:
    return any(expression == name or expression.endswith((f".{name}", f"(name='{name}')")) for name in names)


def _parameter(name: str, value: Any) -> dict[str, Any] | None:
    if value is None or value == "":
        return None
    if isinstance(value, Mapping):
        return {"name": name, "resource" if "resourceType" in value else "valueReference": value}
    kind = next(key for type_, key in _VALUES if isinstance(value, type_))
    return {"name": name, kind: value}
