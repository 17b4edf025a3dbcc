"""The operator's screens: each one accessible wherever it is seen, and what an operator does there."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import HEIGHTS, Installed
from tests.browser.operating import HOSTILE, Operating, operating
from tests.browser.people import PEOPLE


@pytest.fixture(scope="module")
def made(installed: Installed) -> Operating:
    return operating(installed)


SCREENS = {
    "organizations": "/organizations",
    "organization-new": "/organizations/new",
    "organization": "/organizations/of/{hospital}",
    "users": "/users",
    "user-new": "/users/new",
    "user": "/users/of/{user}",
    "resources": "/resources",
    "list": "/resources/registry/Endpoint",
    "list-none": "/resources/registry/Task?q=status%3Dcompleted",
    "resource": "/resources/registry/Endpoint/{endpoint}",
    "new": "/new/registry/AccessPolicy",
    "edit": "/edit/registry/Endpoint/{endpoint}",
    "history": "/history/registry/Endpoint/{endpoint}",
    "difference": "/version/registry/Endpoint/{endpoint}?from=1&to=3",
    "policies": "/policies",
    "decision": "/policies/decision?kind=user&who=jonas@riverside.example&organization={hospital}"
    "&type=Patient&interaction=create&method=GET",
    "queues": "/queues",
    "health": "/health",
    "packages": "/packages",
    "search-parameters": "/search-parameters",
    "search-parameter": "/search-parameters/{parameter}",
    "settings": "/settings",
    "signing-keys": "/signing-keys",
}


def test_every_screen_is_accessible_narrow_and_wide_light_and_dark(
    installed: Installed,
    made: Operating,
    opened: Callable[..., Any],
    shot: Callable[..., Path],
    assert_accessible: Callable[..., None],
) -> None:
    ids = vars(made) | installed.organizations
    page = opened("operator")
    for name, path in SCREENS.items():
        assert page.goto(installed.at("operator", path.format(**ids))).status == 200, path
        for width, mode in ((1440, "light"), (360, "dark")):
            page.set_viewport_size({"width": width, "height": HEIGHTS[width]})
            page.emulate_media(color_scheme=mode, reduced_motion="reduce")
            assert_accessible(page)
            shot(page, f"operator-{name}-{width}-{mode}")
        assert page.locator("img[src=x]").count() == 0, path


def test_an_organization_is_made_with_its_first_administrator_who_gets_in(
    installed: Installed, opened: Callable[..., Any], shot: Callable[..., Path], assert_accessible: Callable[..., None]
) -> None:
    page = opened("operator")
    page.goto(installed.at("operator", "/organizations"))
    page.get_by_role("button", name="+ CREATE NEW").click()
    page.get_by_role("radio", name="Provider organization").check()
    page.fill("#name", f"Port Ellery Clinic {HOSTILE}")
    page.fill("#email", "not-an-address@x")
    page.click("main .buttons button")
    assert "must be an e-mail address" in page.inner_text("#email-wrong")
    page.fill("#email", "first@ellery.example")
    page.fill("#person", "Mina Faroe")
    page.click("main .buttons button")
    link = page.inner_text("#link")
    assert_accessible(page)
    shot(page, "operator-link")
    page.get_by_role("button", name="I have handed it over").click()
    assert page.inner_text("h1") == f"Port Ellery Clinic {HOSTILE}"
    assert "first@ellery.example" in page.inner_text("main")

    guest = opened()
    guest.goto(link)
    for field in guest.query_selector_all("input[type=password]"):
        field.fill(PEOPLE["operator"].password)
    guest.click("button[type=submit], form button")
    guest.goto(f"{installed.url}/console/sign-in")
    guest.fill("#email", "first@ellery.example")
    guest.fill("#password", PEOPLE["operator"].password)
    guest.click("main button")
    guest.wait_for_selector("text=Hello, Mina Faroe")


def test_a_user_is_locked_out_and_let_in_again(
    installed: Installed, made: Operating, opened: Callable[..., Any]
) -> None:
    page = opened("operator")
    page.goto(installed.at("operator", f"/users/of/{made.user}"))
    page.get_by_role("button", name="Unlock").click()
    page.wait_for_selector("text=The user is unlocked.")
    page.get_by_role("button", name="Lock", exact=True).click()
    page.wait_for_selector("text=The user is locked.")
    page.get_by_role("button", name="Make a one-time link").click()

    assert "is not active" in page.inner_text("[role=alert]")


def test_a_resource_is_written_as_json_corrected_and_deleted(
    installed: Installed, opened: Callable[..., Any], shot: Callable[..., Path], assert_accessible: Callable[..., None]
) -> None:
    page = opened("operator")
    page.goto(installed.at("operator", "/resources/registry/AccessPolicy"))
    page.get_by_role("button", name="New").click()
    page.fill("#resource", "{")
    page.get_by_role("button", name="Save").click()
    assert page.locator("#resource-wrong").is_visible()
    policy = {"resourceType": "AccessPolicy", "name": "Nobody deletes", "engine": "allow", "action": ["devour"]}
    page.fill("#resource", json.dumps(policy))
    page.get_by_role("button", name="Save").click()
    assert "AccessPolicy.action" in page.inner_text(".issues")
    assert_accessible(page)
    shot(page, "operator-edit-faults")
    policy["action"] = ["delete"]
    page.fill("#resource", json.dumps(policy))
    page.get_by_role("button", name="Validate").click()
    page.wait_for_selector("text=/No faults were found/")
    page.get_by_role("button", name="Save").click()
    page.wait_for_selector("text=It is saved.")
    assert page.inner_text("h1") == "Nobody deletes"
    page.get_by_role("button", name="Delete this").or_(page.locator("summary:has-text('Delete')")).first.click()
    page.get_by_label("Type DELETE to confirm").fill("delete")
    page.locator("details[open] button.danger").click()
    assert "in capitals" in page.inner_text("#confirmed-wrong")
    page.get_by_label("Type DELETE to confirm").fill("DELETE")
    page.locator("details[open] button.danger").click()
    page.wait_for_selector("text=is deleted.")


def test_the_list_is_searched_as_fhir_and_says_what_it_does_not_know(
    installed: Installed, made: Operating, opened: Callable[..., Any]
) -> None:
    page = opened("operator")
    page.goto(installed.at("operator", "/resources/registry/Endpoint"))
    page.fill("input[name=q]", "name=third")
    page.wait_for_url("**q=name%3Dthird*")
    page.wait_for_selector(f"text={HOSTILE}")
    page.fill("input[name=q]", "colour=blue")
    page.wait_for_selector("text=colour")
    page.goto(installed.at("operator", f"/history/registry/Endpoint/{made.endpoint}"))
    page.get_by_role("link", name="2 → 3").click()

    assert page.inner_text("del:has-text('name')").strip() == '-   "name": "Second name",'
    assert HOSTILE in page.inner_text("ins:has-text('Third')")


def test_the_people_of_a_hospital_browse_their_own_base_and_an_operator_does_not(
    installed: Installed, opened: Callable[..., Any]
) -> None:
    patient = {"resourceType": "Patient", "name": [{"family": "Browsed", "given": ["Ines"]}]}
    id = installed.api("POST", "Patient", "hospital", patient, base="hospital")["id"]
    page = opened("hospital")
    page.goto(installed.at("hospital", "/resources"))
    page.get_by_role("link", name="Patient", exact=True).click()
    page.locator(f"a[href$='/{id}']").first.click()
    page.get_by_role("button", name="Edit").click()
    page.fill("#resource", page.input_value("#resource").replace("Browsed", "Edited"))
    page.get_by_role("button", name="Save").click()
    page.wait_for_selector("text=It is saved.")
    assert "Edited" in page.inner_text("pre.json")

    other = opened("operator")
    refused = other.goto(installed.at("operator", f"/resources/{installed.organizations['hospital']}/Patient"))
    assert refused.status == 403
    assert "has no role in organization" in other.inner_text("#said")


def test_a_signing_key_is_rotated_and_whoever_is_signed_in_stays_so(
    installed: Installed, opened: Callable[..., Any]
) -> None:
    page = opened("operator")
    page.goto(installed.at("operator", "/signing-keys"))
    page.get_by_role("button", name="Rotate the key").click()
    page.wait_for_selector("text=There is a new signing key.")

    assert page.locator("tbody tr").count() >= 2


def test_a_package_is_loaded_and_what_is_no_package_is_said_at_the_field(
    installed: Installed,
    opened: Callable[..., Any],
    shot: Callable[..., Path],
    assert_accessible: Callable[..., None],
    tmp_path: Path,
) -> None:
    wrong, right = tmp_path / "wrong.tgz", tmp_path / "beds.tgz"
    wrong.write_bytes(b"no package")
    beds = {"resourceType": "CodeSystem", "url": "https://ellery.example/beds", "name": HOSTILE, "status": "active"}
    guide = {
        "resourceType": "ImplementationGuide",
        "url": "https://ellery.example/guide",
        "name": "Beds",
        "fhirVersion": ["4.0.1"],
    }
    resources = (
        {**beds, "content": "complete"},
        {**guide, "status": "active", "packageId": "ellery.beds"},
        {"resourceType": "ValueSet", "url": "x"},
    )
    with tarfile.open(right, "w:gz") as archive:
        for number, resource in enumerate(resources):
            data = json.dumps(resource).encode()
            member = tarfile.TarInfo(f"package/{number}.json")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    page = opened("operator")
    page.goto(installed.at("operator", "/packages"))
    page.set_input_files("#package", wrong)
    page.get_by_role("button", name="Load the package").click()
    page.wait_for_selector("[role=alert]:has-text('not a FHIR package')")
    page.set_input_files("#package", right)
    page.get_by_role("button", name="Load the package").click()
    page.wait_for_selector("text=2 resources were loaded.")
    assert "2.json" in page.inner_text("main")
    assert page.locator("#list").get_by_role("link", name="Beds", exact=True).count() == 1
    assert_accessible(page)
    shot(page, "operator-package-loaded")


def test_colours_are_chosen_without_leaving_the_page_and_stay(
    installed: Installed, opened: Callable[..., Any], shot: Callable[..., Path], assert_accessible: Callable[..., None]
) -> None:
    page = opened("operator")
    page.goto(installed.at("operator", "/users/new"))
    page.fill("#email", "half-typed@x.example")
    light = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    page.click(".who summary")
    with page.expect_response("**/console/theme"):
        page.get_by_role("button", name="Dark", exact=True).click()
    assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") != light
    assert page.input_value("#email") == "half-typed@x.example"
    assert_accessible(page)
    shot(page, "operator-colours")
    page.goto(installed.at("operator", "/users"))
    assert page.get_attribute("html", "data-theme") == "dark"
    page.click(".who summary")
    with page.expect_response("**/console/theme"):
        page.get_by_role("button", name="System", exact=True).click()
    page.goto(installed.at("operator", "/users"))
    assert page.get_attribute("html", "data-theme") is None
    assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") == light
