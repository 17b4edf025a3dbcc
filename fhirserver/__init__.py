"""An exchange between application providers and provider organizations, on FHIR R4 (4.0.1)."""

__version__ = "0.1.0"
