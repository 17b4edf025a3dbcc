"""Search: query text to clauses, resources to index values, clauses to MongoDB filters and to an in-memory matcher.

FHIR R4: search. Pure: no I/O, no clock; `now`, the FHIR base URL and the definitions are arguments.
"""
