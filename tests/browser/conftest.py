"""The console in a real Chromium: one installation with an application provider, a hospital and an operator, a browser
signed in as each, pictures, and axe-core.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.browser.people import PEOPLE, Person, furnish
from tests.running import Running

playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright for Python: make setup")

ROOT = Path(__file__).resolve().parents[2]
AXE = ROOT / ".cache" / "assets" / "node_modules" / "axe-core" / "axe.min.js"
SCREENSHOTS = ROOT / "var" / "screenshots"
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
WIDTHS = (360, 1440)
HEIGHTS = {360: 780, 1440: 900}
IN_EVERY_RUN = ("test_common.py", "test_story.py")
"""What `make test` runs; each screen in all widths and colours is for `make browser` and `make test-slow`."""
HOW = "needs Chromium: apt-get install chromium"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _ours(item):
            item.add_marker(pytest.mark.browser)
            item.add_marker(pytest.mark.timeout(300))  # the first one waits for the installation and three sign-ins
            if Path(item.path).name not in IN_EVERY_RUN:
                item.add_marker(pytest.mark.slow)


def _ours(item: pytest.Item) -> bool:
    return Path(item.path).is_relative_to(Path(__file__).parent)


@dataclass
class Installed:
    """The installation: where it is, the ids of its organizations, and what asks it as whom."""

    running: Running
    organizations: dict[str, str]
    tokens: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return self.running.base_url

    def home(self, who: str) -> str:
        """The address of a role's first page."""
        return (
            f"{self.url}/console/{who}/{self.organizations[who]}"
            if who != "operator"
            else f"{self.url}/console/operator"
        )

    def at(self, who: str, path: str) -> str:
        """The address of a screen of a role: `path` is what follows the prefix of its audience."""
        return self.home(who) + path

    def api(self, method: str, path: str, who: str, body: Any = None, *, base: str = "registry") -> Any:
        """A call of the API as somebody, its JSON; `base` is the registry or `hospital`. Fails for a refusal."""
        where = "" if base == "registry" else f"/organizations/{self.organizations[base]}"
        url = f"{self.url}/1/health{where}/fhir/4/{path}"
        if who not in self.tokens:
            self.tokens[who] = self.running.cli("token", "--user", PEOPLE[who].email)
        answer = requests.request(
            method, url, json=body, headers={"Authorization": f"Bearer {self.tokens[who]}"}, timeout=30
        )
        if answer.status_code == 401:
            del self.tokens[who]
            return self.api(method, path, who, body, base=base)
        assert answer.ok, answer.text
        return answer.json() if answer.content else None


@pytest.fixture(scope="session")
def program() -> str:
    """The browser, skipped where there is none."""
    found = next((path for name in PROGRAMS if (path := shutil.which(name))), None)
    return found or pytest.skip(HOW)


ENDS = ExitStack()
"""What ends with the last of these tests, not with the session: while Playwright's event loop runs in a process, no
other can. (A fixture of the package ends with the session where the package has no `__init__`.)
"""


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    if nextitem is None or not _ours(nextitem):
        ENDS.close()


@pytest.fixture(scope="session")
def installed(program: str, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """One installation for these tests, with the people of `tests.browser.people` and their organizations."""
    running = Running(tmp_path_factory.mktemp("browser") / "data")
    ENDS.callback(running.stop)
    running.start()
    return Installed(running, furnish(running))


@pytest.fixture(scope="session")
def browser(program: str) -> Any:
    """Chromium, without a window."""
    started = ENDS.enter_context(playwright.sync_playwright())
    opened = started.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage"])
    ENDS.callback(opened.close)
    return opened


@pytest.fixture(scope="session")
def states(browser: Any, installed: Installed) -> dict[str, Any]:
    """The cookies of each role, signed in by mouse and keyboard once."""
    found = {}
    for who, person in PEOPLE.items():
        context = browser.new_context()
        sign_in(context.new_page(), installed, person)
        found[who] = context.storage_state()
        context.close()
    return found


@pytest.fixture
def opened(browser: Any, states: dict[str, Any]) -> Iterator[Callable[..., Any]]:
    """`opened("hospital", width=360, dark=True)`: a page of a browser of its own, signed in as that role ("": nobody).

    A script that fails, or that the policy of the page refuses, fails the test.
    """
    contexts, faults = [], []

    def open_(who: str = "", width: int = 1440, dark: bool = False) -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": HEIGHTS.get(width, 900)},
            color_scheme="dark" if dark else "light",
            storage_state=states[who] if who else None,
            timezone_id="Europe/Amsterdam",
            locale="en-GB",
            reduced_motion="reduce",
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda said: faults.append(said.text) if "Content Security Policy" in said.text else None)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert faults == []


@pytest.fixture
def shot() -> Callable[[Any, str], Path]:
    """`shot(page, "hospital-clients")` keeps a picture of the whole page in var/screenshots."""

    def keep(page: Any, name: str) -> Path:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        path = SCREENSHOTS / f"{name}.png"
        page.screenshot(path=str(path), full_page=True, caret="initial")  # hiding it leaves styles, which pages refuse
        return path

    return keep


@pytest.fixture(scope="session")
def assert_accessible() -> Callable[[Any], None]:
    """`assert_accessible(page)`: axe-core finds nothing serious or critical, and nothing reaches beyond the width. With
    `rules` it is asked about these alone.
    """

    def check(page: Any, *rules: str) -> None:
        assert AXE.exists(), "axe-core is not there: bash tools/assets.sh"
        if not page.evaluate("() => Boolean(window.axe)"):
            page.evaluate(AXE.read_text())
        asked = {"resultTypes": ["violations"], **({"runOnly": list(rules)} if rules else {})}
        found = page.evaluate("asked => axe.run(document, asked)", asked)
        serious = [
            f"{each['id']} ({each['impact']}): {node['target']} {node['html'][:160]}"
            for each in found["violations"]
            if each["impact"] in ("serious", "critical")
            for node in each["nodes"]
        ]
        assert serious == []
        beyond = page.evaluate("() => document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert beyond <= 0, f"the page is {beyond} px wider than the window"

    return check


@pytest.fixture
def looked(
    opened: Callable[..., Any], shot: Callable[..., Path], assert_accessible: Callable[..., None]
) -> Callable[..., None]:
    """`looked("hospital", address, "hospital-clients")`: opens the address narrow and wide, light and dark; each is
    accessible and leaves a picture.
    """

    def look(who: str, address: str, name: str, ready: str = "h1", status: int = 200) -> None:
        page = opened(who)
        assert page.goto(address).status == status
        page.wait_for_selector(ready)
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": HEIGHTS[width]})
            for mode, rules in (("light", ()), ("dark", ("color-contrast",))):
                page.emulate_media(color_scheme=mode, reduced_motion="reduce")
                assert_accessible(page, *rules)
                shot(page, f"{name}-{width}-{mode}")
        page.context.close()

    return look


def sign_in(page: Any, installed: Installed, person: Person) -> None:
    """Signs in by keyboard."""
    page.goto(f"{installed.url}/console")
    page.keyboard.type(person.email)
    page.keyboard.press("Tab")
    page.keyboard.type(person.password)
    page.keyboard.press("Enter")
    page.wait_for_url("**/console/*/**" if person.organization else "**/console/operator")
