"""The macros of `ui.html` on one page, as a person sees them: nothing in them needs a screen that exists."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from werkzeug.datastructures import MultiDict

from fhirserver.fhir.problem import problem
from fhirserver.web.console.blueprint import address
from fhirserver.web.console.here import Crumb, Here, Place
from fhirserver.web.console.listing import Filter, Listing
from fhirserver.web.console.pages import Pages
from fhirserver.web.console.texts import Catalogue
from tests.browser.conftest import WIDTHS, Installed

PLACE = Place("1", "Riverside General Hospital", "hospital", "admin")
OTHER = Place("2", "A Very Long Named Foundation for Health and Care", "hospital", "admin")


def specimen() -> str:
    """The page, a form of which was refused."""
    pages = Pages(Catalogue(), address)
    refused = problem("value", "A client of this name is there already: choose another.", "ClientApplication.name")
    here = SimpleNamespace(
        refused=refused,
        told=("good", "The client is enabled."),
        user={"id": "u"},
        principal=SimpleNamespace(name="Jonas Lindqvist", operator=True),
        places=(PLACE, OTHER),
        place=PLACE,
        organization="1",
        csrf="token",
        posted=True,
        form=MultiDict({"name": "Results", "description": "</textarea><script>"}),
        menu=[Crumb("Home", "/h"), Crumb("Clients", "/a"), Crumb("Messages", "/m")],
        trail=[Crumb("Home", "/h"), Crumb("Clients", "/a"), Crumb("Results viewer", "/a/1")],
    )
    here.fault = lambda *names: Here.fault(here, *names)  # type: ignore[arg-type]
    rows = [
        {"name": name, "status": status}
        for name, status in (
            ("Results viewer", "approved"),
            ("Bed planner", "waiting-for-approval"),
            ("Fax", "disabled"),
        )
    ]
    choice = Filter("status", "status", ("approved", "disabled"), "common.status")
    found = Listing(
        "/a", rows, total=42, find="r", searchable=True, chosen={"status": "approved"}, after="x", before="y"
    )
    values = {
        "title": "Results viewer",
        "here": here,
        "found": replace(found, filters=(choice,)),
        "none_found": Listing("/a"),
        "times": [f"2026-11-{day:02}T00:00:00Z" for day in range(14, 21)],
    }
    template = pages.environment.from_string((Path(__file__).parent / "specimen.html").read_text())
    return template.render(values)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_parts_of_pages_are_accessible_and_work(
    width: int,
    installed: Installed,
    opened: Callable[..., Any],
    shot: Callable[..., Path],
    assert_accessible: Callable[..., None],
) -> None:
    page = opened("hospital", width)
    html = specimen()
    page.route("**/console/specimen", lambda route: route.fulfill(body=html, content_type="text/html; charset=utf-8"))
    page.goto(f"{installed.url}/console/specimen")
    page.wait_for_selector("#chart canvas")
    for mode in ("light", "dark"):
        page.emulate_media(color_scheme=mode, reduced_motion="reduce")
        assert_accessible(page)
        shot(page, f"parts-{width}-{mode}")

    assert "1 Feb 2026" in page.inner_text("time >> nth=0")  # half past eleven in the evening, in a zone to the east
    assert page.evaluate("() => document.activeElement.getAttribute('role')") == "alert"
    page.click("summary:has-text('Delete this client')")
    assert page.get_by_label("Type DELETE to confirm").is_visible()
    assert_accessible(page)
