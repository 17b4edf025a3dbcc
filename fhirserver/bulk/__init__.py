"""Bulk Data Access: an export is asked for, done by a job, and fetched as files of NDJSON. FHIR Bulk Data Access 2.0.

`asked` reads a kick-off, `operations` are what a caller may ask of an export, `work` does it, `gather` finds what is in
it, `record` writes the resource that people see of it.
"""
