"""The console's catalogue and tables: every text that is used is there, every text that is there is used."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fhirserver.web.console.blueprint import AREAS, SCREENS
from fhirserver.web.console.texts import Catalogue

FOLDER = Path(__file__).resolve().parents[2] / "fhirserver" / "web" / "console"
SOURCES = {path: path.read_text() for path in FOLDER.rglob("*") if path.suffix in (".py", ".html")}
NAMED = re.compile(r"""(?:\bt|\btext)\(\s*["']([\w.-]+)["']\s*[,)]|\bsaid=["']([\w.-]+)["']""")
TITLED = re.compile(r"""\bScreen\(\s*["']([\w.-]+)["']""")
QUOTED = re.compile(r"""["']([a-z]+\.[\w.-]+)(?=["'{])""")


def used() -> set[str]:
    """The keys that templates, functions and tables name."""
    named = {next(filter(None, groups)) for text in SOURCES.values() for groups in NAMED.findall(text)}
    titles = {name for text in SOURCES.values() for name in TITLED.findall(text)} | set(SCREENS)
    return named | {f"{name}.title" for name in titles} | {row.key for area in AREAS.values() for row in area.waiting}


def beginnings() -> tuple[str, ...]:
    """What keys begin with that are put together: the families of codes, and texts whose last part is added."""
    quoted = {found for text in SOURCES.values() for found in QUOTED.findall(text)} - set(SCREENS)
    return tuple(found if found[-1] in "._" else f"{found}." for found in quoted)


def test_every_text_that_is_used_is_in_the_catalogue() -> None:
    assert sorted(used() - Catalogue().keys) == []


def test_every_text_in_the_catalogue_is_used() -> None:
    named, starts = used(), beginnings()

    assert sorted(key for key in Catalogue().keys - named if not key.startswith(starts)) == []


def test_a_text_with_a_number_is_chosen_by_it() -> None:
    texts = Catalogue()

    assert texts.text("common.list.total", count=1) == "1 entry"
    assert texts.text("common.list.total", count=7) == "7 entries"


@pytest.mark.parametrize("name", SCREENS)
def test_a_screen_names_a_parent_and_methods_that_there_are(name: str) -> None:
    screen = SCREENS[name]

    assert not screen.parent or screen.parent in SCREENS
    assert set(screen.methods) <= {"GET", "POST"}
    assert not screen.nav or "<" not in screen.path


def test_two_screens_share_neither_name_nor_address() -> None:
    names = [screen.name for area in AREAS.values() for screen in area.screens]

    assert len(set(names)) == len(names)
    assert len({screen.rule for screen in SCREENS.values()}) == len(SCREENS)


def test_what_waits_leads_to_a_screen() -> None:
    assert [row.to for area in AREAS.values() for row in area.waiting if row.to not in SCREENS] == []


def test_no_template_runs_a_script_or_a_style_of_its_own_or_trusts_a_text() -> None:
    forbidden = re.compile(r"<style|\sstyle=|<script(?![^>]*\ssrc=)|\son[a-z]+=|\|\s*safe\b|hx-on|javascript:")
    pages = {path.name: text for path, text in SOURCES.items() if path.suffix == ".html"}

    assert {name: forbidden.findall(text) for name, text in pages.items() if forbidden.search(text)} == {}
