"""FHIRPath Patch: every operation on single elements, lists, choices and primitives with extensions; its refusals."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from fhirserver.fhir.definitions import Definitions
from fhirserver.fhir.patch import apply
from fhirserver.fhir.problem import Problem

DEFINITIONS = Definitions.load()
PATIENT: dict[str, Any] = {
    "resourceType": "Patient",
    "id": "1",
    "active": True,
    "identifier": [{"system": "urn:a", "value": "1"}, {"system": "urn:b", "value": "2"}, {"system": "urn:c"}],
    "name": [
        {"use": "official", "family": "Adler", "given": ["Ida", "Eva"], "_given": [None, {"id": "second"}]},
        {"use": "nickname", "given": ["Idi"]},
    ],
    "birthDate": "1980-02-01",
    "contact": [{"gender": "female"}],
}


def operation(type: str, path: str, **parts: Any) -> dict[str, Any]:
    """An operation; a part given as a dict is its value[x], another value is a string, code or integer."""
    made: list[dict[str, Any]] = [{"name": "type", "valueCode": type}, {"name": "path", "valueString": path}]
    for name, value in parts.items():
        if isinstance(value, dict):
            made.append({"name": name, **value})
        else:
            made.append({"name": name, "valueInteger" if isinstance(value, int) else "valueString": value})
    return {"name": "operation", "part": made}


def patched(*operations: dict[str, Any], resource: dict[str, Any] = PATIENT) -> dict[str, Any]:
    before = deepcopy(resource)
    after = apply(DEFINITIONS, resource, {"resourceType": "Parameters", "parameter": list(operations)})
    assert resource == before, "the input was changed"
    return after


def refused(*operations: Any, resource: dict[str, Any] = PATIENT) -> Problem:
    with pytest.raises(Problem) as caught:
        patched(*operations, resource=resource)
    return caught.value


def test_add_sets_a_single_element() -> None:
    assert patched(operation("add", "Patient", name="gender", value={"valueCode": "female"}))["gender"] == "female"


def test_add_appends_to_a_list() -> None:
    after = patched(operation("add", "Patient", name="name", value={"valueHumanName": {"family": "B"}}))
    assert [name.get("family") for name in after["name"]] == ["Adler", None, "B"]


def test_add_makes_a_list_of_the_first_item() -> None:
    contact = {"valueContactPoint": {"system": "phone", "value": "1"}}
    assert patched(operation("add", "Patient", name="telecom", value=contact))["telecom"] == [
        {"system": "phone", "value": "1"}
    ]


def test_add_of_a_choice_takes_the_name_from_the_type_of_the_value() -> None:
    assert (
        patched(operation("add", "Patient", name="deceased", value={"valueBoolean": True}))["deceasedBoolean"] is True
    )


def test_add_of_a_choice_type_that_the_element_does_not_take_is_refused() -> None:
    error = refused(operation("add", "Patient", name="deceased", value={"valueCode": "yes"}))
    assert error.issues[0].code == "processing"
    assert "deceasedBoolean, deceasedDateTime" in error.issues[0].diagnostics


def test_add_to_a_single_element_that_is_there_is_refused() -> None:
    assert refused(operation("add", "Patient", name="active", value={"valueBoolean": False})).status == 422


def test_add_of_another_type_of_a_choice_that_is_there_is_refused() -> None:
    resource = {**PATIENT, "deceasedBoolean": True}
    refused(operation("add", "Patient", name="deceased", value={"valueDateTime": "2020"}), resource=resource)


def test_add_of_a_value_in_parts_builds_a_backbone_element_with_its_lists_and_choices() -> None:
    parts = [
        {"name": "name", "valueHumanName": {"text": "a name"}},
        {"name": "telecom", "valueContactPoint": {"value": "1"}},
        {"name": "telecom", "valueContactPoint": {"value": "2"}},
        {"name": "period", "part": [{"name": "start", "valueDateTime": "2020"}]},
    ]
    after = patched(operation("add", "Patient", name="contact", value={"part": parts}))
    assert after["contact"][1] == {
        "name": {"text": "a name"},
        "telecom": [{"value": "1"}, {"value": "2"}],
        "period": {"start": "2020"},
    }


def test_a_choice_inside_a_value_in_parts_gets_its_typed_name() -> None:
    parts = [{"name": "code", "valueCodeableConcept": {"text": "x"}}, {"name": "value", "valueString": "high"}]
    observation = {"resourceType": "Observation", "status": "final", "code": {"text": "y"}}
    after = patched(operation("add", "Observation", name="component", value={"part": parts}), resource=observation)
    assert after["component"] == [{"code": {"text": "x"}, "valueString": "high"}]


def test_add_of_an_extension_to_a_primitive_makes_its_sibling() -> None:
    extension = {"valueExtension": {"url": "urn:x", "valueCode": "a"}}
    after = patched(operation("add", "Patient.birthDate", name="extension", value=extension))
    assert after["birthDate"] == "1980-02-01"
    assert after["_birthDate"] == {"extension": [{"url": "urn:x", "valueCode": "a"}]}


def test_insert_puts_an_item_before_the_index() -> None:
    after = patched(operation("insert", "Patient.identifier", index=1, value={"valueIdentifier": {"system": "urn:n"}}))
    assert [each["system"] for each in after["identifier"]] == ["urn:a", "urn:n", "urn:b", "urn:c"]


def test_insert_at_the_end_appends() -> None:
    after = patched(operation("insert", "Patient.identifier", index=3, value={"valueIdentifier": {"system": "urn:n"}}))
    assert after["identifier"][3] == {"system": "urn:n"}


def test_insert_keeps_siblings_of_primitives_beside_their_values() -> None:
    after = patched(operation("insert", "Patient.name[0].given", index=0, value={"valueString": "Ada"}))
    assert after["name"][0]["given"] == ["Ada", "Ida", "Eva"]
    assert after["name"][0]["_given"] == [None, None, {"id": "second"}]


@pytest.mark.parametrize("index", [-1, 4])
def test_insert_outside_the_list_is_refused(index: int) -> None:
    refused(operation("insert", "Patient.identifier", index=index, value={"valueIdentifier": {"system": "urn:n"}}))


def test_insert_into_nothing_or_several_lists_is_refused() -> None:
    value = {"valueString": "x"}
    assert "selects nothing" in str(refused(operation("insert", "Patient.photo", index=0, value=value)))
    assert "one list" in str(refused(operation("insert", "Patient.name.given", index=0, value=value)))


def test_delete_takes_an_element_out() -> None:
    assert "birthDate" not in patched(operation("delete", "Patient.birthDate"))


def test_delete_takes_one_item_out_of_a_list() -> None:
    after = patched(operation("delete", "Patient.identifier[1]"))
    assert [each["system"] for each in after["identifier"]] == ["urn:a", "urn:c"]


def test_delete_of_the_last_child_takes_the_empty_parent_out_too() -> None:
    assert "contact" not in patched(operation("delete", "Patient.contact[0].gender"))


def test_delete_of_an_extension_takes_the_empty_sibling_of_the_primitive_out() -> None:
    resource = {**PATIENT, "_birthDate": {"extension": [{"url": "urn:x", "valueCode": "a"}]}}
    after = patched(operation("delete", "Patient.birthDate.extension('urn:x')"), resource=resource)
    assert after == PATIENT


def test_delete_of_nothing_changes_nothing() -> None:
    assert patched(operation("delete", "Patient.maritalStatus")) == PATIENT


def test_delete_of_several_elements_is_refused() -> None:
    assert refused(operation("delete", "Patient.identifier")).issues[0].code == "processing"


def test_delete_of_the_resource_is_refused() -> None:
    refused(operation("delete", "Patient"))


def test_replace_of_a_primitive() -> None:
    after = patched(operation("replace", "Patient.birthDate", value={"valueDate": "1981"}))
    assert after["birthDate"] == "1981"
    assert list(after) == list(PATIENT), "the order of properties is kept"


def test_replace_of_a_list_item_found_by_where() -> None:
    path = "Patient.name.where(use = 'nickname' and family.exists().not()).given.first()"
    assert patched(operation("replace", path, value={"valueString": "I"}))["name"][1]["given"] == ["I"]


def test_replace_of_a_choice_by_another_type_renames_it() -> None:
    resource = {**PATIENT, "deceasedBoolean": True}
    after = patched(operation("replace", "Patient.deceased", value={"valueDateTime": "2020"}), resource=resource)
    assert after["deceasedDateTime"] == "2020"
    assert "deceasedBoolean" not in after


def test_replace_of_a_primitive_drops_the_extensions_of_the_old_value() -> None:
    after = patched(operation("replace", "Patient.name[0].given[1]", value={"valueString": "Eve"}))
    assert after["name"][0] == {"use": "official", "family": "Adler", "given": ["Ida", "Eve"]}


@pytest.mark.parametrize("path", ["Patient.gender", "Patient.name", "Patient"])
def test_replace_of_nothing_of_several_and_of_the_resource_is_refused(path: str) -> None:
    assert refused(operation("replace", path, value={"valueCode": "x"})).issues[0].code == "processing"


@pytest.mark.parametrize(
    ("source", "destination", "order"), [(2, 0, "cab"), (0, 2, "bca"), (1, 1, "abc"), (0, 1, "bac")]
)
def test_move_changes_the_order(source: int, destination: int, order: str) -> None:
    after = patched(operation("move", "Patient.identifier", source=source, destination=destination))
    assert "".join(each["system"][-1] for each in after["identifier"]) == order


def test_move_takes_the_sibling_of_a_primitive_along() -> None:
    after = patched(operation("move", "Patient.name[0].given", source=1, destination=0))
    assert after["name"][0]["given"] == ["Eva", "Ida"]
    assert after["name"][0]["_given"] == [{"id": "second"}, None]


@pytest.mark.parametrize(("source", "destination"), [(3, 0), (0, 3), (-1, 0)])
def test_move_outside_the_list_is_refused(source: int, destination: int) -> None:
    refused(operation("move", "Patient.identifier", source=source, destination=destination))


def test_operations_see_what_earlier_ones_did() -> None:
    after = patched(
        operation("add", "Patient", name="contact", value={"part": [{"name": "gender", "valueCode": "male"}]}),
        operation("add", "Patient.contact[1]", name="name", value={"valueHumanName": {"text": "N"}}),
    )
    assert after["contact"][1] == {"gender": "male", "name": {"text": "N"}}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("name.last().given", "Idi"),
        ("Patient.name.where(given = 'Idi').given", "Idi"),
        ("Patient.name.where(use = 'x' or use = 'nickname').given[0]", "Idi"),
        ("Patient.name.where(family.empty()).given.single()", "Idi"),
        ("Patient.name.where(given.exists($this.startsWith('Id')) and family.exists().not()).given", "Idi"),
        ("Patient.name.where(use.contains('ick')).given", "Idi"),
        ("DomainResource.name[1].given", "Idi"),
    ],
)
def test_paths(path: str, expected: str) -> None:
    after = patched(operation("replace", path, value={"valueString": "replaced"}))
    assert expected in PATIENT["name"][1]["given"]
    assert after["name"][1]["given"] == ["replaced"]


@pytest.mark.parametrize("path", ["Observation.value.ofType(Quantity).value", "(Observation.value as Quantity).value"])
def test_a_choice_is_selected_by_type(path: str) -> None:
    resource = {"resourceType": "Observation", "valueQuantity": {"value": 1}}
    assert patched(operation("replace", path, value={"valueDecimal": 2}), resource=resource)["valueQuantity"] == {
        "value": 2
    }


def test_contained_resources_are_patched_by_their_own_type() -> None:
    resource = {**PATIENT, "contained": [{"resourceType": "Organization", "id": "o", "name": "A"}]}
    after = patched(operation("replace", "Patient.contained[0].name", value={"valueString": "B"}), resource=resource)
    assert after["contained"][0]["name"] == "B"


MALFORMED: list[Any] = [
    "text",
    {"name": "other", "part": []},
    {"name": "operation"},
    {"name": "operation", "part": ["x"]},
    {"name": "operation", "part": [{"name": "type", "valueCode": "delete"}]},
    {"name": "operation", "part": [{"name": "type", "valueCode": "delete"}, {"name": "path", "valueInteger": 1}]},
    operation("rename", "Patient.name"),
    operation("delete", "Patient.name", surprise="x"),
    operation("delete", "Patient.("),
    operation("delete", "Patient.name[use]"),
    operation("delete", "Patient.name.resolve()"),
    operation("delete", "Patient.name.where(use + 'a')"),
    operation("add", "Patient", name="gender"),
    operation("add", "Patient", value={"valueCode": "male"}),
    operation("add", "Patient", name="gender", value={"valueCode": "male", "valueString": "x"}),
    operation("add", "Patient", name="gender", value={"valueNothing": "male"}),
    operation("add", "Patient", name="contact", value={"part": []}),
    operation("move", "Patient.name", source=0),
    operation("insert", "Patient.name", value={"valueHumanName": {}}),
    operation("insert", "Patient.name", index=True, value={"valueHumanName": {}}),
]


@pytest.mark.parametrize("broken", MALFORMED)
def test_a_malformed_operation_is_invalid_and_named(broken: Any) -> None:
    error = refused(operation("delete", "Patient.active"), broken)
    assert error.issues[0].code == "invalid"
    assert error.issues[0].expression == ("Parameters.parameter[1]",)
    assert "Operation 1: " in error.issues[0].diagnostics


def test_an_element_that_the_type_does_not_have_does_not_apply() -> None:
    assert "no element gnder" in str(refused(operation("add", "Patient", name="gnder", value={"valueCode": "x"})))


@pytest.mark.parametrize(
    "parameters", [{}, {"resourceType": "Parameters"}, {"resourceType": "Patient", "parameter": []}]
)
def test_what_is_no_parameters_resource_is_invalid(parameters: dict[str, Any]) -> None:
    with pytest.raises(Problem, match="Parameters"):
        apply(DEFINITIONS, PATIENT, parameters)


def test_too_many_operations_are_refused() -> None:
    assert refused(*[operation("delete", "Patient.photo")] * 1_001).status == 413


def test_a_long_path_is_refused() -> None:
    assert refused(operation("delete", "Patient" + ".name" * 300)).issues[0].code == "too-long"


def test_a_patch_that_makes_the_resource_too_large_is_refused() -> None:
    value = {"valueHumanName": {"text": "x" * 1_000_000}}
    add = operation("add", "Patient", name="name", value=value)
    assert refused(*[add] * 17).issues[0].code == "too-long"


def test_paths_that_look_at_too_much_are_refused() -> None:
    resource = {**PATIENT, "identifier": [{"system": "urn:a"}] * 20_000}
    search = operation("delete", "Patient.identifier.where(system = 'urn:x')")
    assert refused(*[search] * 100, resource=resource).issues[0].code == "too-costly"


@pytest.mark.parametrize("deep", ["part", "json", "path"])
def test_deep_nesting_is_refused(deep: str) -> None:
    if deep == "part":
        value: dict[str, Any] = {"valueString": "x"}
        for _ in range(200):
            value = {"part": [{"name": "extension", **value}]}
        error = refused(operation("add", "Patient", name="extension", value=value))
    elif deep == "json":
        nested: dict[str, Any] = {}
        for _ in range(900):
            nested = {"extension": [nested]}
        parameter = operation("add", "Patient", name="name", value={"valueHumanName": nested})
        with pytest.raises(Problem) as caught:
            apply(DEFINITIONS, PATIENT, {"resourceType": "Parameters", "parameter": [parameter]})
        error = caught.value
    else:
        error = refused(operation("delete", "Patient.name" + ".where(given" * 70 + ")" * 70))
    assert error.issues[0].code in ("invalid", "structure", "too-costly")
