"""Every screen of every area, held to the same rules: whoever is not signed in, has the wrong role or is of another
organization does not get in; no form counts without its token; every answer forbids foreign scripts, frames and caches;
and what anybody typed anywhere is shown as text.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import unescape
from typing import Any

import pytest
from werkzeug.exceptions import HTTPException
from werkzeug.test import TestResponse

from fhirserver import app
from fhirserver.auth.principal import Principal
from fhirserver.bulk.work import work
from fhirserver.fhir.instants import instant_text
from fhirserver.hl7v2.senders import endpoint_resource
from fhirserver.rules.organization import kind_concept
from fhirserver.subscriptions import delivery
from fhirserver.web.console.blueprint import SCREENS
from fhirserver.web.console.screen import Screen
from tests.api.browser import Visitor
from tests.api.exchange import PASSWORD, REGISTRY, Exchange, exchange_of
from tests.api.hospital import Hospital
from tests.api.relaying import record_events

HOSTILE = "<img src=x onerror=alert(1)>"
INSIDE = [screen for screen in SCREENS.values() if screen.audience != "anybody"]
POSTED = [screen for screen in SCREENS.values() if "POST" in screen.methods]
PEOPLE = {"application": "acme", "hospital": "hospital", "operator": "olga", "user": "acme"}
"""Audience -> who may see its screens."""
RIVALS = {"application": "rival", "hospital": "lakeside"}
"""Audience -> an administrator of another organization of the same kind."""
OF_AN_ORGANIZATION = [screen for screen in INSIDE if screen.audience in RIVALS]
MOST_OF_A_SCREEN, MOST_PAGES = 12, 600
NOT_CRAWLED = {
    "common.gate": "leads on",
    "operator.types": "the same page as operator.all, of a base that nobody links to",
    "operator.own-remove": "a form alone",
    "operator.remove": "a form alone",
}
LINKS = re.compile(r'\b(?:href|hx-get)="(/console/[^"]*)"')


@dataclass
class World:
    """The exchange with somebody signed in as each, and things of each kind with hostile texts in them."""

    exchange: Exchange
    visitors: dict[str, Visitor] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    """Organization id by the name of its administrator."""

    def visitor(self, who: str) -> Visitor:
        if who not in self.visitors:
            made = Visitor(self.exchange)
            if who:
                assert made.sign_in(who).status_code == 303
            self.visitors[who] = made
        return self.visitors[who]

    def address(self, screen: Screen, audience: str = "") -> str:
        """Where a screen is, of the organization of that audience; its parts stand for nothing that is there."""
        place = self.places.get(PEOPLE[audience or screen.audience], "") if screen.audience in RIVALS else ""
        parts = dict.fromkeys(re.findall(r"<(\w+)>", screen.rule), "nothing")
        return screen.address(place, **{name: value for name, value in parts.items() if name != "organization"})


@pytest.fixture(scope="module")
def world(mongo_url: str) -> Iterator[World]:
    with exchange_of(mongo_url, "api-console-security") as exchange:
        made = World(exchange, places={"acme": exchange.acme, "hospital": exchange.hospital})
        for kind, who in (("application", "rival"), ("provider", "lakeside")):
            body = {"resourceType": "Organization", "name": f"{who.title()} {HOSTILE}", "type": [kind_concept(kind)]}
            made.places[who] = _written(exchange, "POST", f"{REGISTRY}/Organization", exchange.operator(), body)["id"]
            _person(exchange, who, f"Organization/{made.places[who]}")
        _person(exchange, "olga", "")
        _filled(exchange, made)
        yield made


def _written(exchange: Exchange, method: str, path: str, token: str, body: Any) -> dict[str, Any]:
    answer = exchange.call(method, path, token, body)
    assert answer.status_code < 300, answer.text
    found: dict[str, Any] = answer.json  # type: ignore[assignment]
    return found


def _person(exchange: Exchange, who: str, organization: str) -> None:
    email, name = f"{who}@example.org", f"{who} {HOSTILE}"
    user: dict[str, Any] = {"resourceType": "User", "email": email, "name": name, "password": PASSWORD}
    user |= {"role": "admin", "organization": {"reference": organization}} if organization else {"role": "operator"}
    id = _written(exchange, "POST", f"{REGISTRY}/User", exchange.operator(), user)["id"]
    exchange.people[who] = exchange.installation.tokens.issue(Principal("user", id))


def _filled(exchange: Exchange, world: World) -> None:
    """A hostile text in every field that one person fills in and another reads."""
    hospital = Hospital(exchange)
    hospital.api("POST", "Endpoint", endpoint_resource(exchange.hospital, "ADT1", "LAKESIDE", False), base=REGISTRY)
    client, authorization = hospital.asked(name=f"Ward {HOSTILE}", description=f"Beds {HOSTILE}")
    assert exchange.step(authorization, "approve", note=f"Agreed {HOSTILE}").status_code == 200
    hospital.asked(name=f"Waits {HOSTILE}")
    _notified(exchange, hospital, client)
    _exported(exchange, hospital)
    overlay = json.loads(
        unescape(re.search(r"<textarea[^>]*>(.*?)</textarea>", hospital.get("/mapping/new?view=json"), re.S)[1])
    )  # type: ignore[index]
    hospital.post("/mapping/new", overlay=json.dumps(overlay | {"title": f"Overlay {HOSTILE}"}), action="draft")
    hospital.taken("X1", number="1")
    hospital.taken(f"X2{HOSTILE}", number="2", marital=HOSTILE)
    hospital.api("POST", "Patient", {"resourceType": "Patient", "name": [{"family": HOSTILE}], "gender": "male"})
    parameter = {
        "resourceType": "SearchParameter", "url": "https://x.example/n", "name": "N", "status": "active",
        "description": HOSTILE, "code": "n", "base": ["Patient"], "type": "string", "expression": "Patient.name",
    }  # fmt: skip
    _written(exchange, "POST", f"{REGISTRY}/SearchParameter", exchange.people["olga"], parameter)
    policy = {"resourceType": "AccessPolicy", "name": f"Policy {HOSTILE}", "description": HOSTILE, "engine": "allow"}
    _written(exchange, "POST", f"{REGISTRY}/AccessPolicy", exchange.people["olga"], policy)
    token = exchange.token(client).json["access_token"]  # type: ignore[index]
    for path in ("Patient", "Observation", "Condition", f"Patient?family={HOSTILE}"):
        exchange.call("GET", f"{exchange.base}/{path}", token)
    _recorded(exchange)


def _notified(exchange: Exchange, hospital: Hospital, client: dict[str, Any]) -> None:
    """An active subscription and a notification that nobody took, as the relay and a worker leave them."""
    id, server = hospital.subscribed(client), exchange.installation.server
    hospital.api("POST", f"Subscription/{id}/$approve", {"resourceType": "Parameters"})
    now = server.now()
    written = {"type": "Patient", "id": "1", "version": 1, "action": "create"}
    event = {"id": "1", "t": now, "changes": [written]}
    made = delivery.new(id, client["id"], 1, event, ["Patient/1"], code=f"create.patient{HOSTILE}", lane="Patient/1")
    made |= {"queued": instant_text(now), "nextAttempt": instant_text(now), "why": HOSTILE}
    attempt = {"time": instant_text(now), "endpoint": "https://1.1.1.1/x", "status": 500, "answer": f"Gone {HOSTILE}"}
    made = delivery.finished(delivery.attempted(made, attempt), "dead-letter", f"It said {HOSTILE}")
    server.store.commit([delivery.change(server, exchange.hospital, made, None, now)])


def _exported(exchange: Exchange, hospital: Hospital) -> None:
    """An export of a group that failed, with the name of its client in the reason."""
    group = {"resourceType": "Group", "id": "g", "type": "person", "actual": True, "name": f"Group {HOSTILE}"}
    hospital.api("PUT", "Group/g", group)
    client, authorization = hospital.asked(name=f"Copies {HOSTILE}", scope="system/Patient.rs system/Group.rs")
    assert exchange.step(authorization, "approve").status_code == 200
    headers = {"Authorization": f"Bearer {exchange.token(client).json['access_token']}", "Prefer": "respond-async"}  # type: ignore[index]
    begun = exchange.http.get(
        f"{exchange.base}/Group/g/$export",
        query_string={"_typeFilter": f"Patient?name={HOSTILE}"},
        headers=headers,
    )
    assert begun.status_code == 202, begun.text
    assert exchange.step(authorization, "disable").status_code == 200
    work(exchange.installation.server, exchange.hospital, begun.headers["Content-Location"].rpartition("/")[2])


def _recorded(exchange: Exchange) -> None:
    """Does what the relay does with audit records."""
    server = exchange.installation.server
    record_events(server, exchange.installation.settings.data / app.SPOOL)


# Each screen of the tables


def holds(answer: TestResponse) -> None:
    """What every answer carries."""
    policy = answer.headers["Content-Security-Policy"]
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("screen", INSIDE, ids=lambda screen: screen.name)
def test_whoever_is_not_signed_in_is_led_to_the_sign_in_page(world: World, screen: Screen) -> None:
    nobody = world.visitor("")
    for answer in (nobody.get(world.address(screen)), nobody.post(world.address(screen), {"do": "anything"})):
        assert answer.status_code == 303
        assert answer.headers["Location"].startswith("/console/sign-in")
        assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("screen", INSIDE, ids=lambda screen: screen.name)
def test_every_answer_forbids_foreign_scripts_frames_and_caches(world: World, screen: Screen) -> None:
    answer = world.visitor(PEOPLE[screen.audience]).get(world.address(screen))

    assert answer.status_code in (200, 303, 404, 405, 400)
    if answer.status_code != 303:
        holds(answer)
    if "GET" not in screen.methods:
        assert answer.status_code == 405


@pytest.mark.parametrize("screen", INSIDE, ids=lambda screen: screen.name)
def test_a_screen_is_for_its_audience_alone(world: World, screen: Screen) -> None:
    others = {"application": ("hospital", "olga"), "hospital": ("acme", "olga"), "operator": ("acme", "hospital")}
    expected = 403 if screen.audience == "operator" else 404
    for who in others.get(screen.audience, ()):
        visitor = world.visitor(who)
        assert visitor.get(world.address(screen)).status_code in (expected, 405 if "GET" not in screen.methods else 0)
        form = {"csrf": visitor.token(), "confirmed": "DELETE"}
        assert visitor.post(world.address(screen), form).status_code in (expected, 405)


@pytest.mark.parametrize("screen", OF_AN_ORGANIZATION, ids=lambda screen: screen.name)
def test_another_organization_of_the_same_kind_does_not_get_in(world: World, screen: Screen) -> None:
    visitor = world.visitor(RIVALS[screen.audience])
    form = {"csrf": visitor.token(), "confirmed": "DELETE"}

    assert visitor.get(world.address(screen)).status_code in (404, 405 if "GET" not in screen.methods else 0)
    assert visitor.post(world.address(screen), form).status_code in (404, 405)


@pytest.mark.parametrize("given", ["", "0" * 64, "another's", "foreign"])
@pytest.mark.parametrize("screen", POSTED, ids=lambda screen: screen.name)
def test_a_form_counts_only_with_its_token_from_a_page_of_ours(world: World, screen: Screen, given: str) -> None:
    who = PEOPLE.get(screen.audience, "acme")
    visitor = world.visitor(who)
    other = world.visitor("hospital" if who != "hospital" else "acme")
    token = {"another's": other.token(), "foreign": visitor.token()}.get(given, given)
    headers = {"Sec-Fetch-Site": "cross-site"} if given == "foreign" else {}
    answer = visitor.post(
        world.address(screen) if screen.audience in PEOPLE else screen.rule, {"csrf": token}, **headers
    )

    assert answer.status_code == 403
    assert "This page is out of date" in answer.text


# What a person can get to, from page to page


@dataclass
class Walk:
    """Every page that somebody got to by links, and what was seen on the way."""

    pages: dict[str, TestResponse] = field(default_factory=dict)
    screens: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))


def walked(world: World, who: str, start: str) -> Walk:
    """Follows the links from a page, some of each screen."""
    urls = world.exchange.http.application.url_map.bind("exchange.example")
    visitor, walk, left, asked = world.visitor(who), Walk(), [start], Counter[str]()
    while left and len(walk.pages) < MOST_PAGES:
        address = left.pop(0)
        try:
            name = urls.match(address.partition("?")[0], "GET")[0].removeprefix("console.").replace("-", ".", 1)
        except HTTPException:
            name = "none"
        if address in walk.pages or asked[name] >= MOST_OF_A_SCREEN or name in ("static", "common.sign-out"):
            continue
        asked[name] += 1
        answer = walk.pages[address] = visitor.get(address)
        walk.screens[name].append(address)
        left += [unescape(link) for link in LINKS.findall(answer.text)]
    return walk


@pytest.fixture(scope="module")
def walks(world: World) -> dict[str, Walk]:
    """By audience."""
    starts = {
        each: SCREENS[f"{each}.home"].address(world.places.get(PEOPLE[each], ""))
        for each in ("application", "hospital", "operator")
    }
    return {audience: walked(world, PEOPLE[audience], start) for audience, start in starts.items()}


@pytest.mark.parametrize("audience", ["application", "hospital", "operator"])
def test_links_lead_to_pages_that_open_and_show_as_text_what_anybody_typed(
    walks: dict[str, Walk], audience: str
) -> None:
    shown = 0
    for address, answer in walks[audience].pages.items():
        assert answer.status_code in (200, 303), (address, answer.status_code, answer.text[-800:])
        if answer.status_code == 200:
            holds(answer)
        assert HOSTILE not in answer.text, address
        assert "<img src=x" not in unescape(unescape(answer.text)).replace(HOSTILE, ""), address
        shown += "&lt;img src=x onerror=alert(1)&gt;" in answer.text
    assert shown >= 8


def test_every_screen_can_be_got_to_by_links(walks: dict[str, Walk]) -> None:
    seen = {name for walk in walks.values() for name in walk.screens}
    wanted = {screen.name for screen in INSIDE if "GET" in screen.methods} - set(NOT_CRAWLED)

    assert sorted(wanted - seen) == []


@pytest.mark.parametrize("audience", ["application", "hospital"])
def test_the_things_of_another_organization_are_not_under_ones_own_address(
    world: World, walks: dict[str, Walk], audience: str
) -> None:
    mine, theirs = world.places[PEOPLE[audience]], world.places[RIVALS[audience]]
    visitor, tried = world.visitor(RIVALS[audience]), 0
    for name, addresses in walks[audience].screens.items():
        if name not in SCREENS or "<" not in SCREENS[name].path:
            continue
        for address in addresses[:3]:
            answer = visitor.get(address.replace(f"/{mine}", f"/{theirs}", 1))
            tried += 1
            assert answer.status_code in (200, 303, 403, 404, 400), (address, answer.status_code)
            for secret in ("Ward &lt;img", "Beds &lt;img", "LAKESIDE^MR", "To show results"):
                assert secret not in answer.text, (address, secret)
    assert tried > 5
