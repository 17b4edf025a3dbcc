"""HL7v2 messages: taken in, kept, acknowledged, and mapped to FHIR message Bundles by data."""
