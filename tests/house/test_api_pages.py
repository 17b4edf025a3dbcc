"""Every interaction has its page with a runnable example, its tests, and every operation of ours its definition."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fhirserver.app import OPERATIONS
from fhirserver.fhir.json import decode
from fhirserver.interactions.table import INTERACTIONS
from fhirserver.rules.model import CANONICAL
from tools import search_page

ROOT = Path(__file__).resolve().parents[2]
CODES = sorted({row.code for row in INTERACTIONS})
OURS = [row for row in OPERATIONS if row.definition.startswith(CANONICAL)]


@pytest.mark.parametrize("code", CODES)
def test_every_interaction_has_a_page_with_an_example_and_what_is_not_supported(code: str) -> None:
    text = (ROOT / "docs" / "api" / f"{code}.md").read_text()
    assert text.startswith(f"# {code}\n")
    assert "```sh\n" in text
    assert "\n## Not supported\n" in text


@pytest.mark.parametrize("code", CODES)
def test_every_interaction_has_its_tests(code: str) -> None:
    assert (ROOT / "tests" / "api" / f"test_{code.replace('-', '_')}.py").is_file()


def test_the_search_page_says_what_the_tables_say() -> None:
    assert search_page.PAGE.read_text() == search_page.page(), "run: python tools/search_page.py"


def test_the_links_between_the_pages_lead_somewhere() -> None:
    for page in sorted((ROOT / "docs" / "api").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+\.md)\)", page.read_text()):
            assert (page.parent / target).is_file(), f"{page.name}: {target}"


@pytest.mark.parametrize("row", OURS, ids=lambda row: row.definition.rpartition("/")[2])
def test_every_operation_of_ours_has_its_definition(row: object) -> None:
    from fhirserver.interactions.model import OperationRow

    assert isinstance(row, OperationRow)
    name = row.definition.rpartition("/")[2]
    definition = decode((ROOT / "profiles" / f"OperationDefinition-{name}.json").read_bytes())
    assert definition["url"] == row.definition
    assert definition["code"] == row.name
    assert tuple(definition.get("resource", ())) == row.types
    assert definition["affectsState"] is row.affects_state
    assert {level for level in ("system", "type", "instance") if definition[level]} == set(row.levels)


def test_every_operation_is_on_the_page() -> None:
    text = (ROOT / "docs" / "api" / "operation.md").read_text()
    assert [row.name for row in OPERATIONS if f"`${row.name}`" not in text] == []
