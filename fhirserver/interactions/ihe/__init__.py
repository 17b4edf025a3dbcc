"""Where IHE profiles ask more of an interaction than FHIR does: PIXm, PDQm, MHD."""
