"""The bulk loader: what it stores is read and searched like anything else, and what it refuses it names."""

from __future__ import annotations

import copy
import gzip
from pathlib import Path

import pytest

from fhirserver import local
from fhirserver.app import Installation
from fhirserver.fhir.json import decode, encode
from fhirserver.settings import folder
from fhirserver.store.load import LINES, Loaded, pieces, unpacked
from tests.api.client import Api
from tests.api.samples import observation, patient


def load(installation: Installation, organization: str, *files: Path, validated: bool = True) -> Loaded:
    return local.load(installation.settings, files, organization, validated, lambda so_far: None)


def ndjson(path: Path, *resources: object) -> Path:
    path.write_bytes(b"".join(encode(each) + b"\n" for each in resources))
    return path


def test_what_is_loaded_is_read_and_searched(api: Api, installation: Installation, tmp_path: Path) -> None:
    people = [patient(id=f"l{number}", birthDate=f"19{number + 10}-01-01") for number in range(60)]
    file = tmp_path / "people.ndjson.gz"
    file.write_bytes(gzip.compress(b"".join(encode(each) + b"\n" for each in people)))

    done = load(installation, api.organization, file)

    assert (done.stored, done.there, done.refused) == (60, 0, 0)
    read = api.get("Patient/l7")
    assert (read.status, read.json["meta"]["versionId"], read.json["birthDate"]) == (200, "1", "1917-01-01")
    assert api.found("Patient?birthdate=1917-01-01") == ["l7"]
    assert len(api.get("Patient/l7/_history").json["entry"]) == 1
    changed = api.put("Patient/l7", {**people[7], "active": True}, If_Match='W/"1"')
    assert (changed.status, changed.json["meta"]["versionId"]) == (200, "2")


def test_an_interrupted_load_is_run_again(api: Api, installation: Installation, tmp_path: Path) -> None:
    load(installation, api.organization, ndjson(tmp_path / "a.ndjson", patient(id="one", active=False)))

    again = ndjson(tmp_path / "b.ndjson", patient(id="one", active=True), patient(id="two"))
    done = load(installation, api.organization, again)

    assert (done.stored, done.there, done.refused) == (1, 1, 0)
    assert api.get("Patient/one").json["active"] is False


def test_a_bundle_keeps_the_references_between_its_entries(
    api: Api, installation: Installation, tmp_path: Path
) -> None:
    url = "urn:uuid:9b1c8a52-9c7a-4f0e-8d58-3b2f5a7f1c11"
    entries = [{"fullUrl": url, "resource": patient()}, {"resource": observation(url, id="of")}]
    file = tmp_path / "bundle.json"
    file.write_bytes(encode({"resourceType": "Bundle", "type": "collection", "entry": entries}))

    done = load(installation, api.organization, file)

    assert done.stored == 2
    subject = api.get("Observation/of").json["subject"]["reference"]
    assert api.get(subject).status == 200


def test_what_cannot_be_stored_is_named_and_the_rest_is(api: Api, installation: Installation, tmp_path: Path) -> None:
    file = ndjson(
        tmp_path / "mixed.ndjson",
        patient(id="good"),
        patient(id="bad", birthDate="yesterday"),
        {"resourceType": "Subscription", "id": "s"},
        {"resourceType": "User", "id": "u"},
        ["no resource"],
    )
    with file.open("ab") as more:
        more.write(b'{"resourceType": "Pati\n')

    done = load(installation, api.organization, file)

    assert (done.stored, done.refused) == (1, 5)
    reasons = "\n".join(done.reasons)
    assert "line 2" in reasons
    assert "birthDate" in reasons
    assert "Subscription cannot be loaded" in reasons
    assert "line 6" in reasons


def test_unchecked_is_stored_as_it_is(api: Api, installation: Installation, tmp_path: Path) -> None:
    file = ndjson(tmp_path / "unchecked.ndjson", patient(id="odd", birthDate="yesterday"))

    assert load(installation, api.organization, file, validated=False).stored == 1
    assert api.get("Patient/odd").json["birthDate"] == "yesterday"


def test_nobody_is_notified_of_what_is_loaded(api: Api, installation: Installation, tmp_path: Path) -> None:
    load(installation, api.organization, ndjson(tmp_path / "quiet.ndjson", patient(id="quiet")))

    document = installation.server.store.database.collection("Patient").find_one({"_id": f"{api.organization}/quiet"})
    assert document is not None
    assert "ev" not in document


def test_a_large_file_is_cut_into_pieces_whose_lines_are_numbered(tmp_path: Path) -> None:
    file = ndjson(tmp_path / "large.ndjson", *({"n": number} for number in range(LINES + 3)))

    found = list(pieces([file]))

    assert [(first, len(lines)) for _, first, lines in found] == [(1, LINES), (LINES + 1, 3)]


@pytest.mark.parametrize("bundle", [{"entry": [{}, {"resource": 7}, "x"]}, {}])
def test_a_bundle_without_resources_gives_none(bundle: dict[str, object]) -> None:
    assert unpacked(bundle, lambda: "new") == []


def test_a_mapping_overlay_is_checked_as_the_api_checks_it(
    api: Api, installation: Installation, tmp_path: Path
) -> None:
    overlay = decode((folder("examples") / "hl7v2" / "overlay.json").read_bytes())
    broken = copy.deepcopy(overlay) | {"id": "broken"}
    next(e for g in broken["group"] for e in g["element"] if e.get("target"))["target"][0]["code"] = "gendre"
    refused = load(installation, api.organization, ndjson(tmp_path / "broken.ndjson", broken))
    assert (refused.stored, refused.refused) == (0, 1)
    assert "gendre" in refused.reasons[0]
    done = load(installation, api.organization, ndjson(tmp_path / "maps.ndjson", {**overlay, "id": "good"}, broken))
    assert (done.stored, done.refused) == (1, 1), "two that cannot be together"
    assert api.found("ConceptMap?context=overlay") == ["good"]
    again = load(installation, api.organization, ndjson(tmp_path / "again.ndjson", {**overlay, "id": "good"}))
    assert (again.stored, again.there) == (0, 1)
