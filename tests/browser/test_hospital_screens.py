"""The provider organization's screens in a browser: each is looked at, and the work that people do there is done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import HEIGHTS, ROOT, Installed, sign_in
from tests.browser.hospital import HOSTILE, Hospital, admission, parameters, stocked
from tests.browser.people import PEOPLE
from tests.running import wait_until


@pytest.fixture(scope="module")
def hospital(installed: Installed, states: dict[str, Any]) -> Hospital:
    return stocked(installed)


def test_every_screen_is_accessible_narrow_and_wide_light_and_dark(
    installed: Installed,
    hospital: Hospital,
    opened: Callable[..., Any],
    shot: Callable[[Any, str], Path],
    assert_accessible: Callable[..., None],
) -> None:
    warned = hospital.found("InboundMessage?control-id=RV-1")[0]
    patient = next(each["reference"] for each in warned["result"] if each["reference"].startswith("Patient/"))
    task = warned["unmapped"][0]["task"]["reference"].rpartition("/")[2]
    own = next(user for user in hospital.found("User", base="registry") if user["name"] == "Jonas Lindqvist")
    delivered = hospital.subscriptions["Encounter?class=IMP"]
    wait_until(lambda: hospital.found(f"NotificationDelivery?subscription=Subscription/{delivered}"), timeout=60)
    sent = hospital.found(f"NotificationDelivery?subscription=Subscription/{delivered}")[0]["id"]
    paths = {
        "home": "",
        "notifications": "/notifications",
        "clients": "/clients",
        "client-waiting": f"/clients/{hospital.authorizations['Results viewer']}",
        "client-pending": f"/clients/{hospital.authorizations['Ward Board']}",
        "client-disabled": f"/clients/{hospital.authorizations['Bed planner']}",
        "activity": f"/clients/{hospital.authorizations['Ward Board']}/activity",
        "subscriptions": "/subscriptions",
        "subscription": f"/subscriptions/{hospital.subscriptions['create.patient']}",
        "deliveries": f"/subscriptions/{delivered}/deliveries",
        "delivery": f"/subscriptions/{delivered}/deliveries/{sent}",
        "topics": "/topics",
        "topic": "/topics/discharges",
        "messages": "/messages",
        "message": f"/messages/{warned['id']}?field=PID%5B1%5D-5",
        "codes": "/codes",
        "code": f"/codes/{task}",
        "mapping": "/mapping",
        "overlay-new": "/mapping/new",
        "audit": "/audit",
        "audit-patient": f"/audit/patient?patient={patient.split('/')[1]}",
        "seals": "/audit/seals",
        "members": "/members",
        "member-new": "/members/new",
        "member": f"/members/{own['id']}",
    }
    page = opened("hospital")
    for name, path in paths.items():
        assert page.goto(installed.at("hospital", path)).status == 200, path
        for width, mode, rules in ((1440, "light", ()), (360, "dark", ())):
            page.set_viewport_size({"width": width, "height": HEIGHTS[width]})
            page.emulate_media(color_scheme=mode, reduced_motion="reduce")
            assert_accessible(page, *rules)
            shot(page, f"hospital-{name}-{width}-{mode}")
        assert page.locator("img[src=x]").count() == 0, path


def test_a_client_is_reviewed_approved_disabled_and_enabled(
    installed: Installed, hospital: Hospital, opened: Callable[..., Any], shot: Callable[[Any, str], Path]
) -> None:
    page = opened("hospital")
    page.goto(installed.at("hospital", ""))
    page.get_by_role("link", name="Clients that wait for your approval").click()
    page.get_by_role("searchbox").fill("results")
    page.wait_for_selector("text=1 entry")
    page.get_by_role("link", name="Results viewer").click()
    assert page.get_by_text("shows your ward staff what they need").count() >= 1
    page.get_by_label("Note").fill("Until the end of the year.")
    page.get_by_role("button", name="Approve client").click()
    page.wait_for_selector("text=Results viewer is approved")
    page.get_by_role("button", name="Disable client").click()
    page.wait_for_selector("text=Its very next call is refused")
    shot(page, "hospital-client-just-disabled")
    page.get_by_role("button", name="Enable client").click()
    page.wait_for_selector("text=is enabled again")
    assert page.locator(".steps-taken li").count() == 4


def test_a_request_is_rejected_by_keyboard_alone(
    installed: Installed, hospital: Hospital, opened: Callable[..., Any]
) -> None:
    page = opened("hospital", width=360)
    page.goto(installed.at("hospital", f"/clients/{hospital.authorizations[f'Notes {HOSTILE}']}"))
    page.get_by_label("Note").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector("[role=alert]")
    assert page.evaluate("() => document.activeElement.getAttribute('role')") == "alert"
    page.get_by_label("Note").focus()
    page.keyboard.type("We have one already.")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=is rejected")


def test_a_subscription_is_tried_and_approved(
    installed: Installed, hospital: Hospital, opened: Callable[..., Any]
) -> None:
    page = opened("hospital")
    page.goto(installed.at("hospital", "/subscriptions?status=requested"))
    page.get_by_role("link", name="create.patient").click()
    assert page.get_by_text("changes would have been sent").is_visible()
    page.get_by_role("button", name="Send a test").click()
    page.wait_for_selector("text=The endpoint did not accept the test")
    page.get_by_role("button", name="Approve subscription").click()
    page.wait_for_selector("text=Events are sent from now on")


def test_a_draft_topic_is_activated_with_a_condition(
    installed: Installed, hospital: Hospital, opened: Callable[..., Any]
) -> None:
    page = opened("hospital")
    page.goto(installed.at("hospital", "/topics?status=draft"))
    page.get_by_role("link", name="Discharges").click()
    page.get_by_label("Condition (FHIRPath)").fill("%current.status = 'finished'")
    page.get_by_role("button", name="Activate").click()
    page.wait_for_selector(".badge:has-text('Active')")
    kept = installed.api("GET", "SubscriptionTopic/discharges", "hospital", base="hospital")
    assert (kept["status"], kept["extension"][0]["valueString"]) == ("active", "%current.status = 'finished'")


def test_the_feed_shows_what_comes_in_and_a_field_lights_up_its_elements(
    installed: Installed,
    hospital: Hospital,
    opened: Callable[..., Any],
    shot: Callable[[Any, str], Path],
) -> None:
    page = opened("hospital")
    page.goto(installed.at("hospital", "/messages"))
    hospital.send(admission("RV-3", "770003", "Ferrier"))
    page.wait_for_selector("text=RV-3", timeout=30_000)
    page.get_by_role("row", name="RV-3").get_by_role("link").click()
    page.get_by_role("link", name="Ferrier^Ines").click()
    assert page.locator(".line.lit").first.inner_text().strip() == '"name": ['
    assert "PID.Patient/pid5" in page.inner_text("[data-why]")
    shot(page, "hospital-message-lit")

    page.locator(".line", has_text='"birthDate"').click()
    assert page.locator(".raw .lit").inner_text() == "19700101"
    page.locator(".made").focus()
    page.keyboard.press("ArrowDown")
    assert page.locator(".raw .lit").inner_text() == "F"


def test_an_unmapped_code_is_mapped_and_the_message_reprocessed(
    installed: Installed, hospital: Hospital, opened: Callable[..., Any]
) -> None:
    page = opened("hospital")
    page.goto(installed.at("hospital", "/codes?status=requested"))
    page.get_by_role("link", name="QQ").click()
    assert page.get_by_text("Never Married").count() >= 1
    page.get_by_label("FHIR code").fill("M")
    page.get_by_role("button", name="Map the code").click()
    page.wait_for_selector("text=QQ is mapped")
    message = hospital.found("InboundMessage?control-id=RV-1")[0]["id"]
    page.goto(installed.at("hospital", f"/messages/{message}"))
    page.get_by_role("button", name="Reprocess").click()
    page.wait_for_selector("text=The message is in the queue again")
    wait_until(lambda: hospital.found("InboundMessage?control-id=RV-1&status=processed"), timeout=60)


def test_the_workbench_converts_compares_and_publishes(
    installed: Installed,
    hospital: Hospital,
    opened: Callable[..., Any],
    shot: Callable[[Any, str], Path],
    assert_accessible: Callable[..., None],
) -> None:
    page = opened("hospital")
    raw = (ROOT / "examples" / "hl7v2" / "06-z-segments-a01-2.5.hl7").read_text().replace("\r", "\n")
    page.goto(installed.at("hospital", "/mapping"))
    page.get_by_label("HL7v2 message").fill(raw)
    page.get_by_role("button", name="Convert").click()
    page.wait_for_selector(".made")
    page.get_by_text("The whole trace").click()
    assert_accessible(page)
    shot(page, "hospital-mapping-converted")
    assert page.get_by_text("Northern region").count() == 0

    page.get_by_role("button", name="+ CREATE NEW").first.click()
    overlay = (ROOT / "examples" / "hl7v2" / "overlay.json").read_text()
    page.get_by_role("button", name="Expert view (JSON)").click()
    page.get_by_label("ConceptMap as JSON").fill(overlay)
    page.get_by_role("button", name="Show as a form").click()
    page.wait_for_selector("text=ZPI.Patient")
    page.get_by_role("button", name="Compare with the last 100 messages").click()
    page.wait_for_selector("text=What it changes in the last")
    assert page.locator("code.new").count() > 0
    assert_accessible(page)
    shot(page, "hospital-overlay-compared")
    page.get_by_role("button", name="Publish").click()
    page.wait_for_selector("text=is in use, from the next message on")

    page.goto(installed.at("hospital", "/mapping"))
    page.get_by_label("HL7v2 message").fill(raw)
    page.get_by_role("button", name="Convert").click()
    page.wait_for_selector("text=Northern region")


def test_an_overlay_is_written_rule_by_rule_checked_as_it_is_typed_and_tried(
    installed: Installed,
    hospital: Hospital,
    opened: Callable[..., Any],
    shot: Callable[[Any, str], Path],
    assert_accessible: Callable[..., None],
) -> None:
    page = opened("hospital")
    page.goto(installed.at("hospital", "/mapping/new"))
    page.get_by_label("Name", exact=True).fill("Religion as text")
    page.locator("#card-0 select[name='shipped.0']").select_option("pid17")
    page.get_by_role("button", name="Replace it").click()
    page.wait_for_selector("[id='row.0.0.id'][value=pid17]")
    page.get_by_label("Datatype map").first.fill("")
    page.get_by_label("To element").first.fill("religion")
    page.keyboard.press("Tab")
    page.wait_for_selector("#wrong-row-0-0:not(:empty)")
    assert "Patient has no element religion" in page.inner_text("#wrong-row-0-0")
    assert page.evaluate("document.activeElement.id") == "row.0.0.as", "checking leaves the cursor where it is"
    assert_accessible(page)
    shot(page, "hospital-overlay-faults")
    page.get_by_label("To element").first.fill("extension(https://riverside.example/religion).valueString")
    page.get_by_label("Other parts (JSON)").first.fill("")
    page.get_by_label("From field").first.fill("PID-17.1")
    page.keyboard.press("Tab")
    page.wait_for_selector("text=No faults. It can be published.")
    assert page.locator("#wrong-row-0-0").inner_text() == ""

    page.get_by_role("button", name="Add a rule: PID.Patient").click()
    page.wait_for_selector("[id='row.0.1.id']:focus")
    page.keyboard.type("county")
    page.keyboard.press("Tab")
    page.keyboard.type("PID-12")
    page.keyboard.press("Tab")
    page.keyboard.type("extension(https://riverside.example/county).valueString")
    page.get_by_role("button", name="Take the latest message").click()
    page.wait_for_selector("#message:has-text('MSH')")
    page.get_by_label("HL7v2 message").fill(admission("TRY-1", "770009", "Ferrier").decode().replace("\r", "\n"))
    page.get_by_role("button", name="Try it").click()
    page.wait_for_selector("#tried .made")
    assert_accessible(page)
    page.set_viewport_size({"width": 360, "height": HEIGHTS[360]})
    page.emulate_media(color_scheme="dark", reduced_motion="reduce")
    assert_accessible(page)
    shot(page, "hospital-overlay-tried-360-dark")
    page.get_by_role("button", name="Save as draft").click()
    page.wait_for_selector("text=It is not used yet.")
    assert page.locator(".rule").count() == 2


def test_who_saves_what_somebody_else_changed_meanwhile_is_told_and_loses_nothing(
    installed: Installed, hospital: Hospital, opened: Callable[..., Any], shot: Callable[[Any, str], Path]
) -> None:
    overlay = {
        "resourceType": "ConceptMap",
        "status": "draft",
        "title": "Both of us",
        "extension": [
            {
                "url": "https://fhirserver.example/fhir/StructureDefinition/hl7v2-overlay",
                "extension": [{"url": "sending-facility", "valueString": "NORTH"}],
            }
        ],
    }
    made = installed.api("POST", "ConceptMap", "hospital", overlay, base="hospital")
    page = opened("hospital")
    page.goto(installed.at("hospital", f"/mapping/{made['id']}"))
    installed.api("PUT", f"ConceptMap/{made['id']}", "hospital", {**made, "title": "Theirs"}, base="hospital")
    page.get_by_label("Name", exact=True).fill("Ours")
    page.get_by_role("button", name="Save as draft").click()
    page.wait_for_selector("text=Somebody else changed this while you had it open.")
    shot(page, "hospital-overlay-conflict")
    assert page.get_by_label("Name", exact=True).input_value() == "Ours"
    with page.context.expect_page() as other:
        page.get_by_role("link", name="Open it as it is now").click()
    assert other.value.get_by_label("Name", exact=True).input_value() == "Theirs"


def test_a_session_that_ended_in_the_middle_of_a_form_costs_nothing_that_was_typed(
    installed: Installed, hospital: Hospital, opened: Callable[..., Any], shot: Callable[[Any, str], Path]
) -> None:
    page = opened()
    sign_in(page, installed, PEOPLE["hospital"])
    page.clock.install()
    page.goto(installed.at("hospital", "/members/new"))
    page.get_by_label("E-mail address").fill("late@riverside.example")
    page.get_by_label("Name").fill("Late Riser")
    kept = page.context.cookies()
    page.context.clear_cookies()
    page.clock.fast_forward("10:00")
    page.get_by_role("button", name="Add and make a link").click()
    page.wait_for_selector("text=Your session has ended.")
    shot(page, "hospital-session-ended")
    with page.context.expect_page() as other:
        page.get_by_role("link", name="sign in again in another tab").click()
    other.value.fill("#email", PEOPLE["hospital"].email)
    other.value.fill("#password", PEOPLE["hospital"].password)
    other.value.keyboard.press("Enter")
    other.value.wait_for_selector("header.top")
    assert kept != page.context.cookies()
    page.get_by_role("button", name="Add and make a link").click()
    page.wait_for_selector("#link")
    assert "Late Riser" in page.inner_text("main")


def test_dead_letters_are_sent_again_by_the_hospital(
    installed: Installed,
    hospital: Hospital,
    opened: Callable[..., Any],
    shot: Callable[[Any, str], Path],
    assert_accessible: Callable[..., None],
) -> None:
    once = {"url": "https://fhirserver.example/fhir/StructureDefinition/subscription-retry-hours"}
    once |= {"valueUnsignedInt": 0}
    id = hospital.subscribe("Ward Board", "create.encounter", "Show who arrives")
    asked = installed.api("GET", f"Subscription/{id}", "application", base="hospital")
    asked["channel"] = {"type": "rest-hook", "endpoint": "http://127.0.0.1:9/gone", "extension": [once]}
    installed.api("PUT", f"Subscription/{id}", "application", asked, base="hospital")
    installed.api("POST", f"Subscription/{id}/$approve", "hospital", parameters(), base="hospital")
    body = {"resourceType": "Encounter", "status": "planned", "class": {"code": "AMB"}}
    installed.api("POST", "Encounter", "hospital", body, base="hospital")
    dead = f"NotificationDelivery?subscription=Subscription/{id}&status=dead-letter"
    wait_until(lambda: hospital.found(dead), timeout=90)
    page = opened("hospital")
    page.goto(installed.at("hospital", f"/subscriptions/{id}/deliveries?status=dead-letter"))
    assert_accessible(page)
    shot(page, "hospital-dead-letters")
    page.get_by_role("button", name="Send all dead letters again").click()
    page.wait_for_selector("main [role=status]")
    assert "sent again" in page.inner_text("#said")


def test_a_member_is_let_in_by_a_link_that_is_not_shown_again(
    installed: Installed,
    hospital: Hospital,
    opened: Callable[..., Any],
    shot: Callable[[Any, str], Path],
    assert_accessible: Callable[..., None],
) -> None:
    page = opened("hospital")
    page.goto(installed.at("hospital", "/members"))
    page.get_by_role("button", name="+ CREATE NEW").click()
    page.get_by_label("E-mail address").fill("mina@riverside.example")
    page.get_by_label("Name").fill("Mina Sato")
    page.get_by_role("button", name="Add and make a link").click()
    link = page.inner_text("#link")
    assert_accessible(page)
    shot(page, "hospital-member-link")
    page.get_by_role("button", name="I have given it to them").click()
    assert "link=" not in page.content()

    invited = opened()
    assert invited.goto(link).status == 200
