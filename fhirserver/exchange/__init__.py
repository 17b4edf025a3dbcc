"""What an exchange is beside a FHIR server: operations of its own types, sandboxes, what the end of a client ends."""
