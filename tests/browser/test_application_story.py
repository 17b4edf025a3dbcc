"""What an application provider does from the first client to its end, by mouse and keyboard; the hospital and the relay
answer by the API.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.browser.conftest import Installed

playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright for Python: make setup")

NAME = "Discharge <b>board</b>"


def test_a_client_is_created_authorized_subscribed_and_deleted(
    installed: Installed, opened: Callable[..., Any], shot: Callable[..., Path], assert_accessible: Callable[..., None]
) -> None:
    page = opened("application")
    page.goto(installed.at("application", "/clients"))
    page.get_by_role("button", name="+ CREATE NEW").first.click()

    def seen(name: str) -> None:
        assert_accessible(page)
        shot(page, f"application-story-{name}")

    client = created(page, seen)
    secret = page.inner_text("#client-secret")
    with page.expect_download() as kept:
        page.get_by_role("button", name="Download as a file").click()
    assert json.loads(Path(kept.value.path()).read_text())["client_secret"] == secret
    page.click("text=Go to the client")
    assert page.inner_text("h1") == "Credentials", "nobody goes on before the credentials are saved"
    page.get_by_label("I have saved the credentials").check()
    page.click("text=Go to the client")
    assert page.inner_text("h1").startswith(NAME)
    with pytest.raises(playwright.Error, match="ERR_CACHE_MISS"):
        page.go_back()
    page.wait_for_url("chrome-error://**")  # the page by which the browser says so
    assert secret not in page.content(), "what is shown once is in no history"
    token = {"grant_type": "client_credentials", "client_id": client, "client_secret": secret}
    assert requests.post(f"{installed.url}/oauth2/token", data=token, timeout=30).ok

    page = opened("application")  # the other one may still be on its way to the browser's own page about the error
    page.goto(installed.at("application", f"/clients/{client}"))
    requested(page, seen)
    authorization = page.url.rpartition("/")[2]
    installed.api("POST", f"ClientAuthorization/{authorization}/$approve", "hospital", {"resourceType": "Parameters"})
    page.reload()
    assert page.locator("h1 .badge").inner_text() == "Approved"

    subscribed(page, installed.at("application", f"/clients/{client}/subscriptions/new?by=search"), seen)
    ended(page, installed.at("application", f"/clients/{client}/settings"), seen)


def created(page: Any, seen: Callable[[str], None]) -> str:
    """Goes through the steps by keyboard and mouse; answers the client's id."""
    seen("1-kind")
    page.get_by_label("Production client").check()
    page.keyboard.press("Enter")
    page.wait_for_selector("#name")
    page.focus("#name")
    page.keyboard.type(NAME)
    page.keyboard.press("Tab")
    page.keyboard.type("Shows who can go home.")
    page.check("input[value=client_credentials]")
    seen("2-facts")
    page.get_by_role("button", name="Continue").click()
    page.get_by_label("QEDm: encounters").check()
    page.get_by_label("PDQm: look people up").check()
    page.select_option("#type-0", "Location")
    page.locator("input[name=action-0][value=read]").check()
    page.get_by_role("button", name="Add another resource").click()
    page.select_option("#type-1", "Task")
    page.locator("input[name=action-1][value=search]").check()
    assert page.get_by_label("PDQm: look people up").is_checked()
    seen("3-scopes")
    page.get_by_role("button", name="Continue").click()
    page.wait_for_selector("text=What the client may do")
    assert page.get_by_role("row").count() == 5
    seen("4-review")
    page.get_by_role("button", name="Create client").click()
    page.wait_for_selector("#client-secret")
    seen("5-credentials")
    return str(page.inner_text("#client-id"))


def requested(page: Any, seen: Callable[[str], None]) -> None:
    """Request Authorization: the organization, the reason, a review, sent."""
    page.get_by_role("button", name="Request Authorization").first.click()
    page.get_by_role("searchbox").fill("riverside")
    page.wait_for_url("**q=riverside**")
    seen("6-organization")
    page.get_by_role("button", name="Choose Riverside General Hospital").click()
    page.get_by_label("Reason").fill("To plan the day of those who go home.")
    page.get_by_role("button", name="Review").click()
    page.wait_for_selector("text=Send request")
    seen("7-review")
    page.get_by_role("button", name="Send request").click()
    page.wait_for_url("**/authorizations/*")
    assert page.locator("h1 .badge").inner_text() == "Waiting for approval"
    seen("8-waiting")


def subscribed(page: Any, address: str, seen: Callable[[str], None]) -> None:
    """A subscription, tried as it is written."""
    page.goto(address)
    page.fill("#endpoint", "http://127.0.0.1:9/notifications")
    page.locator("#criteria").press_sequentially("Encounter?colour=red", delay=1)
    page.wait_for_selector("#check .note.warn")
    page.fill("#criteria", "Encounter?status=finished")
    page.wait_for_selector("#check .note.good")
    page.get_by_label("Reason").fill("To know who has left.")
    seen("9-subscribe")
    page.get_by_role("button", name="Request subscription").click()
    page.wait_for_selector("#signing-secret")
    seen("10-secret")
    page.get_by_label("I have saved the secret").check()
    page.click("text=Go to the subscription")
    page.wait_for_selector("text=Waiting for approval by Riverside General Hospital")
    page.get_by_role("button", name="Send a test").click()
    page.wait_for_selector("text=The endpoint did not accept the test")
    seen("11-subscription")


def ended(page: Any, address: str, seen: Callable[[str], None]) -> None:
    """Deleted, once DELETE is typed."""
    page.goto(address)
    page.click("summary:has-text('Delete this client')")
    page.get_by_label("Type DELETE to confirm").fill("delete")
    page.get_by_role("button", name="Delete for good").click()
    page.wait_for_selector("text=Type DELETE in capitals")
    seen("12-delete")
    page.get_by_label("Type DELETE to confirm").fill("DELETE")
    page.get_by_role("button", name="Delete for good").click()
    page.wait_for_url("**/clients")
    assert f"{NAME} is deleted." in page.inner_text("#said")
