"""Validation of structure: the cases in tests/cases/validation, every R4 example, bounds on hostile input."""

from __future__ import annotations

import gc
import json as plain_json
import os
import weakref
from pathlib import Path
from typing import Any

import pytest

from fhirserver.fhir import json
from fhirserver.fhir.definitions import Definitions
from fhirserver.fhir.problem import Issue, status_of
from fhirserver.fhir.validation import validate

ROOT = Path(__file__).resolve().parents[3]
CASES = ROOT / "tests" / "cases" / "validation"
EXAMPLES = os.environ.get("FHIR_R4_EXAMPLES", "")


@pytest.fixture(scope="module")
def definitions() -> Definitions:
    return Definitions.load()


def cases(name: str) -> list[Any]:
    loaded = json.decode((CASES / name).read_bytes())
    table = loaded["cases"] if isinstance(loaded, dict) else loaded
    return [pytest.param(case, id=case["name"]) for case in table]


@pytest.fixture(scope="module")
def with_profiles(definitions: Definitions) -> Definitions:
    return definitions.extended(json.decode((CASES / "profiles.json").read_bytes())["definitions"], 1)


def found(issues: list[Issue]) -> list[list[str]]:
    errors = [issue for issue in issues if issue.severity == "error"]
    return sorted([issue.code, "".join(issue.expression)] for issue in errors)


@pytest.mark.parametrize("case", cases("structure.json"))
def test_structure(definitions: Definitions, case: dict[str, Any]) -> None:
    issues = validate(definitions, case["resource"])
    assert found(issues) == sorted(case.get("issues", []))


@pytest.mark.parametrize("case", cases("invariants.json"))
def test_invariants(definitions: Definitions, case: dict[str, Any]) -> None:
    assert found(validate(definitions, case["resource"])) == sorted(case.get("issues", []))


@pytest.mark.parametrize("case", cases("profiles.json"))
def test_profiles(with_profiles: Definitions, case: dict[str, Any]) -> None:
    assert found(validate(with_profiles, case["resource"])) == sorted(case.get("issues", []))


def test_profiles_can_be_left_out(with_profiles: Definitions) -> None:
    url = "http://example.org/fhir/StructureDefinition/named"
    resource = {
        "resourceType": "Patient",
        "meta": {"profile": [url]},
        "modifierExtension": [{"url": "a", "valueId": "a"}],
    }
    assert len(found(validate(with_profiles, resource))) == 3
    assert found(validate(with_profiles, resource, profiles=False)) == []


@pytest.mark.skipif(not EXAMPLES, reason="FHIR_R4_EXAMPLES names no folder with the official examples (JSON files)")
@pytest.mark.slow
def test_the_official_examples_are_valid_but_for_those_listed(definitions: Definitions) -> None:
    listed = set(plain_json.loads((CASES / "invalid_examples.json").read_text()))
    refused = set()
    for path in sorted(Path(EXAMPLES).glob("*.json")):
        resource = json.decode(path.read_bytes())
        if "resourceType" in resource and found(validate(definitions, resource)):
            refused.add(path.name)
    assert refused == listed


def test_faults_of_structure_come_first_and_give_400(definitions: Definitions) -> None:
    contained = {"resourceType": "Patient", "id": "p"}
    resource = {"resourceType": "Condition", "contained": [contained], "subject": {"reference": "Patient/p"}, "x": 1}
    issues = validate(definitions, resource)
    assert [issue.code for issue in issues if issue.severity == "error"] == ["structure", "invariant"]
    assert status_of(issues) == 400
    del resource["x"]
    assert status_of(validate(definitions, resource)) == 422


def test_a_message_says_where_and_what_to_do_without_the_value(definitions: Definitions) -> None:
    issue = validate(definitions, {"resourceType": "Patient", "birthDate": "Miller"})[0]
    assert issue.diagnostics == "Patient.birthDate must be a date: YYYY, YYYY-MM or YYYY-MM-DD"
    assert issue.expression == ("Patient.birthDate",)


def test_the_number_of_issues_is_bounded(definitions: Definitions) -> None:
    resource = {"resourceType": "Patient", "name": [{"x": 1, "given": [""] * 50} for _ in range(5_000)]}
    assert len(found(validate(definitions, resource))) == 100
    assert len(found(validate(definitions, {"resourceType": "Patient"} | {f"x{n}": 1 for n in range(5_000)}))) == 100


def test_warnings_never_crowd_out_an_error(definitions: Definitions) -> None:
    entries = [{"fullUrl": f"urn:uuid:{n}", "resource": {"resourceType": "Patient"}} for n in range(500)]
    entries[-1]["resource"] = {"resourceType": "Patient", "active": "yes"}
    issues = validate(definitions, {"resourceType": "Bundle", "type": "collection", "entry": entries})
    assert found(issues) == [["value", "Bundle.entry[499].resource.active"]]
    assert len(issues) == 101


def test_a_warning_refuses_nothing(definitions: Definitions) -> None:
    (issue,) = validate(definitions, {"resourceType": "Patient"})
    assert (issue.severity, issue.code, issue.expression) == ("warning", "invariant", ("Patient",))
    assert "dom-6" in issue.diagnostics


def test_nesting_without_end_is_refused(definitions: Definitions) -> None:
    extension: dict[str, Any] = {"url": "http://example.org/e", "valueBoolean": True}
    for _ in range(100_000):
        extension = {"url": "http://example.org/e", "extension": [extension]}
    issues = validate(definitions, {"resourceType": "Patient", "extension": [extension]})
    assert [issue.code for issue in issues] == ["structure"]


def test_many_contained_resources_are_checked_in_one_pass(definitions: Definitions) -> None:
    contained = [{"resourceType": "Patient", "id": f"p{n}"} for n in range(3_000)]
    links = [{"other": {"reference": f"#p{n}"}, "type": "seealso"} for n in range(3_000)]
    assert found(validate(definitions, {"resourceType": "Patient", "contained": contained, "link": links})) == []


def test_definitions_that_were_replaced_are_let_go(definitions: Definitions) -> None:
    extended = definitions.extended([], 1)
    validate(extended, {"resourceType": "Patient"})
    gone = weakref.ref(extended)
    del extended
    gc.collect()
    assert gone() is None


def test_a_type_added_at_run_time_is_validated_too(definitions: Definitions) -> None:
    structure = {
        "resourceType": "StructureDefinition",
        "url": "http://example.org/fhir/StructureDefinition/Widget",
        "kind": "resource",
        "abstract": False,
        "type": "Widget",
        "baseDefinition": "http://hl7.org/fhir/StructureDefinition/DomainResource",
        "derivation": "specialization",
        "differential": {
            "element": [
                {"path": "Widget"},
                {"path": "Widget.size[x]", "min": 1, "max": "1", "type": [{"code": "integer"}, {"code": "string"}]},
                {
                    "path": "Widget.owner",
                    "min": 0,
                    "max": "1",
                    "type": [
                        {
                            "code": "Reference",
                            "targetProfile": ["http://example.org/fhir/StructureDefinition/Widget"],
                        }
                    ],
                },
            ]
        },
    }
    extended = definitions.extended([structure], 1)
    right = {"resourceType": "Widget", "sizeInteger": 1, "owner": {"reference": "Widget/a"}}
    assert found(validate(extended, right)) == []
    wrong = {"resourceType": "Widget", "owner": {"reference": "Patient/a"}}
    assert found(validate(extended, wrong)) == [["required", "Widget.size"], ["value", "Widget.owner.reference"]]
    assert found(validate(definitions, wrong)) == [["structure", ""]]


def warned(issues: list[Issue]) -> list[tuple[str, str]]:
    """Issue type and place of every warning but that about narratives."""
    return [(i.code, "".join(i.expression)) for i in issues if i.severity == "warning" and "dom-6" not in i.diagnostics]


def test_a_profile_that_is_not_known_is_a_warning(definitions: Definitions) -> None:
    base = "http://hl7.org/fhir/StructureDefinition"
    claims = [f"{base}/Patient", f"{base}/Patient|4.0.1", "http://example.org/none", "http://example.org/none|2"]
    issues = validate(definitions, {"resourceType": "Patient", "meta": {"profile": claims}})
    assert warned(issues) == [("not-found", "Patient.meta.profile")] * 2
    assert "http://example.org/none is not known here" in " ".join(issue.diagnostics for issue in issues)


@pytest.mark.parametrize(
    ("url", "resource", "place"),
    [
        ("patient-birthPlace", {"resourceType": "Patient"}, ""),
        ("patient-birthPlace", {"resourceType": "Group", "type": "person", "actual": False}, "Group.extension[0]"),
        ("iso21090-ADXP-streetName", {"resourceType": "Patient"}, "Patient.extension[0]"),
        ("data-absent-reason", {"resourceType": "Patient"}, ""),
    ],
)
def test_an_extension_where_its_definition_does_not_have_it_is_a_warning(
    definitions: Definitions, url: str, resource: dict[str, Any], place: str
) -> None:
    url = f"http://hl7.org/fhir/StructureDefinition/{url}"
    values = {"birthPlace": {"valueAddress": {"city": "A"}}, "streetName": {"valueString": "A"}}
    value = values.get(url.rpartition("-")[2], {"valueCode": "unknown"})
    issues = validate(definitions, {**resource, "extension": [{"url": url, **value}]})
    assert found(issues) == []
    assert warned(issues) == ([("extension", place)] if place else [])


def test_an_extension_on_an_element_is_held_against_the_type_of_the_element(definitions: Definitions) -> None:
    url = "http://hl7.org/fhir/StructureDefinition/humanname-assembly-order"
    good = {"resourceType": "Patient", "name": [{"family": "A", "extension": [{"url": url, "valueCode": "F"}]}]}
    bad = {"resourceType": "Patient", "address": [{"city": "A", "extension": [{"url": url, "valueCode": "F"}]}]}
    assert warned(validate(definitions, good)) == []
    assert warned(validate(definitions, bad)) == [("extension", "Patient.address[0].extension[0]")]
