"""What a search parameter type is made of: how its values are indexed, written, filtered in MongoDB and matched.

FHIR R4: search#ptypes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any

from fhirserver.fhir.problem import Problem, problem

Values = list[tuple[str, Any]]
Found = dict[str, Any]
"""Index values by field, without the `s.` before it."""


@dataclass(frozen=True, slots=True)
class Context:
    """What reading a value needs to know: its parameter (as written, with modifier) and the request around it.

    base: the FHIR base URL without a slash at its end. targets: the types a reference parameter may point at.
    zone: the time zone of dates without one.
    """

    parameter: str
    modifier: str = ""
    base: str = ""
    targets: tuple[str, ...] = ()
    resource_types: frozenset[str] = frozenset()
    now: datetime = datetime(1970, 1, 1, tzinfo=UTC)
    zone: tzinfo = field(default_factory=lambda: timezone(timedelta(0)))

    def invalid(self, diagnostics: str) -> Problem:
        return problem("invalid", f"{self.parameter}: {diagnostics}", f"http.{self.parameter}")


@dataclass(frozen=True, slots=True)
class SearchType:
    """A search parameter type.

    prefixes, modifiers: those allowed in a query; `missing` is allowed on every type and not listed.
    index(name, values, found): put the index values of a parameter into found[name] and its side fields (`name:text`).
    key(values): the scalar sort keys (least, greatest) of what index put into found[name]; None where it has none.
    parse(text, context): the operand of one value, escapes still in it. Raises Problem(invalid).
    filter(path, operands, modifier): the MongoDB condition that the values at `path` match one of the operands; `path`
    is `s.<parameter>`, or the name of a component inside a composite's element.
    matches(found, name, operands, modifier): the same asked of index values in memory.
    fields(path, modifier): the fields, in order, of the index that serves such a filter.
    """

    name: str
    prefixes: tuple[str, ...]
    modifiers: tuple[str, ...]
    index: Callable[[str, Values, Found], None]
    key: Callable[[list[Any]], tuple[Any, Any] | None]
    parse: Callable[[str, Context], Any]
    filter: Callable[[str, tuple[Any, ...], str], dict[str, Any]]
    matches: Callable[[Mapping[str, Any], str, tuple[Any, ...], str], bool]
    fields: Callable[[str, str], tuple[str, ...]]
