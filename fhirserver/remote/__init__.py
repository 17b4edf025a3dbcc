"""A FHIR client for the command line: calls to this or any other FHIR server, by profile.

It shares nothing with the server and imports none of it, so that a command starts in a blink.
"""
