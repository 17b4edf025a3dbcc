"""The provider organization's screens in a browser: each is looked at, and the work that people do there is done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import HEIGHTS, ROOT, Installed
from tests.browser.hospital import HOSTILE, Hospital, admission, stocked
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
