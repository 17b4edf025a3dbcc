"""The screens of a provider organization over HTTP: what they show and do, whose they are, and what others typed."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from fhirserver import app
from fhirserver.auditing.recording import ship
from fhirserver.fhir.instants import instant_text
from fhirserver.hl7v2.senders import endpoint_resource
from fhirserver.rules.organization import kind_concept
from fhirserver.subscriptions import delivery
from tests.api.browser import Visitor
from tests.api.exchange import REGISTRY, Exchange, exchange_of
from tests.api.hospital import HOSTILE, MESSAGE, Hospital


@pytest.fixture(scope="module")
def exchange(mongo_url: str) -> Iterator[Exchange]:
    with exchange_of(mongo_url, "api-console-hospital") as made:
        yield made


@pytest.fixture(scope="module")
def hospital(exchange: Exchange) -> Hospital:
    made = Hospital(exchange)
    made.api("POST", "Endpoint", endpoint_resource(exchange.hospital, "ADT1", "LAKESIDE", False), base=REGISTRY)
    return made


SCREENS = (
    "/clients", "/subscriptions", "/topics", "/messages", "/codes", "/mapping", "/mapping/new", "/audit",
    "/audit/patient?patient=1", "/audit/seals", "/members", "/members/new",
)  # fmt: skip


@pytest.mark.parametrize("path", SCREENS)
def test_every_list_opens(hospital: Hospital, path: str) -> None:
    assert "<h1>" in hospital.get(path)


# Clients


def test_a_request_is_reviewed_in_words_and_approved(hospital: Hospital) -> None:
    _, id = hospital.asked(name="Ward Board", iheProfile=["pdqm-consumer"])
    page = hospital.get(f"/clients/{id}")
    assert "Waiting for approval" in page
    assert "From Acme" not in page  # the organization's name is Application here
    assert "To show results" in page
    assert re.search(r"Patient</th>\s*<td>.*Read.*Search", page, re.S)
    assert "<code>category=laboratory</code>" in page
    assert "ITI-78: find people by what is known of them" in page

    assert hospital.post(f"/clients/{id}", action="approve", note="Agreed").endswith(f"/clients/{id}")
    after = hospital.get(f"/clients/{id}")
    assert "is approved. It can use your data from now on." in after
    assert "Agreed" in after
    assert "Disable client" in after
    assert "Approve client" not in after


def test_a_rejection_needs_a_note_and_says_so_beside_the_field(hospital: Hospital) -> None:
    _, id = hospital.asked(name="Fax")
    refused = hospital.post(f"/clients/{id}", 400, action="reject", note=" ")
    assert 'role="alert"' in refused
    assert hospital.api("GET", f"ClientAuthorization/{id}", base=REGISTRY)["status"] == "waiting-for-approval"

    hospital.post(f"/clients/{id}", action="reject", note="We do not fax.")
    assert "We do not fax." in hospital.get(f"/clients/{id}")


def test_disabling_acts_on_the_very_next_call(hospital: Hospital) -> None:
    client, id = hospital.asked(name="Beds")
    hospital.post(f"/clients/{id}", action="approve")
    token = hospital.exchange.token(client).json["access_token"]  # type: ignore[index]
    path = f"{hospital.exchange.base}/Patient"
    assert hospital.exchange.call("GET", path, token).status_code == 200

    hospital.post(f"/clients/{id}", action="disable")
    assert hospital.exchange.call("GET", path, token).status_code == 403
    assert "Enable client" in hospital.get(f"/clients/{id}")
    hospital.post(f"/clients/{id}", action="enable")
    assert hospital.exchange.call("GET", path, token).status_code == 200


def test_what_is_new_in_changed_scopes_is_marked_and_decided_on(hospital: Hospital) -> None:
    client, id = hospital.asked(name="More")
    hospital.post(f"/clients/{id}", action="approve")
    wider = "system/Patient.cruds system/Condition.rs system/Subscription.cruds"
    held = {name: value for name, value in client.items() if name != "secret"}
    answer = hospital.exchange.call(
        "PUT", f"{REGISTRY}/ClientApplication/{client['id']}", hospital.exchange.people["acme"], held | {"scope": wider}
    )
    assert answer.status_code == 200, answer.text
    hospital.request(client["id"])
    page = hospital.get(f"/clients/{id}")

    assert "It keeps what it has until you decide." in page
    assert "Create · new" in page
    assert re.search(r"Observation.*no longer", page, re.S)
    assert "Wants more" in hospital.get("/clients?q=more")
    hospital.post(f"/clients/{id}", action="approve")
    assert "· new" not in hospital.get(f"/clients/{id}")


@pytest.mark.parametrize(
    ("query", "there", "gone"),
    [
        ("q=zzz", "Nothing matches", "Sorted out"),
        ("q=sorted", "Sorted out", "Nothing matches"),
        ("status=approved&q=sorted", "Nothing matches", "Sorted out"),
        ("status=nonsense&q=sorted", "Sorted out", "Nothing matches"),
    ],
)
def test_clients_are_found_by_name_and_status(hospital: Hospital, query: str, there: str, gone: str) -> None:
    if "Sorted out" not in hospital.get("/clients?q=sorted"):
        hospital.asked(name="Sorted out")
    page = hospital.get(f"/clients?{query}")

    assert there in page
    assert gone not in page


# Subscriptions and topics


def test_a_subscription_is_previewed_approved_and_listed(hospital: Hospital) -> None:
    client, id = hospital.asked(name="Told")
    hospital.post(f"/clients/{id}", action="approve")
    subscription = hospital.subscribed(client)
    page = hospital.get(f"/subscriptions/{subscription}")
    assert re.search(r"\d+ of the last \d+ changes would have been sent", page)
    assert "Told" in page
    assert "https://1.1.1.1/x" in page

    hospital.post(f"/subscriptions/{subscription}", action="approve", note="Fine")
    after = hospital.get(f"/subscriptions/{subscription}")
    assert "Events are sent from now on." in after
    assert "Fine" in after
    assert "create.patient" in hospital.get("/subscriptions?status=active")
    assert "create.patient" not in hospital.get("/subscriptions?status=off")
    assert "Nothing has been sent yet." in hospital.get(f"/subscriptions/{subscription}/deliveries")


def test_dead_letters_are_sent_again_by_the_organization_they_came_from(hospital: Hospital) -> None:
    client, authorization = hospital.asked(name="Told")
    hospital.post(f"/clients/{authorization}", action="approve")
    id, server = hospital.subscribed(client), hospital.exchange.installation.server
    hospital.post(f"/subscriptions/{id}", action="approve", note="Fine")
    now, dead = server.now(), []
    for number in (1, 2):
        written = {"type": "Patient", "id": str(number), "version": 1, "action": "create"}
        event = {"id": str(number), "t": now, "changes": [written]}
        made = delivery.new(id, client["id"], number, event, [f"Patient/{number}"], code="create.patient", lane="x")
        made |= {"queued": instant_text(now), "nextAttempt": instant_text(now)}
        dead.append(delivery.finished(made, "dead-letter", "It answered 500."))
    organization = hospital.exchange.hospital
    server.store.commit([delivery.change(server, organization, each, None, now) for each in dead])
    path = f"/subscriptions/{id}/deliveries"
    assert '/resources/Patient/1"' in hospital.get(f"{path}/{dead[0]['id']}")

    hospital.post(f"{path}/{dead[0]['id']}")
    one = hospital.get(f"{path}/{dead[0]['id']}")
    assert "The notification is sent again." in one
    assert "Send again" not in one
    assert hospital.api("GET", f"NotificationDelivery/{dead[0]['id']}")["status"] == "queued"
    assert "Send all dead letters again" in hospital.get(path)
    hospital.post(path)
    assert "One notification is sent again." in hospital.get(path)
    assert "Send all dead letters again" not in hospital.get(path)
    assert hospital.api("GET", f"NotificationDelivery/{dead[1]['id']}")["status"] == "queued"
    assert hospital.visitor.post(hospital.path(path), {"csrf": "another"}).status_code == 403


def test_a_shipped_topic_is_retired_and_activated_with_a_condition(hospital: Hospital) -> None:
    assert "Shipped" in hospital.get("/topics/update.patient")
    hospital.post("/topics/update.patient", status="retired")
    assert "Retired" in hospital.get("/topics?status=retired")
    broken = hospital.post("/topics/update.patient", 400, status="active", condition="%current.name.")
    assert 'role="alert"' in broken
    hospital.post("/topics/update.patient", status="active", condition="%current.active = false")
    assert "%current.active = false" in html.unescape(hospital.get("/topics/update.patient"))
    kept = hospital.api("GET", "SubscriptionTopic/update.patient")
    assert kept["status"] == "active"


def test_an_administrator_allows_only_what_was_activated(hospital: Hospital) -> None:
    assert "Everything in the catalogue can be subscribed to" in hospital.get("/topics")
    hospital.post("/topics", governed="true")
    page = hospital.get("/topics")
    assert "Only what you activated can be subscribed to" in page
    hospital.post("/topics/delete.patient", status="active", search="Patient?active=false")
    assert "Patient?active=false" in hospital.get("/topics/delete.patient")
    assert "Deletion of Patient" in hospital.get("/topics?status=active&q=delete.patient")
    hospital.post("/topics", governed="false")
    assert "Everything in the catalogue can be subscribed to again" in hospital.get("/topics")


def test_the_catalogue_is_searched_and_has_pages(hospital: Hospital) -> None:
    first = hospital.get("/topics")
    following = re.search(r'href="[^"]*/topics\?page=(\d+)"', first)
    assert following
    assert hospital.get(f"/topics?page={following[1]}") != first
    assert "Creation of Patient" in hospital.get("/topics?q=create.patient")
    assert "Nothing matches" in hospital.get("/topics?q=zzzz")


# Messages


def test_a_message_stands_beside_its_resources(hospital: Hospital) -> None:
    id = hospital.taken("SIDE-1", "31")
    page = html.unescape(hospital.get(f"/messages/{id}?field=PID%5B1%5D-5"))

    assert re.search(r'data-keys="PID\[1\]-5" title="PID-5" class="lit"', page)
    assert re.search(r'class="line d\d+ lit"[^>]*>\s*"family": "<img', page)
    assert "PID.Patient/pid5" in page


def test_messages_are_narrowed_by_what_is_typed(hospital: Hospital) -> None:
    hospital.taken("FIND-ME", "32")
    for query in ("control=FIND-ME", "control=FIND-ME&sender=ADT1&event=ADT_A01&number=32&from=2020-01-01"):
        assert "FIND-ME" in hospital.get(f"/messages?{query}"), query
    for query in ("control=FIND", "sender=NOBODY", "number=33&control=FIND-ME", "to=2020-01-01"):
        assert "<code>FIND-ME</code>" not in hospital.get(f"/messages?{query}"), query
    assert "<code>FIND-ME</code>" in hospital.get("/messages?status=processed")
    hospital.get("/messages?from=yesterday", 400)


def test_the_feed_asks_for_itself_and_is_answered_with_the_list_alone(hospital: Hospital) -> None:
    hospital.taken("LIVE-1", "36")
    assert re.search(r'hx-trigger="every \d+s"', hospital.get("/messages"))
    part = hospital.visitor.get(hospital.path("/messages"), **{"HX-Request": "true", "HX-Target": "list"})
    assert part.text.strip().startswith('<div id="list">')


def test_what_a_person_may_do_with_a_message_depends_on_its_status(hospital: Hospital) -> None:
    id = hospital.taken("AGAIN-1", "34")
    assert "Put off" not in hospital.get(f"/messages/{id}")
    hospital.post(f"/messages/{id}", action="reprocess")
    assert hospital.api("GET", f"InboundMessage/{id}")["status"] == "received"
    hospital.post(f"/messages/{id}", action="defer")
    hospital.post(f"/messages/{id}", action="resolve", note="Entered by hand")
    assert "Entered by hand" in hospital.get(f"/messages/{id}")
    hospital.post(f"/messages/{id}", 400, action="explode")


def test_all_messages_of_a_status_go_again_at_once(hospital: Hospital) -> None:
    hospital.post(f"/messages/{hospital.taken('ALL-1', '37')}", action="reprocess")
    id = hospital.api("GET", "InboundMessage?control-id=ALL-1")["entry"][0]["resource"]["id"]
    hospital.post(f"/messages/{id}", action="defer")
    assert "Reprocess all with this status" in hospital.get("/messages?status=deferred")
    assert "Reprocess all with this status" not in hospital.get("/messages?status=processed")
    for wrong in ("", "processed", "deferred,processed"):
        hospital.post("/messages", 400, status=wrong)
    assert hospital.post("/messages", status="deferred").endswith("/messages")
    assert hospital.api("GET", f"InboundMessage/{id}")["status"] == "received"


def test_a_code_is_mapped_and_the_message_is_done(hospital: Hospital) -> None:
    id = hospital.taken("CODE-1", "35", "QX")
    assert "QX in marital-status" in hospital.get(f"/messages/{id}")
    assert "QX" in hospital.get("/codes?status=requested")
    task = hospital.api("GET", f"InboundMessage/{id}")["unmapped"][0]["task"]["reference"]
    assert "PID-16" in hospital.get(f"/codes/{task.rpartition('/')[2]}")
    hospital.post(f"/codes/{task.rpartition('/')[2]}", code="M", scope="sender", action="map")
    assert hospital.api("GET", task)["status"] == "completed"
    assert "<code>QX</code>" not in hospital.get("/codes?status=requested")


# The workbench


def test_a_pasted_message_is_converted_and_nothing_is_stored(hospital: Hospital) -> None:
    raw = MESSAGE.format(control="PASTED", number="41", marital="M").replace("\r", "\n")
    page = hospital.post("/mapping", 200, message=raw, overlay="")

    assert '"resourceType": "Patient"' in html.unescape(page)
    assert "PID.Patient/pid5" in page
    assert "total" in hospital.api("GET", "InboundMessage?control-id=PASTED")
    assert hospital.api("GET", "InboundMessage?control-id=PASTED")["total"] == 0
    refused = hospital.post("/mapping", 400, message="nonsense", overlay="")
    assert 'role="alert"' in refused
    assert "nonsense" in refused


def test_an_overlay_is_drafted_compared_published_and_taken_out_of_use(hospital: Hospital) -> None:
    hospital.taken("BEFORE-1", "42")
    beginning = hospital.get("/mapping/new?view=json")
    shown = re.search(r"<textarea[^>]*>(.*?)</textarea>", beginning, re.S)
    assert shown
    overlay = json.loads(html.unescape(shown[1]))
    rule = overlay["group"][0]["element"][0]
    rule["code"], rule["target"][0]["code"] = "PID-8.1", "extension(https://riverside.example/sent-sex).valueString"
    text = json.dumps(overlay | {"title": f"Sent sex {HOSTILE}"})

    compared = html.unescape(hospital.post("/mapping/new", 200, overlay=text, action="compare"))
    assert "What it changes in the last" in compared
    assert "https://riverside.example/sent-sex" in compared
    address = hospital.post("/mapping/new", overlay=text, action="draft").removeprefix(hospital.path(""))
    assert "It is not used yet." in hospital.get(address)
    hospital.post(address, overlay=text, action="publish")
    id = address.rpartition("/")[2]
    assert hospital.api("GET", f"ConceptMap/{id}")["status"] == "active"
    raw = MESSAGE.format(control="AFTER", number="42", marital="M")
    assert "sent-sex" in hospital.post("/mapping", 200, message=raw, overlay="")

    broken = hospital.post(address, 400, overlay=text.replace("PID-8.1", "PID-999"), action="publish")
    assert 'role="alert"' in broken
    assert "PID-999" in broken
    hospital.post(address, overlay=text, action="retire")
    assert hospital.api("GET", f"ConceptMap/{id}")["status"] == "retired"


FORM = {
    "view": "form", "head.title": "By form", "card.0.kind": "segment", "card.0.name": "PID.Patient",
    "row.0.0.action": "add", "row.0.0.id": "sex-sent", "row.0.0.source": "PID-8.1",
    "row.0.0.target": "extension(https://riverside.example/form).valueString",
}  # fmt: skip


def test_an_overlay_is_written_in_the_form_and_tried_before_it_is_saved(hospital: Hospital) -> None:
    raw = MESSAGE.format(control="TRY", number="43", marital="M").replace("\r", "\n")
    tried = html.unescape(hospital.post("/mapping/new", 200, **FORM, action="try", message=raw))
    assert "riverside.example/form" in tried
    assert "PID.Patient/sex-sent" in tried
    assert "No faults" in tried
    added = hospital.post("/mapping/new", 200, **FORM, action="add-row.0")
    assert 'name="row.0.1.id"' in added
    hospital.post("/mapping/new", 400, **FORM, action="drop-card.0000001")  # a card that there is not
    as_json = html.unescape(hospital.post("/mapping/new", 200, **FORM, action="json"))
    assert '"valueString": "sex-sent"' in as_json

    address = hospital.post("/mapping/new", **FORM, action="publish").removeprefix(hospital.path(""))
    page = hospital.get(address)
    assert 'name="row.0.0.id" value="sex-sent"' in page
    version = re.search(r'name="version" value="(\d+)"', page)
    assert version
    hospital.post(address, **FORM, action="draft", version=version[1])
    outrun = hospital.post(address, 412, **FORM, action="publish", version=version[1])
    assert "Somebody else changed this while you had it open" in outrun
    hospital.post(address, **FORM, action="retire")


def test_what_is_wrong_with_a_rule_is_said_at_its_row(hospital: Hospital) -> None:
    faulty = {**FORM, "row.0.0.target": "gendre"}
    for action, status in (("", 200), ("publish", 400)):
        page = html.unescape(hospital.post("/mapping/new", status, **faulty, action=action))
        said = re.search(r'id="wrong-row-0-0">(.*?)</p>', page, re.S)
        assert said
        assert "Patient has no element gendre" in said[1]
    page = html.unescape(hospital.post("/mapping/new", 400, **{**FORM, "row.0.0.more": "["}, action="draft"))
    assert "This must be a JSON object" in page


@pytest.mark.parametrize("text", ["", "{", "[]", '{"resourceType": "Patient"}'])
def test_what_is_no_overlay_is_refused_beside_the_field(hospital: Hospital, text: str) -> None:
    page = hospital.post("/mapping/new", 400, overlay=text, action="publish")

    assert 'id="overlay-wrong"' in page


# Audit records


def test_records_show_who_saw_which_patient(hospital: Hospital, exchange: Exchange) -> None:
    client, id = hospital.asked(name="Seen by")
    hospital.post(f"/clients/{id}", action="approve")
    patient = hospital.api(
        "POST", "Patient", {"resourceType": "Patient", "identifier": [{"system": "urn:mrn", "value": "M|1"}],
                            "name": [{"family": "Ferrier", "given": ["Ines"]}]},
    )["id"]  # fmt: skip
    token = exchange.token(client).json["access_token"]  # type: ignore[index]
    assert exchange.call("GET", f"{exchange.base}/Patient/{patient}", token).status_code == 200
    _shipped(exchange)
    for asked in (patient, "M|1"):
        page = hospital.get(f"/audit/patient?patient={asked.replace('|', '%7C')}")
        assert "Ines Ferrier" in page
        assert re.search(r"<strong>Seen by</strong>\s*once", page), asked
    assert "Read" in hospital.get(f"/clients/{id}/activity")
    assert "Seen by" in hospital.get(f"/audit?patient={patient}&client=ClientApplication%2F{client['id']}&outcome=0")
    first = re.search(r'href="[^"]*/audit/([0-9a-f]{32})"', hospital.get(f"/audit?patient={patient}"))
    assert first
    assert "Patient/" in hospital.get(f"/audit/{first[1]}")


def _shipped(exchange: Exchange) -> None:
    while ship(exchange.installation.server, exchange.installation.settings.data / app.SPOOL):
        pass


def test_the_seals_are_verified_where_people_look(hospital: Hospital, exchange: Exchange) -> None:
    hospital.get("/audit")
    _shipped(exchange)
    app.seals(exchange.installation).seal(exchange.hospital)
    assert "The seals hold. Nothing was changed." in hospital.get("/audit/seals")
    records = exchange.installation.server.store.database.collection("AuditEvent")
    before = records.find_one({"o": exchange.hospital, "z": 1})
    records.update_one({"_id": before["_id"]}, {"$set": {"d": "{}"}})
    broken = hospital.get("/audit/seals")
    records.replace_one({"_id": before["_id"]}, before)
    assert "The seals do not hold." in broken
    assert "was changed" in broken


# Members


def test_a_member_is_added_by_a_link_that_is_shown_once(hospital: Hospital) -> None:
    page = hospital.post("/members/new", 200, email="new@riverside.example", name=f"New {HOSTILE}", role="member")
    link = re.search(r"https://exchange\.example/oauth2/password\?link=[\w-]+", page)
    assert link
    id = hospital.api("GET", "User?email=new@riverside.example", base=REGISTRY)["entry"][0]["resource"]["id"]
    for path in ("/members", f"/members/{id}"):
        assert "link=" not in hospital.get(path), path

    hospital.post(f"/members/{id}", action="save", name="Newer", role="admin")
    assert hospital.api("GET", f"User/{id}", base=REGISTRY)["role"] == "admin"
    assert "oauth2/password" in hospital.post(f"/members/{id}", 200, action="link")
    hospital.post(f"/members/{id}", action="deactivate")
    assert hospital.api("GET", f"User/{id}", base=REGISTRY)["active"] is False
    hospital.post(f"/members/{id}", action="activate")
    assert 'id="confirmed-wrong"' in hospital.post(f"/members/{id}", 400, action="remove", confirmed="delete")
    hospital.post(f"/members/{id}", action="remove", confirmed="DELETE")
    hospital.get(f"/members/{id}", 404)


def test_nobody_takes_his_own_role_away(hospital: Hospital) -> None:
    own = hospital.api("GET", "User?email=hospital@example.org", base=REGISTRY)["entry"][0]["resource"]["id"]
    refused = hospital.post(f"/members/{own}", 422, action="save", name="Me", role="member")

    assert "Nobody can" in refused
    assert "Remove this member" not in refused


def test_a_member_looks_and_decides_nothing(hospital: Hospital, exchange: Exchange) -> None:
    _, id = hospital.asked(name="For a member")
    user = {"resourceType": "User", "email": "looker@example.org", "name": "Looker", "role": "member"}
    organization = {"reference": f"Organization/{exchange.hospital}"}
    body = user | {"organization": organization, "password": "correct-horse-battery-9"}
    hospital.api("POST", "User", body, base=REGISTRY)
    looker = Visitor(exchange)
    assert looker.sign_in("looker").status_code == 303
    page = looker.get(hospital.path(f"/clients/{id}"))

    assert page.status_code == 200
    assert "Approve client" not in page.text
    for path, form in (
        (f"/clients/{id}", {"action": "approve"}),
        ("/topics/create.patient", {"status": "retired"}),
        ("/members/new", {"email": "x@example.org"}),
        ("/mapping/new", {"overlay": json.dumps({"resourceType": "ConceptMap"}), "action": "publish"}),
    ):
        answer = looker.post(hospital.path(path), {"csrf": looker.token(), **form})
        assert answer.status_code == 403, (path, answer.status_code)
    assert "administrator" in looker.get(hospital.path("/audit/seals")).text
    for path in SCREENS:
        assert looker.get(hospital.path(path)).status_code == (403 if path == "/audit/seals" else 200), path


# Whose addresses are whose


def test_what_belongs_to_another_organization_is_not_there(hospital: Hospital, exchange: Exchange) -> None:
    client, id = hospital.asked(name="Elsewhere")
    hospital.post(f"/clients/{id}", action="approve")
    operator = exchange.operator()
    body = {"resourceType": "Organization", "name": "Other", "type": [_kind()]}
    other = exchange.call("POST", f"{REGISTRY}/Organization", operator, body).json["id"]  # type: ignore[index]
    user = {
        "resourceType": "User",
        "email": "other@example.org",
        "role": "admin",
        "password": "correct-horse-battery-9",
    }
    made = exchange.call(
        "POST", f"{REGISTRY}/User", operator, user | {"organization": {"reference": f"Organization/{other}"}}
    )
    assert made.status_code == 201, made.text
    stranger = Visitor(exchange)
    assert stranger.sign_in("other").status_code == 303
    own = hospital.api("GET", "User?email=hospital@example.org", base=REGISTRY)["entry"][0]["resource"]["id"]
    paths = (
        f"/clients/{id}", f"/clients/{id}/activity", f"/subscriptions/{hospital.subscribed(client)}",
        f"/messages/{hospital.taken('OTHER-1', '51')}", f"/members/{own}", "/topics/none", "/audit/none", "/codes/none",
        "/mapping/none",
    )  # fmt: skip
    for path in paths:
        assert stranger.get(f"/console/hospital/{exchange.hospital}{path}").status_code == 404, path
        assert stranger.get(f"/console/hospital/{other}{path}").status_code == 404, path
        posted = stranger.post(f"/console/hospital/{other}{path}", {"csrf": stranger.token(), "action": "approve"})
        assert posted.status_code in (404, 405), path
    assert stranger.get(f"/console/hospital/{exchange.acme}/clients").status_code == 404


def test_a_sandbox_has_no_screens(hospital: Hospital, exchange: Exchange) -> None:
    client = exchange.register(kind="test", name="Tried")
    answer = exchange.call("POST", f"{REGISTRY}/ClientApplication/{client['id']}/$sandbox", exchange.people["acme"], {
        "resourceType": "Parameters"})  # fmt: skip
    assert answer.status_code == 200, answer.text
    parts = {part["name"]: part for part in answer.json["parameter"]}  # type: ignore[index]
    sandbox = parts["organization"]["valueReference"]["reference"].rpartition("/")[2]
    owner = Visitor(exchange)
    owner.sign_in("acme")
    for visitor in (owner, hospital.visitor):
        for path in ("", "/clients", "/messages", "/audit", "/members"):
            assert visitor.get(f"/console/hospital/{sandbox}{path}").status_code == 404, path


def _kind() -> dict[str, Any]:
    return kind_concept("provider")


@pytest.mark.parametrize(
    "path",
    ["/clients/x", "/subscriptions/x", "/topics/create.patient", "/messages/x", "/codes/x", "/mapping", "/mapping/new",
     "/mapping/x", "/members/new", "/members/x"],
)  # fmt: skip
def test_a_form_without_its_token_does_nothing(hospital: Hospital, path: str) -> None:
    for form, headers in (
        ({"csrf": ""}, {}),
        ({"csrf": "0" * 64}, {}),
        ({"csrf": hospital.csrf}, {"Sec-Fetch-Site": "cross-site"}),
    ):
        answer = hospital.visitor.post(hospital.path(path), {**form, "action": "approve"}, **headers)
        assert answer.status_code == 403, (path, form)


def test_what_others_typed_is_shown_as_text_everywhere(hospital: Hospital) -> None:
    client, id = hospital.asked(name=HOSTILE)
    hospital.post(f"/clients/{id}", action="approve", note=HOSTILE)
    subscription = hospital.subscribed(client)
    message = hospital.taken(HOSTILE.replace("|", ""), "61", "<b>Q")
    task = hospital.api("GET", f"InboundMessage/{message}")["unmapped"][0]["task"]["reference"].rpartition("/")[2]
    topic = {
        "resourceType": "SubscriptionTopic",
        "id": "t",
        "url": f"urn:{HOSTILE}".replace(" ", ""),
        "status": "draft",
    }
    topic |= {"title": HOSTILE, "description": HOSTILE, "eventTrigger": []}
    hospital.api("PUT", "SubscriptionTopic/t", {k: v for k, v in topic.items() if v})
    _shipped(hospital.exchange)
    paths = (
        "", "/clients", f"/clients/{id}", f"/clients/{id}/activity", "/subscriptions", f"/subscriptions/{subscription}",
        "/topics", "/topics/t", "/messages", f"/messages/{message}", "/codes", f"/codes/{task}", "/audit", "/members",
        "/notifications", f"/messages?control={HOSTILE}", f"/clients?q={HOSTILE}", f"/audit/patient?patient={HOSTILE}",
    )  # fmt: skip
    for path in paths:
        page = hospital.get(path)
        assert "<img" not in re.sub(r'<img src="/console/static/[^"]*"', "", page), path
        assert "<b>Q" not in page, path
    assert html.escape(HOSTILE) in hospital.get("/clients")
