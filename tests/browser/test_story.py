"""The whole story of `make demo`, by mouse and keyboard: an operator, an application provider and a hospital in three
browsers. What machines do - the client's calls, the sender's messages, the webhook - machines do here too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests

from fhirserver.demo import Receiver
from fhirserver.hl7v2.message import Message
from fhirserver.hl7v2.send import send
from tests.browser.conftest import ROOT, Installed
from tests.browser.people import PASSWORD

HOSPITAL, PROVIDER, CLIENT = "Lakeside Hospital", "Harbour Apps", "Ward Board"
FACILITY = "STORYSIDE"
"""The facility of the senders; other tests have the one of the examples."""
KIND = "https://fhirserver.example/fhir/NamingSystem/hl7v2-sending-facility"
SILENCE_SECONDS = 2.0


@dataclass
class Story:
    """Three people, each in a browser of their own, and what they know so far."""

    installed: Installed
    operator: Any
    application: Any
    hospital: Any
    receiver: Receiver
    seen: Callable[[Any, str], None]
    places: dict[str, str] = field(default_factory=dict)
    client: str = ""
    secret: str = ""

    def look(self, page: Any, name: str) -> None:
        """Keeps a picture of this step."""
        self.seen(page, f"story-{name}")

    def call(self, path: str) -> requests.Response:
        """A call of the client at the hospital's base, with the token it got at first."""
        base = f"{self.installed.url}/1/health/organizations/{self.places[HOSPITAL]}/fhir/4"
        return requests.get(f"{base}/{path}", headers={"Authorization": f"Bearer {self.token}"}, timeout=30)

    @property
    def token(self) -> str:
        given = {"grant_type": "client_credentials", "client_id": self.client, "client_secret": self.secret}
        answer = requests.post(f"{self.installed.url}/oauth2/token", data=given, timeout=30)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])

    def send(self, raw: bytes) -> str:
        """Sends a message over MLLP; the code of its acknowledgment."""
        raw = raw.replace(b"LAKESIDE", FACILITY.encode())
        answer = next(iter(send([raw], "127.0.0.1", self.installed.running.mllp_port)))
        return Message.parse(answer)["MSA-1"]


@pytest.fixture
def story(
    installed: Installed, opened: Callable[..., Any], shot: Callable[..., Path], assert_accessible: Callable[..., None]
) -> Iterator[Story]:
    receiver = Receiver()

    def seen(page: Any, name: str) -> None:
        assert_accessible(page)
        shot(page, name)

    people = {who: opened("operator" if who == "operator" else "") for who in ("operator", "application", "hospital")}
    yield Story(installed, **people, receiver=receiver, seen=seen)
    receiver.close()
    for who, page in people.items():
        shot(page, f"story-end-{who}")  # where it went wrong, if it did


@pytest.mark.timeout(600)
def test_the_whole_story_by_mouse_and_keyboard(story: Story) -> None:
    organization(story, PROVIDER, "Application provider", "ida@harbour.example", story.application)
    organization(story, HOSPITAL, "Provider organization", "hugo@lakeside.example", story.hospital)
    endpoint(story)
    registration(story)
    refused(story)
    request(story)
    approval(story)
    subscription(story)
    activation(story)
    messages(story)
    patient(story)
    bad_messages(story)
    disabled(story)
    enabled(story)


def organization(story: Story, name: str, kind: str, email: str, page: Any) -> None:
    """The operator makes an organization and its administrator, who sets a password and signs in."""
    operator = story.operator
    operator.goto(story.installed.at("operator", "/organizations"))
    operator.get_by_role("button", name="+ CREATE NEW").first.click()
    operator.get_by_role("radio", name=kind).check()
    operator.get_by_label("Name", exact=True).first.fill(name)
    operator.fill("#email", email)
    operator.fill("#person", email.partition("@")[0].title())
    story.look(operator, "organization-new")
    operator.locator("main form .buttons button").click()
    link = operator.inner_text("#link")
    operator.get_by_role("button", name="I have handed it over").click()
    operator.wait_for_url("**/organizations/of/*")
    story.places[name] = operator.url.rpartition("/")[2]

    page.goto(link)
    for each in page.query_selector_all("input[type=password]"):
        each.fill(PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_selector("text=You can sign in with it now.")
    page.goto(f"{story.installed.url}/console")
    page.keyboard.type(email)
    page.keyboard.press("Tab")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_selector(f"text=Hello, {email.partition('@')[0].title()}")


def endpoint(story: Story) -> None:
    """The operator says whose messages those of the facility are."""
    page = story.operator
    page.goto(story.installed.at("operator", "/resources/registry/Endpoint"))
    page.get_by_role("button", name="New").click()
    connection = {
        "system": "http://terminology.hl7.org/CodeSystem/endpoint-connection-type",
        "code": "hl7v2-mllp",
    }
    resource = {
        "resourceType": "Endpoint",
        "status": "active",
        "name": f"{HOSPITAL} ADT",
        "connectionType": connection,
        "managingOrganization": {"reference": f"Organization/{story.places[HOSPITAL]}"},
        "identifier": [{"system": KIND, "value": FACILITY}],
        "payloadType": [{"text": "HL7v2"}],
        "address": "mllp://127.0.0.1",
    }
    page.fill("#resource", json.dumps(resource, indent=2))
    page.get_by_role("button", name="Save").click()
    page.wait_for_selector("text=It is saved.")
    story.look(page, "endpoint")


def registration(story: Story) -> None:
    """The application provider registers a production client and sees its secret, once."""
    page = story.application
    page.goto(f"{story.installed.url}/console")
    page.get_by_role("link", name="Client management", exact=True).first.click()
    page.get_by_role("button", name="+ CREATE NEW").first.click()
    page.get_by_label("Production client").check()
    page.keyboard.press("Enter")
    page.wait_for_selector("#name")
    page.focus("#name")
    page.keyboard.type(CLIENT)
    page.keyboard.press("Tab")
    page.keyboard.type("Shows who was admitted")
    page.check("input[value=client_credentials]")
    page.get_by_role("button", name="Continue").click()
    page.get_by_label("QEDm: encounters").check()
    page.get_by_label("PDQm: look people up").check()
    page.select_option("#type-0", "Subscription")
    for box in page.query_selector_all("input[name=action-0]"):
        box.check()
    page.get_by_role("button", name="Continue").click()
    page.wait_for_selector("text=What the client may do")
    story.look(page, "client-review")
    page.get_by_role("button", name="Create client").click()
    page.wait_for_selector("#client-secret")
    story.client, story.secret = page.inner_text("#client-id"), page.inner_text("#client-secret")
    story.look(page, "credentials")
    page.get_by_label("I have saved the credentials").check()
    page.click("text=Go to the client")
    page.wait_for_url(f"**/clients/{story.client}*")


def refused(story: Story) -> None:
    """The client's first call is refused, with the reason."""
    answer = story.call("Patient")

    assert answer.status_code == 403
    assert "is not authorized by organization" in answer.text


def request(story: Story) -> None:
    """The application provider asks the hospital, with a reason."""
    page = story.application
    page.get_by_role("button", name="Request Authorization").first.click()
    page.get_by_role("searchbox").fill("lakeside")
    page.wait_for_url("**q=lakeside**")
    page.get_by_role("button", name=f"Choose {HOSPITAL}").click()
    page.get_by_label("Reason").fill("The ward board shows admissions as they happen.")
    page.get_by_role("button", name="Review").click()
    page.wait_for_selector("text=Send request")
    story.look(page, "request")
    page.get_by_role("button", name="Send request").click()
    page.wait_for_selector("h1 .badge:has-text('Waiting for approval')")


def approval(story: Story) -> None:
    """The hospital reads what is asked, and approves: the same call is answered."""
    page = story.hospital
    page.goto(f"{story.installed.url}/console")
    page.get_by_role("link", name="Clients that wait for your approval").click()
    page.get_by_role("link", name=CLIENT).click()
    assert "shows admissions as they happen" in page.inner_text("main")
    page.get_by_label("Note").fill("Agreed with the wards.")
    story.look(page, "client-request")
    page.get_by_role("button", name="Approve client").click()
    page.wait_for_selector(f"text={CLIENT} is approved")

    assert story.call("Patient").json()["total"] == 0


def subscription(story: Story) -> None:
    """The application provider subscribes to new patients: requested."""
    page = story.application
    page.goto(f"{page.url.partition('/authorizations')[0]}/clients/{story.client}/subscriptions/new?by=search")
    page.fill("#endpoint", story.receiver.url)
    page.fill("#criteria", "create.patient")
    page.wait_for_selector("#check .note.good")
    page.get_by_label("Reason").fill("Show new patients on the ward board")
    page.click("details:has(#header) > summary")
    page.fill("#header", "X-Ward: 7")
    story.look(page, "subscribe")
    page.get_by_role("button", name="Request subscription").click()
    page.wait_for_selector("#signing-secret")
    story.receiver.secret = page.inner_text("#signing-secret").strip()
    page.get_by_label("I have saved the secret").check()
    page.click("text=Go to the subscription")
    page.wait_for_selector(f"text=Waiting for approval by {HOSPITAL}")


def activation(story: Story) -> None:
    """The hospital sees what would have been sent, and approves the subscription: active."""
    page = story.hospital
    page.goto(f"{story.installed.url}/console")
    page.get_by_role("link", name="Subscriptions to review").click()
    page.get_by_role("link", name="create.patient").click()
    assert "Show new patients on the ward board" in page.inner_text("main")
    story.look(page, "subscription-review")
    page.get_by_role("button", name="Approve subscription").click()
    page.wait_for_selector("h1 .badge:has-text('Active')")


def messages(story: Story) -> None:
    """The hospital's system sends real messages; the feed shows them, the webhook gets a signed Bundle for each new
    patient.
    """
    page = story.hospital
    page.get_by_role("link", name="Messages", exact=True).click()
    files = sorted((ROOT / "examples" / "hl7v2").glob("[0-9]*.hl7"))
    assert {story.send(path.read_bytes()) for path in files} <= {"AA", "CA"}
    patients = {Message.parse(path.read_bytes())["PID-3.1"] for path in files}
    bundles = [story.receiver.next() for _ in patients]

    assert all("Patient" in told(bundle) for bundle in bundles)
    page.reload()
    page.wait_for_selector("tbody tr .badge.good")
    story.look(page, "messages")


def patient(story: Story) -> None:
    """A patient that a later message changed is found by identifier, with its versions and the message it came from."""
    texts = [path.read_bytes() for path in sorted((ROOT / "examples" / "hl7v2").glob("[0-9]*.hl7"))]
    known = [Message.parse(raw)["PID-3.1"] for raw in texts]
    updates = [Message.parse(raw)["PID-3.1"] for raw in texts if Message.parse(raw)["MSH-9.2"] == "A08"]
    number = next(each for each in updates if known.count(each) > 1)
    page = story.hospital
    page.get_by_role("link", name="Resources", exact=True).click()
    page.get_by_role("link", name="Patient", exact=True).click()
    page.fill("input[name=q]", f"identifier={number}")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=1 entry")
    page.locator("#list tbody a").first.click()
    page.get_by_role("button", name="History").click()
    assert page.locator("tbody tr").count() >= 2
    page.get_by_role("link", name="1 → 2").click()
    page.wait_for_selector(".diff ins")
    story.look(page, "difference")


def bad_messages(story: Story) -> None:
    """A malformed message gets AE, an unknown sender AR, and both people see theirs: nothing is lost."""
    malformed = b"MSH|^~\\&|ADT1|LAKESIDE|X|Y|20260101120000||ADT^A01|BAD-1|P|2.5\rEVN|A01|20260101120000\rPV1|1|I\r"
    stranger = b"MSH|^~\\&|NOBODY|NOWHERE|X|Y|20260101120000||ADT^A01|BAD-2|P|2.5\rEVN|A01\rPID|1||1^^^H\rPV1|1|I\r"
    assert (story.send(malformed), story.send(stranger)) == ("AE", "AR")
    page = story.hospital
    page.get_by_role("link", name="Messages", exact=True).click()
    page.get_by_role("row", name="BAD-1").get_by_role("link").first.click()
    page.wait_for_selector("h1 .badge.bad")
    story.look(page, "bad-message")
    operator = story.operator
    operator.goto(story.installed.at("operator", "/resources/registry/InboundMessage?q=control-id%3DBAD-2"))
    assert operator.locator("#list tbody tr").count() == 1


def disabled(story: Story) -> None:
    """The hospital disables the client: its very next call is refused, the next message is not delivered."""
    page = story.hospital
    page.get_by_role("link", name="Client management", exact=True).first.click()
    page.get_by_role("link", name=CLIENT).click()
    page.get_by_role("button", name="Disable client").click()
    page.wait_for_selector("h1 .badge:has-text('Disabled')")
    story.look(page, "disabled")

    assert story.call("Patient").status_code == 403
    admission = (
        b"MSH|^~\\&|ADT1|LAKESIDE|X|Y|20260101120000||ADT^A01|LATE-1|P|2.5\rEVN|A01|20260101120000\r"
        b"PID|1||LATE1^^^LAKESIDE^MR||Late^Comer||19700101|F\rPV1|1|I|W7^1^1||||||||||||||||VL1^^^LAKESIDE\r"
    )
    assert story.send(admission) == "AA"
    story.receiver.silent(SILENCE_SECONDS)
    application = story.application
    application.get_by_role("link", name="Notifications").first.click()
    application.wait_for_selector("text=disabled")
    story.look(application, "told")


def enabled(story: Story) -> None:
    """Enabled again: delivered, and the application provider sees calls, refusals and deliveries."""
    page = story.hospital
    page.get_by_role("button", name="Enable client").click()
    page.wait_for_selector("h1 .badge:has-text('Approved')")
    assert story.call("Patient").status_code == 200
    assert "Patient" in told(story.receiver.next())
    story.look(page, "enabled")
    application = story.application
    application.goto(f"{application.url.rpartition('/')[0]}/clients/{story.client}/activity")
    application.wait_for_selector(".badge.bad:has-text('Refused')")
    story.look(application, "activity")


def told(bundle: dict[str, Any]) -> list[str]:
    """The types of the resources that a notification tells of."""
    return [entry["resource"]["resourceType"] for entry in bundle["entry"][1:]]
