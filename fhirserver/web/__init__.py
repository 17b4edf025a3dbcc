"""HTTP: FHIR routes made from the interactions table, OAuth endpoints, HL7v2 over HTTP. The only room that knows
Flask.
"""
