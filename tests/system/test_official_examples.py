"""The official examples of R4 are stored and read back as they are: order, decimals, unknown extensions and all.

npm's hl7.fhir.r4.examples has 5,306 resources. They go through the API into an empty installation, each to the base
that keeps its type. tests/cases/validation/invalid_examples.json lists those that are no valid R4, with the reason;
tests/cases/validation/refused_examples.json those that are, but that a rule of this exchange keeps out.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fhirserver import app
from fhirserver.auth.principal import Principal
from fhirserver.fhir import package
from fhirserver.fhir.json import decode, encode
from fhirserver.interactions.capabilities import served_types
from fhirserver.settings import Secret, Settings
from tests import npm
from tests.api.client import Api
from tests.api.conftest import HOSPITAL, KEY

CASES = Path(__file__).parents[1] / "cases" / "validation"
BATCH_BYTES = 2_000_000
EVERY = 36
ENTRY = re.compile(r"Entry (\d+): (.*)", re.DOTALL)
STAMPS = ("versionId", "lastUpdated")
HEAD = ("resourceType", "id", "meta")
Sent = tuple[str, dict[str, Any]]
Examples = Iterable[Sent]


@pytest.fixture(scope="module")
def examples() -> list[tuple[str, bytes]]:
    """File names and texts of the examples, in the package's order."""
    with npm.packed("hl7.fhir.r4.examples", "4.0.1").open("rb") as archive:
        return [(name, data) for name, data in package.files(archive) if name not in ("package.json", ".index.json")]


@pytest.fixture
def installation(mongo_url: str, tmp_path: Path) -> Iterator[app.Installation]:
    """An empty installation that takes bodies of any size that occurs."""
    settings = Settings(
        data=tmp_path,
        mongo_url=Secret(mongo_url),
        mongo_database=f"examples-{uuid.uuid4().hex[:8]}",
        master_key=Secret(KEY),
        public_url="http://api.test",
        max_body=64 * 1024 * 1024,
        query_time_limit=60_000,
    )
    made = app.build(settings)
    try:
        yield made
    finally:
        made.server.store.database.client.drop_database(settings.mongo_database)
        made.close()


def test_a_sample_of_the_examples_is_stored_and_read_back(
    installation: app.Installation, examples: list[tuple[str, bytes]]
) -> None:
    small = [example for example in examples if len(example[1]) < 100_000]
    _expect(installation, small[::EVERY])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_example_is_stored_and_read_back(
    installation: app.Installation, examples: list[tuple[str, bytes]]
) -> None:
    assert len(examples) == 5_306
    _expect(installation, examples)


def _expect(installation: app.Installation, examples: list[tuple[str, bytes]]) -> None:
    known: dict[str, str] = {}
    for name in ("invalid_examples.json", "refused_examples.json"):
        known |= json.loads((CASES / name).read_text())
    found = _faults(installation, examples)

    names = {name for name, _ in examples}
    unexpected = {name: why for name, why in found.items() if name not in known}
    assert not unexpected, json.dumps(unexpected, indent=1)
    assert {name for name in known if name in names and name not in found} == set(), "these are taken by now"


def _faults(installation: app.Installation, examples: list[tuple[str, bytes]]) -> dict[str, str]:
    """File name -> why it was refused, or what was different when it was read back."""
    flask = app.create_app(installation)
    operator = Principal("operator", id="operator", operator=True, scopes="system/*.cruds", name="tests")
    registry = Api(flask, "/1/health/fhir/4", installation.tokens.issue(operator, 7200))
    hospital = str(registry.create(HOSPITAL)["id"])
    local = installation.tokens.issue(replace(operator, organization=hospital), 7200)
    api = Api(flask, f"/1/health/organizations/{hospital}/fhir/4", local)
    here = set(served_types(installation.server, hospital))

    found: dict[str, str] = {}
    for base, wanted in ((api, True), (registry, False)):
        mine = [(name, decode(data)) for name, data in examples]
        mine = [(name, resource) for name, resource in mine if (resource["resourceType"] in here) == wanted]
        for part in _parts(mine):
            refused, stored = _stored(base, part)
            found |= refused | _read(base, stored)
    return found


def _parts(examples: Examples) -> Iterator[list[Sent]]:
    """Parts of at most 100 examples and 2 MB, none with the same id twice."""
    part: list[Sent] = []
    size, ids = 0, set()
    for name, resource in examples:
        length, id = len(encode(resource)), (resource["resourceType"], resource["id"])
        if part and (len(part) == 100 or size + length > BATCH_BYTES or id in ids):
            yield part
            part, size, ids = [], 0, set()
        part.append((name, resource))
        size += length
        ids.add(id)
    if part:
        yield part


def _stored(api: Api, part: list[Sent]) -> tuple[dict[str, str], list[Sent]]:
    """What was refused and why, and the rest with their ids: an AuditEvent can only be created, it gets a new one."""
    entries = [{"resource": resource, "request": _request(resource)} for _, resource in part]
    refused: dict[str, str] = {}
    names = [name for name, _ in part]
    while entries:  # all or nothing: without the one that is named it is tried again
        answer = api.post("", {"resourceType": "Bundle", "type": "transaction", "entry": entries})
        if answer.status == 200:
            made = [entry["response"].get("location", "") for entry in answer.json["entry"]]
            said = [entry["resource"] for entry in entries]
            ids = [_id(where) if where else each["id"] for where, each in zip(made, said, strict=True)]
            return refused, [(name, {**each, "id": id}) for name, each, id in zip(names, said, ids, strict=True)]
        culprit = ENTRY.match(answer.issue["diagnostics"])
        assert culprit, answer.data[:2000]
        refused[names.pop(int(culprit[1]))] = culprit[2]
        del entries[int(culprit[1])]
    return refused, []


def _request(resource: dict[str, Any]) -> dict[str, str]:
    type = resource["resourceType"]
    if type == "AuditEvent":
        return {"method": "POST", "url": type}
    return {"method": "PUT", "url": f"{type}/{resource['id']}"}


def _id(location: str) -> str:
    return location.split("/_history/")[0].rpartition("/")[2]


def _read(api: Api, part: list[Sent]) -> dict[str, str]:
    found = {}
    for name, sent in part:
        answer = api.get(f"{sent['resourceType']}/{sent['id']}", Accept="application/fhir+json")
        if answer.status != 200 or _meant(answer.json) != _meant(sent):
            found[name] = f"read back with {answer.status} as something else"
    return found


def _meant(resource: dict[str, Any]) -> Any:
    """What must stay: all but the stamps, decimals by their digits, properties in their order behind the head."""
    meta = {name: value for name, value in resource.get("meta", {}).items() if name not in STAMPS}
    rest = {name: value for name, value in resource.items() if name not in HEAD}
    return _exact({"resourceType": resource["resourceType"], "id": resource["id"], "meta": meta, **rest})


def _exact(value: Any) -> Any:
    if isinstance(value, dict):
        return [(name, _exact(each)) for name, each in value.items()]
    if isinstance(value, list):
        return [_exact(each) for each in value]
    return ("decimal", str(value)) if isinstance(value, Decimal) else value
