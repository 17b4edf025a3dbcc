"""`fhirserver package load`: what a package has of profiles, terminology and search parameters counts from then on."""

from __future__ import annotations

import io
import json
import tarfile
import uuid
from pathlib import Path
from typing import Any

import pytest

from fhirserver import app, local
from fhirserver.auth.principal import Principal
from fhirserver.settings import Secret, Settings
from tests.api.client import Api
from tests.api.conftest import HOSPITAL, KEY
from tests.running import Running

URL = "http://hospital.example/fhir"
PROFILE = f"{URL}/StructureDefinition/blood-patient"
EXTENSION = f"{URL}/StructureDefinition/blood-group"


def canonical(resource_type: str, name: str, /, **more: Any) -> dict[str, Any]:
    id = name.replace("_", "-")
    head = {
        "resourceType": resource_type,
        "id": id,
        "url": f"{URL}/{resource_type}/{id}",
        "version": "1.0.0",
        "name": name,
    }
    return {**head, "status": "active", **more}


def resources(version: str = "1.0.0", groups: tuple[str, ...] = ("A", "B", "AB", "0")) -> list[dict[str, Any]]:
    """A small implementation guide: patients have exactly one blood group, out of a value set of our own."""
    blood = {"path": "Patient.extension", "id": "Patient.extension", "slicing": {"rules": "open"}}
    blood["slicing"]["discriminator"] = [{"type": "value", "path": "url"}]
    group = {"path": "Patient.extension", "id": "Patient.extension:blood", "sliceName": "blood", "min": 1, "max": "1"}
    group["type"] = [{"code": "Extension", "profile": [EXTENSION]}]
    born = {"path": "Patient.birthDate", "id": "Patient.birthDate", "min": 1}
    bound = {"path": "Extension.value[x]", "id": "Extension.value[x]", "min": 1, "type": [{"code": "code"}]}
    bound["binding"] = {"strength": "required", "valueSet": f"{URL}/ValueSet/blood-groups"}
    constraint = {"kind": "resource", "abstract": False, "derivation": "constraint", "fhirVersion": "4.0.1"}
    made = [
        canonical(
            "StructureDefinition",
            "blood_patient",
            **constraint,
            type="Patient",
            baseDefinition="http://hl7.org/fhir/StructureDefinition/Patient",
            differential={"element": [{"path": "Patient", "id": "Patient"}, blood, group, born]},
        ),
        canonical(
            "StructureDefinition",
            "blood_group",
            **{**constraint, "kind": "complex-type"},
            type="Extension",
            context=[{"type": "element", "expression": "Patient"}],
            baseDefinition="http://hl7.org/fhir/StructureDefinition/Extension",
            differential={
                "element": [
                    {"path": "Extension", "id": "Extension"},
                    {"path": "Extension.url", "id": "Extension.url", "fixedUri": EXTENSION},
                    bound,
                ]
            },
        ),
        canonical("ValueSet", "blood_groups", compose={"include": [{"system": f"{URL}/CodeSystem/blood-groups"}]}),
        canonical("CodeSystem", "blood_groups", content="complete", concept=[{"code": code} for code in groups]),
        canonical(
            "SearchParameter",
            "blood",
            description="Patients by blood group",
            code="blood",
            base=["Patient"],
            type="token",
            expression=f"Patient.extension.where(url='{EXTENSION}').value",
        ),
        canonical(
            "SearchParameter",
            "named",
            description="What everybody knows, said again",
            code="family",
            base=["Patient"],
            type="string",
            expression="Patient.name.family",
        ),
        {"resourceType": "Patient", "id": "an-example"},
    ]
    return [{**each, "version": version} if "url" in each else each for each in made]


def packed(path: Path, contents: list[dict[str, Any]]) -> Path:
    """The package of these resources, as npm packs it."""
    with tarfile.open(path, "w:gz") as archive:
        for number, each in enumerate([{"name": "hospital.fhir", "version": "1.0.0"}, *contents]):
            data = json.dumps(each).encode()
            member = tarfile.TarInfo("package/package.json" if number == 0 else f"package/{number}.json")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def patient(**more: Any) -> dict[str, Any]:
    return {"resourceType": "Patient", "meta": {"profile": [PROFILE]}, **more}


def blood(code: str) -> dict[str, Any]:
    return {"birthDate": "1961-04-17", "extension": [{"url": EXTENSION, "valueCode": code}]}


@pytest.fixture
def settings(mongo_url: str, tmp_path: Path) -> Settings:
    return Settings(
        data=tmp_path,
        mongo_url=Secret(mongo_url),
        mongo_database=f"package-{uuid.uuid4().hex[:8]}",
        master_key=Secret(KEY),
        public_url="http://api.test",
    )


@pytest.fixture
def api(settings: Settings) -> Any:
    """The base of a hospital in a server that was there before the package."""
    installation = app.build(settings)
    flask = app.create_app(installation)
    operator = Principal("operator", id="operator", operator=True, scopes="system/*.cruds", name="tests")
    registry = Api(flask, "/1/health/fhir/4", installation.tokens.issue(operator))
    hospital = str(registry.create(HOSPITAL)["id"])
    token = installation.tokens.issue(
        Principal("operator", id="operator", organization=hospital, operator=True, scopes="system/*.cruds")
    )
    yield Api(flask, f"/1/health/organizations/{hospital}/fhir/4", token)
    installation.server.store.database.client.drop_database(settings.mongo_database)
    installation.close()


def test_what_a_profile_of_a_package_asks_is_asked_of_who_claims_it(
    settings: Settings, api: Api, tmp_path: Path
) -> None:
    api.create(patient())

    done = local.load_package(settings, packed(tmp_path / "a.tgz", resources()))

    assert (done.stored, done.there, done.refused, done.others) == (6, 0, [], 1)
    api.create(patient(**blood("AB")))
    for wrong in (
        {},
        {"birthDate": "1961-04-17"},
        blood("C"),
        {**blood("A"), "extension": blood("A")["extension"] * 2},
    ):
        answer = api.post("Patient", patient(**wrong))
        assert (answer.status, answer.issue["severity"]) == (422, "error"), wrong
    api.create({"resourceType": "Patient"})


def test_loading_again_changes_nothing_and_a_newer_version_counts(settings: Settings, api: Api, tmp_path: Path) -> None:
    first = packed(tmp_path / "a.tgz", resources())
    local.load_package(settings, first)
    again = local.load_package(settings, first)
    assert (again.stored, again.there) == (0, 6)
    assert api.post("Patient", patient(**blood("C"))).status == 422

    local.load_package(settings, packed(tmp_path / "b.tgz", resources("1.10.0", ("C",))))
    local.load_package(settings, packed(tmp_path / "c.tgz", resources("1.9.0", ("D",))))

    api.create(patient(**blood("C")))
    assert api.post("Patient", patient(**blood("D"))).status == 422


def test_its_search_parameters_work_and_those_that_say_nothing_new_need_no_index(
    settings: Settings, api: Api, tmp_path: Path
) -> None:
    old = api.create(patient(name=[{"family": "Adler"}]))
    local.load_package(settings, packed(tmp_path / "a.tgz", resources()))
    new = api.create(patient(**blood("0")))

    assert api.get("Patient?blood=0").ids == [new["id"]]
    assert "being indexed" in api.get("Patient?blood=0").notes
    assert api.found("Patient?family=adler") == [old["id"]]


def test_a_value_set_written_on_the_registry_counts_at_once(settings: Settings, api: Api, tmp_path: Path) -> None:
    local.load_package(settings, packed(tmp_path / "a.tgz", resources()))
    operator = Principal("operator", id="operator", operator=True, scopes="system/*.cruds", name="tests")
    installation = app.build(settings)
    registry = Api(app.create_app(installation), "/1/health/fhir/4", installation.tokens.issue(operator))
    system = next(each for each in resources("2.0.0", ("Rh",)) if each["resourceType"] == "CodeSystem")

    assert api.post("Patient", patient(**blood("Rh"))).status == 422
    registry.create(system)
    api.create(patient(**blood("Rh")))
    installation.close()


def test_what_is_invalid_is_named_and_the_rest_is_loaded(settings: Settings, tmp_path: Path) -> None:
    wrong = canonical("ValueSet", "wrong", status="blue")

    done = local.load_package(settings, packed(tmp_path / "a.tgz", [*resources(), wrong]))

    assert done.stored == 6
    assert [reason.split(" ")[0:2] for reason in done.refused] == [["8.json:", "ValueSet.status"]]


def test_the_command_says_what_it_did(running: Running, tmp_path: Path) -> None:
    file = packed(tmp_path / "a.tgz", resources())
    assert running.cli("package", "load", str(file)) == (
        "6 stored, 0 were there already, 0 refused, 1 of other kinds left out"
    )
    (tmp_path / "no.tgz").write_bytes(b"nothing of the kind")
    refused = running.run("package", "load", str(tmp_path / "no.tgz"))
    assert refused.returncode == 2
    assert "not a FHIR package" in refused.stderr
