"""An Or that holds anyway is not asked: MongoDB would look for each of its parts."""

from __future__ import annotations

import pytest

from fhirserver.search.mongo import absorbed
from fhirserver.search.query import And, Clause, Leaf, Not, Or, References

OWN = frozenset({"Organization/x"})
EITHER = Or((References("provider", OWN), References("organization", OWN)))
ASKED = Leaf("organization", "reference", (("Organization/x",),))
OTHER = Leaf("organization", "reference", (("Organization/y",),))
NAMED = Leaf("name", "string", ("a",))


@pytest.mark.parametrize(("clause", "left"), [
    (And((EITHER, ASKED)), ASKED),
    (And((ASKED, NAMED, EITHER)), And((ASKED, NAMED))),
    (And((EITHER, OTHER)), And((EITHER, OTHER))),
    (And((EITHER, Not(ASKED))), And((EITHER, Not(ASKED)))),
    (EITHER, EITHER),
    (ASKED, ASKED),
])  # fmt: skip
def test_an_or_falls_away_where_one_of_its_parts_is_asked_beside_it(clause: Clause, left: Clause) -> None:
    assert absorbed(clause) == left
