"""The search parameter types, one module each; `TYPES` is the table of them."""

from __future__ import annotations

from collections.abc import Mapping

from fhirserver.search.types.composite import COMPOSITE
from fhirserver.search.types.date import DATE
from fhirserver.search.types.model import Context, SearchType
from fhirserver.search.types.number import NUMBER
from fhirserver.search.types.quantity import QUANTITY
from fhirserver.search.types.reference import REFERENCE
from fhirserver.search.types.string import STRING
from fhirserver.search.types.token import TOKEN
from fhirserver.search.types.uri import URI

__all__ = ["TYPES", "Context", "SearchType"]

TYPES: Mapping[str, SearchType] = {
    type.name: type for type in (STRING, TOKEN, REFERENCE, DATE, NUMBER, QUANTITY, URI, COMPOSITE)
}
