"""The FHIR REST API without HTTP: one table of interactions, one dispatch, one function per interaction."""
