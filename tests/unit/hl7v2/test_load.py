"""Loading maps: one fault anywhere, and it is named precisely and none are taken."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fhirserver.fhir.problem import Problem
from fhirserver.hl7v2.mapping import load
from tests.unit.hl7v2.maps import ROOT, definitions, maps


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(ROOT / "mappings", tmp_path / "mappings"))


@pytest.fixture
def faults(folder: Path) -> Callable[[str], list[str]]:
    """What loading says when this rule stands in a segment map of PID."""

    def said(rule: str) -> list[str]:
        text = f"map: PID.Test\nsegment: PID\ntype: Patient\nrules:\n  - {{id: x, {rule}}}\n"
        (folder / "segments" / "test.yaml").write_text(text)
        with pytest.raises(Problem) as caught:
            load(folder, definitions())
        return [issue.diagnostics for issue in caught.value.issues]

    return said


@pytest.mark.parametrize(
    ("rule", "fault"),
    [
        ("from: PID-41, to: birthDate", "PID-41 does not exist in any version of HL7v2"),
        ("from: PID-8.40, to: birthDate", "PID-8.40 reads component 40 of CWE, which has 22"),
        ("from: PID-7.2, to: birthDate", "PID-7.2 reads a component of DTM, which has none"),
        ("from: PDI-7, to: birthDate", "PDI-7 does not exist in any version of HL7v2"),
        (
            "from: PID3, to: birthDate",
            "`PID3` is no v2 path: write SEG-field.component.subcomponent, ^.component or a variable",
        ),
        ("from: PID-7, to: birthday", "`birthday`: Patient has no element birthday"),
        ("from: PID-7, to: name.famly", "`name.famly`: HumanName has no element famly"),
        ("from: PID-7, to: birthDate+", "`birthDate+`: Patient.birthDate does not repeat"),
        ("from: PID-7, to: birthDate, as: dateTime", "`birthDate` is a date, not a dateTime"),
        ("from: PID-3, to: name, as: CX.Identifier", "`name` is a HumanName, but CX.Identifier makes a Identifier"),
        (
            "from: PID-3, to: managingOrganization, as: XCN.Practitioner",
            "`managingOrganization` cannot refer to a Practitioner",
        ),
        (
            "from: PID-3, to: name, as: CX.Nothing",
            "`as: CX.Nothing` is neither a datatype map, a function nor a primitive type",
        ),
        ("from: PID-8, to: gender, table: sex", "there is no table sex"),
        ("from: PID-7, to: birthDate, when: valued(PID-7", "condition `valued(PID-7`: expected ) before position 12"),
        (
            "from: PID-7, to: birthDate, when: PID-7 is good",
            "condition `PID-7 is good`: expected comparison before position 8",
        ),
        ("from: PID-7, to: birthDate, when: valued(PID-77)", "PID-77 does not exist in any version of HL7v2"),
        ("to: birthDate", "a rule needs one of from, format, value, link, rules"),
        ("from: PID-7, to: birthDate, form: x", "a rule has no `form`"),
        ("to: birthDate, link: Patient", "`birthDate` is a date; a link needs a Reference"),
        ("format: '[{PID-5.1}', to: name.text", "format `[{PID-5.1}`: a bracket is not closed"),
    ],
)
def test_a_faulty_rule_is_named_with_its_fault(rule: str, fault: str, faults: Callable[[str], list[str]]) -> None:
    said = faults(rule)
    assert len(said) == 1
    assert said[0].startswith(f"PID.Test/x: {fault}")


def test_every_fault_is_told_at_once(folder: Path) -> None:
    rules = "rules:\n  - {id: a, from: PID-99, to: birthDate}\n  - {id: b, from: PID-7, to: nothing}\n"
    (folder / "segments" / "test.yaml").write_text(f"map: PID.Test\nsegment: PID\ntype: Patient\n{rules}")
    with pytest.raises(Problem) as caught:
        load(folder, definitions())
    assert [issue.diagnostics.split(":")[0] for issue in caught.value.issues] == ["PID.Test/a", "PID.Test/b"]


def test_a_rule_id_may_be_used_once(folder: Path) -> None:
    rules = "rules:\n  - {id: a, from: PID-7, to: birthDate}\n  - {id: a, from: PID-24, to: multipleBirthBoolean}\n"
    (folder / "segments" / "test.yaml").write_text(f"map: PID.Test\nsegment: PID\ntype: Patient\n{rules}")
    with pytest.raises(Problem, match=r"PID\.Test/a: this rule id is there already"):
        load(folder, definitions())


def test_a_map_may_be_named_once(folder: Path) -> None:
    (folder / "segments" / "test.yaml").write_text("map: PID.Patient\ntype: Patient\n")
    with pytest.raises(Problem, match=r"`PID.Patient` is there already"):
        load(folder, definitions())


def test_a_message_map_names_what_it_lacks(folder: Path) -> None:
    rules = [
        "{id: a, at: PID, make: Patient, use: PID.Nothing}",
        "{id: b, at: PV1, make: Patient, use: PID.Patient}",
        "{id: c, at: PID, make: Patiant}",
        "{id: d, at: NOGROUP.PID, make: Patient}",
        "{id: e, at: PID, make: Patient, link: {birthDate: Encounter}}",
        "{id: f, at: PID}",
    ]
    listed = "".join(f"  - {rule}\n" for rule in rules)
    (folder / "messages" / "test.yaml").write_text(f"map: ADT_X99\nstructure: ADT_A01\nrules:\n{listed}")
    with pytest.raises(Problem) as caught:
        load(folder, definitions())
    assert [issue.diagnostics for issue in caught.value.issues] == [
        "ADT_X99/a: there is no segment map PID.Nothing",
        "ADT_X99/b: PID.Patient maps PID to Patient, not PV1 to Patient",
        "ADT_X99/c: Patiant is no resource type",
        "ADT_X99/d: structure ADT_A01 has no group NOGROUP",
        "ADT_X99/e: `birthDate` of Patient is no Reference",
        "ADT_X99/f: a message rule needs one of make, new, on",
    ]


def test_a_table_that_maps_a_code_twice_is_refused(folder: Path) -> None:
    path = folder / "tables" / "administrative-sex.json"
    table = json.loads(path.read_text())
    table["group"][0]["element"].append(table["group"][0]["element"][0])
    path.write_text(json.dumps(table))
    with pytest.raises(Problem, match="table administrative-sex maps F twice"):
        load(folder, definitions())


def test_text_that_is_no_yaml_is_told_with_its_place(folder: Path) -> None:
    (folder / "segments" / "test.yaml").write_text("map: {")
    with pytest.raises(Problem, match=r"test.yaml cannot be read"):
        load(folder, definitions())


def test_every_deviation_names_rules_that_are_there_and_a_reason() -> None:
    known = maps().rule_ids
    for row in maps().deviations:
        assert row["guide"]
        assert row["ours"]
        assert row["reason"]
        assert [
            rule for rule in row.get("rules", ()) if not any(i == rule or i.startswith(f"{rule}/") for i in known)
        ] == []


def test_the_tables_are_valid_concept_maps() -> None:
    from fhirserver.fhir.validation import validate

    for path in (ROOT / "mappings" / "tables").glob("*.json"):
        issues = validate(definitions(), json.loads(path.read_text()))
        assert not [issue for issue in issues if issue.severity == "error"], path.name
