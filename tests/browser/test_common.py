"""Signing in, the first page of each role, signing out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.browser.conftest import Installed
from tests.browser.people import PEOPLE


def test_the_sign_in_page_is_accessible_wherever_it_is_seen(installed: Installed, looked: Callable[..., None]) -> None:
    looked("", f"{installed.url}/console", "sign-in")


@pytest.mark.parametrize("who", PEOPLE)
def test_the_first_page_of_a_role_is_accessible_wherever_it_is_seen(
    who: str, installed: Installed, looked: Callable[..., None]
) -> None:
    looked(who, f"{installed.url}/console", f"{who}-home")


@pytest.mark.parametrize(("path", "status"), [("/console/account", 200), ("/console/nothing-here", 404)])
def test_a_page_of_everybody_is_accessible_wherever_it_is_seen(
    path: str, status: int, installed: Installed, looked: Callable[..., None]
) -> None:
    looked("hospital", f"{installed.url}{path}", f"common-{path.rpartition('/')[2]}", status=status)


def test_who_is_not_signed_in_comes_to_the_page_they_wanted_after_signing_in(
    installed: Installed, opened: Callable[..., Any]
) -> None:
    page = opened()
    page.goto(f"{installed.url}/console/account")
    assert page.url.startswith(f"{installed.url}/console/sign-in")
    page.fill("#email", PEOPLE["hospital"].email)
    page.fill("#password", "wrong-password-1")
    page.click("main button")
    assert page.get_by_role("alert").inner_text() == "The e-mail address or the password is wrong."
    page.fill("#password", PEOPLE["hospital"].password)
    page.click("main button")

    assert page.url == f"{installed.url}/console/account"
    assert page.inner_text("h1") == "Your account"


def test_signing_out_ends_the_session_and_the_back_button_shows_nothing(
    installed: Installed, opened: Callable[..., Any]
) -> None:
    page = opened()
    page.goto(f"{installed.url}/console/sign-in")
    page.fill("#email", PEOPLE["application"].email)
    page.fill("#password", PEOPLE["application"].password)
    page.click("main button")
    page.wait_for_selector("text=Hello, Ada")
    page.click(".who summary")
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/console/sign-in")
    page.go_back()

    page.wait_for_selector("#password")
    assert "Ada" not in page.content()
