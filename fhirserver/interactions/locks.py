"""The locks of whoever makes a resource unless it is there: conditional interactions and messages.

Both look for what is stored, and create where nothing is. Two that may mean the same resource touch the same lock
document in their transactions, so that the second is run again by the database and finds what the first has made. An
identifier's lock is named by its value alone, as criteria may leave out the system; other criteria are named as they
are written.
"""

from __future__ import annotations

from collections.abc import Iterable

from fhirserver.interactions.model import Pairs
from fhirserver.search.text import split
from fhirserver.search.types import token
from fhirserver.search.types.model import Context

Lock = tuple[str, str]
"""The type and the name of a lock of one organization, as `store.locks` takes them."""
IDENTIFIER = "identifier"
MOST_IDENTIFIERS = 20
"""Identifiers of one criterion that have a lock each; a longer list is a criterion like others."""


def of_tokens(type: str, tokens: Iterable[str]) -> list[Lock]:
    """The locks of identifiers of a type, as `search.types.token` stores them."""
    values = {text.rpartition("|")[2] for text in tokens}
    return [(type, f"{IDENTIFIER} {value}") for value in sorted(values) if value]


def of_criteria(type: str, criteria: Pairs) -> list[Lock]:
    """The locks of search criteria that have been found valid; the same criteria in another order have the same."""
    texts = [text for name, value in criteria if name == IDENTIFIER for text in split(value, ",")]
    if len(texts) <= MOST_IDENTIFIERS:
        found = of_tokens(type, (token.parse(text, Context(IDENTIFIER)) for text in texts))
        if found:
            return found
    return [(type, "&".join(f"{name}={value}" for name, value in sorted(criteria)))]
