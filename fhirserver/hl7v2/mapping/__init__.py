"""HL7v2 to FHIR by data: `load` the maps of a folder, `to_bundle` a message with them."""

from fhirserver.hl7v2.mapping.bundle import Result, to_bundle
from fhirserver.hl7v2.mapping.load import load
from fhirserver.hl7v2.mapping.maps import Maps
from fhirserver.hl7v2.mapping.run import Context, Traced, Unmapped

__all__ = ["Context", "Maps", "Result", "Traced", "Unmapped", "load", "to_bundle"]
