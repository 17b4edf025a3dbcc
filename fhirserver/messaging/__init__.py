"""What a message does to the store: resources matched, made and updated, patients merged. FHIR R4: messaging."""
