"""What a resource refers to."""

from __future__ import annotations

from fhirserver.fhir.references import named, texts

RESOURCE = {
    "resourceType": "Observation",
    "reference": {"reference": "Patient/deep"},
    "subject": {"reference": "Patient/1"},
    "performer": [{"reference": "https://a.example/fhir/Practitioner/2"}, {"display": "somebody"}],
    "derivedFrom": [{"reference": "Observation/3/_history/4"}],
    "contained": [{"resourceType": "Device", "owner": {"reference": "#x"}, "patient": {"reference": "urn:uuid:5"}}],
    "device": {"reference": 7},
}


def test_every_reference_is_found_as_it_is_written() -> None:
    assert sorted(texts(RESOURCE)) == [
        "#x",
        "Observation/3/_history/4",
        "Patient/1",
        "Patient/deep",
        "https://a.example/fhir/Practitioner/2",
        "urn:uuid:5",
    ]


def test_resources_are_named_by_type_and_id_whatever_the_version() -> None:
    assert sorted(named(RESOURCE)) == ["Observation/3", "Patient/1", "Patient/deep"]


def test_an_absolute_reference_names_a_resource_of_its_own_base_alone() -> None:
    assert "Practitioner/2" in set(named(RESOURCE, "https://a.example/fhir/"))
    assert "Practitioner/2" not in set(named(RESOURCE, "https://b.example/fhir/"))
