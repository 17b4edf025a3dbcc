"""The search tables of tests/cases/search: a resource, the searches that find it, those that pass it by."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import yaml

from fhirserver.fhir.definitions import Definitions
from fhirserver.search.index import indexer
from fhirserver.search.match import matches
from fhirserver.search.parse import parse

CASES = Path(__file__).parents[2] / "cases" / "search"
BASE = "http://own.example/fhir"
NOW = datetime(2020, 3, 1, tzinfo=UTC)


def _cases() -> Iterator[Any]:
    for file in sorted(CASES.glob("*.yaml")):
        for number, case in enumerate(yaml.safe_load(file.read_text("utf-8"))):
            for expected, searches in ((True, case["finds"]), (False, case["passes"])):
                for search in searches:
                    says = "finds" if expected else "passes"
                    yield pytest.param(
                        _exact(case["resource"]), search, expected, id=f"{file.stem}-{number} {says} {search}"
                    )


def _exact(value: Any) -> Any:
    """Numbers with a fraction as Decimal, as the JSON decoder gives them."""
    if isinstance(value, dict):
        return {name: _exact(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_exact(item) for item in value]
    return Decimal(repr(value)) if isinstance(value, float) else value


@pytest.mark.parametrize(("resource", "search", "expected"), list(_cases()))
def test_a_search_finds_what_the_specification_says(resource: dict[str, Any], search: str, expected: bool) -> None:
    definitions, type = Definitions.load(), resource["resourceType"]
    pairs = [tuple(map(unquote, pair.split("=", 1))) for pair in search.split("&")]
    query = parse(definitions, type, [(name, value) for name, value in pairs], base=BASE, now=NOW, strict=True)
    assert matches(query.clause, indexer(definitions, type, BASE)(resource), resource.get("id", "")) is expected
