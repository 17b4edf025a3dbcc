"""HTTP: FHIR requests routed by the interactions table, OAuth endpoints, HL7v2 over HTTP. Alone in knowing Flask."""
