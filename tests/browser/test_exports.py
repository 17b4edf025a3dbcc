"""Exports in a browser: a hospital looks at what is taken out and ends it, a provider reads how to fetch the files."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.browser.conftest import HEIGHTS, Installed
from tests.browser.hospital import HOSTILE, Hospital
from tests.running import wait_until


@dataclass
class Exported:
    """The id of an export in each state, and the client that asked for them."""

    installed: Installed
    client: str
    authorization: str
    token: str = ""
    done: str = ""
    ended: str = ""
    failed: str = ""

    def begin(self, path: str) -> str:
        """Asks for an export: its id."""
        headers = {"Authorization": f"Bearer {self.token}", "Prefer": "respond-async"}
        answer = requests.get(f"{self.base}/{path}", headers=headers, timeout=30)
        assert answer.status_code == 202, answer.text
        return answer.headers["Content-Location"].rpartition("/")[2]

    def status(self, id: str) -> str:
        return str(self.installed.api("GET", f"BulkExport/{id}", "hospital", base="hospital")["status"])

    @property
    def base(self) -> str:
        return f"{self.installed.url}/1/health/organizations/{self.installed.organizations['hospital']}/fhir/4"


@contextmanager
def paused(installed: Installed) -> Iterator[None]:
    """Nothing is done in the background meanwhile."""
    workers = [pid for name, pid in installed.running.children().items() if name.startswith("worker")]
    assert workers
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGCONT)


@pytest.fixture(scope="module")
def exported(installed: Installed, states: dict[str, Any]) -> Exported:
    """Three patients, a cohort of two, and an export in each state."""
    for name in ("ann", "bob", "cem"):
        installed.api(
            "PUT", f"Patient/{name}", "hospital", {"resourceType": "Patient", "id": name}, base="hospital"
        )  # fmt: skip
    members = [{"entity": {"reference": f"Patient/{name}"}} for name in ("ann", "bob")]
    group = {"resourceType": "Group", "id": "cohort", "type": "person", "actual": True, "name": "Diabetes cohort"}
    installed.api("PUT", "Group/cohort", "hospital", {**group, "member": members}, base="hospital")
    hospital = Hospital(installed)
    body = {
        "resourceType": "ClientApplication",
        "name": f"Research warehouse {HOSTILE}",
        "kind": "production",
        "grantType": ["client_credentials"],
        "scope": "system/Patient.rs system/Group.rs system/Observation.rs system/Encounter.rs",
    }
    client = installed.api("POST", "ClientApplication", "application", body)
    hospital.clients["Warehouse"] = client["id"]
    hospital.request("Warehouse", "A study of diabetes.")
    hospital.step("Warehouse", "approve")
    made = Exported(installed, client["id"], hospital.authorizations["Warehouse"])
    form = {"grant_type": "client_credentials", "client_id": client["id"], "client_secret": client["secret"]}
    made.token = requests.post(f"{installed.url}/oauth2/token", data=form, timeout=30).json()["access_token"]
    made.done = made.begin("Group/cohort/$export?_type=Patient,Observation")
    made.ended = made.begin("$export?_type=Patient")
    wait_until(lambda: {made.status(made.done), made.status(made.ended)} == {"completed"}, timeout=120)
    installed.api("POST", f"BulkExport/{made.ended}/$cancel", "hospital", base="hospital")
    with paused(installed):
        made.failed = made.begin("Patient/$export")
        hospital.step("Warehouse", "disable", "For a moment.")
    wait_until(lambda: made.status(made.failed) == "failed", timeout=120)
    hospital.step("Warehouse", "enable", "Go on.")
    return made


def test_every_screen_of_exports_is_accessible_narrow_and_wide_light_and_dark(
    exported: Exported,
    installed: Installed,
    opened: Callable[..., Any],
    shot: Callable[[Any, str], Path],
    assert_accessible: Callable[..., None],
) -> None:
    at = f"/exports/{installed.organizations['hospital']}"
    with paused(installed):
        going = exported.begin("Patient/$export?_type=Patient,Observation")
        paths = {
            "hospital": {
                "home": "",
                "exports": "/exports",
                "export-going": f"/exports/{going}",
                "export-done": f"/exports/{exported.done}",
                "export-failed": f"/exports/{exported.failed}",
                "export-ended": f"/exports/{exported.ended}",
                "client-exports": f"/clients/{exported.authorization}",
            },
            "application": {
                "exports": at,
                "export-going": f"{at}/{going}",
                "export-done": f"{at}/{exported.done}",
                "export-failed": f"{at}/{exported.failed}",
            },
        }
        for who, screens in paths.items():
            page = opened(who)
            for name, path in screens.items():
                assert page.goto(installed.at(who, path)).status == 200, path
                for width, mode in ((1440, "light"), (360, "dark")):
                    page.set_viewport_size({"width": width, "height": HEIGHTS[width]})
                    page.emulate_media(color_scheme=mode, reduced_motion="reduce")
                    assert_accessible(page)
                    shot(page, f"{who}-{name}-{width}-{mode}")
                assert page.locator("img[src=x]").count() == 0, path


def test_a_hospital_finds_what_is_under_way_on_its_first_page_and_ends_it(
    exported: Exported, installed: Installed, opened: Callable[..., Any]
) -> None:
    page = opened("hospital")
    with paused(installed):
        going = exported.begin("Patient/$export?_type=Patient")
        page.goto(installed.at("hospital", ""))
        page.get_by_role("link", name="Exports under way").click()
        page.locator(f'a[href$="/exports/{going}"]').click()
        page.wait_for_selector("text=0 of 1 steps")
        page.get_by_role("button", name="End export").click()
        page.wait_for_selector("text=The export is ended")
        assert page.get_by_role("button", name="End export").count() == 0
    assert exported.status(going) == "cancelled"


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_a_provider_sees_its_export_come_to_its_end_without_loading_the_page_anew_and_fetches_it(
    exported: Exported, installed: Installed, opened: Callable[..., Any], tmp_path: Path
) -> None:
    page = opened("application", width=360)
    with paused(installed):
        going = exported.begin("Patient/$export?_type=Patient")
        page.goto(installed.at("application", "/exports"))
        page.locator(f'a[href$="/{going}"]').click()
        page.wait_for_selector("progress")
    page.wait_for_selector("text=Fetch the files", timeout=120_000)
    line = page.locator("#fetch").inner_text()
    fetched = subprocess.run(
        ["/bin/sh", "-c", line], env={"TOKEN": exported.token, "PATH": os.environ["PATH"]}, cwd=tmp_path, check=False
    )
    assert fetched.returncode == 0
    assert (tmp_path / "export-0.ndjson").read_text().count('"resourceType":"Patient"') >= 3
