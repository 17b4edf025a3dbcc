"""The FHIR language without I/O: resources as dicts, definitions, validation, FHIRPath, Bundle, patch, outcome."""

from typing import Any

Resource = dict[str, Any]
"""A FHIR resource as decoded by `fhirserver.fhir.json`: numbers with a fraction are `decimal.Decimal`, order is
kept.
"""
