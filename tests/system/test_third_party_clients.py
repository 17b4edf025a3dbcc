"""Clients that other people wrote, as they are published, against a running installation: their ordinary round trips.

PyPI `fhirpy` (sync and async) and `fhirclient`, npm `fhir-kit-client`. Nothing here knows how the server does it.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fhirclient.client import FHIRClient
from fhirclient.models.bundle import Bundle, BundleEntry, BundleEntryRequest
from fhirclient.models.fhirreference import FHIRReference
from fhirclient.models.observation import Observation
from fhirclient.models.patient import Patient
from fhirclient.server import FHIRNotFoundException
from fhirpy import AsyncFHIRClient, SyncFHIRClient
from fhirpy.base.exceptions import AuthorizationError, MultipleResourcesFound, OperationOutcome, ResourceNotFound

from tests import npm
from tests.running import Running

SYSTEM = "urn:oid:1.2.36.146.595"
LOINC = "http://loinc.org"
SCRIPT = Path(__file__).with_name("fhir_kit_client.mjs")


@dataclass(frozen=True)
class Base:
    """An organization's base and a token for it."""

    url: str
    token: str

    @property
    def bearer(self) -> str:
        return f"Bearer {self.token}"


@pytest.fixture(scope="module")
def new_base(running: Running) -> Callable[[], Base]:
    """Makes an organization with an empty base."""

    def make() -> Base:
        id = running.cli("organization", "create", "Clients' Hospital")
        token = running.cli("token", "--organization", id)
        return Base(f"{running.base_url}/1/health/organizations/{id}/fhir/4", token)

    return make


@pytest.fixture
def base(new_base: Callable[[], Base]) -> Base:
    return new_base()


def weight(subject: str, kilograms: float) -> dict[str, Any]:
    return {
        "status": "final",
        "code": {"coding": [{"system": LOINC, "code": "29463-7"}]},
        "subject": {"reference": subject},
        "valueQuantity": {"value": kilograms, "unit": "kg", "system": "http://unitsofmeasure.org", "code": "kg"},
    }


def test_fhirpy_sync_makes_its_round_trips(base: Base) -> None:
    client = SyncFHIRClient(base.url, authorization=base.bearer)
    ida = client.resource("Patient", name=[{"family": "Adler", "given": ["Ida"]}], birthDate="1961-04-17")
    assert ida.is_valid(raise_exception=True)
    ida.save()
    assert ida.id
    assert ida["meta"]["versionId"] == "1"

    ida["gender"] = "female"
    ida.save()
    ida.patch(active=True, identifier=[{"system": SYSTEM, "value": "ida"}])
    read = client.reference("Patient", ida.id).to_resource()
    assert (read["gender"], read["active"], read["birthDate"]) == ("female", True, "1961-04-17")
    assert read["meta"]["versionId"] == "3"
    assert ida.refresh()["meta"]["versionId"] == "3"

    for kilograms in range(60, 85):
        client.resource("Observation", **weight(ida.to_reference().reference, kilograms)).save()
    weights = client.resources("Observation")
    assert weights.search(patient__Patient__family="adler", value_quantity__ge="75").count() == 10
    everything = weights.search(subject__reference="").params  # a parameter built by the library itself
    assert everything
    assert len(weights.search(code=f"{LOINC}|29463-7").limit(10).fetch()) == 10
    assert len(weights.search(code=f"{LOINC}|29463-7").limit(10).fetch_all()) == 25
    heaviest = weights.search(patient=ida.id).sort("-value-quantity", "_id").include("Observation", "subject").first()
    assert heaviest["valueQuantity"]["value"] == 84
    with pytest.raises(MultipleResourcesFound):
        weights.search(code=f"{LOINC}|29463-7").get()
    assert client.resources("Patient").search(identifier=f"{SYSTEM}|ida").get().id == ida.id
    patients = client.resources("Patient").has("Observation", "patient", code=f"{LOINC}|29463-7").fetch()
    assert [each.id for each in patients] == [ida.id]

    heaviest.delete()
    with pytest.raises(ResourceNotFound):
        heaviest.to_reference().to_resource()


def test_fhirpy_writes_conditionally(base: Base) -> None:
    client = SyncFHIRClient(base.url, authorization=base.bearer)
    one = client.resource("Patient", identifier=[{"system": SYSTEM, "value": "one"}])
    ones = client.resources("Patient").search(identifier=f"{SYSTEM}|one")

    first, created = ones.get_or_create(one)
    second, again = ones.get_or_create(one)
    assert (created, again) == (True, False)
    assert first.id == second.id
    updated, made = ones.update(client.resource("Patient", identifier=one["identifier"], gender="other"))
    assert (updated.id, updated["gender"], made) == (first.id, "other", False)
    assert ones.patch(gender="unknown")["gender"] == "unknown"
    assert ones.count() == 1
    ones.delete()
    assert ones.count() == 0


def test_fhirpy_hears_what_is_wrong(base: Base) -> None:
    client = SyncFHIRClient(base.url, authorization=base.bearer)
    with pytest.raises(OperationOutcome, match="gender"):
        client.resource("Patient", gender="blue").save()
    assert not client.resource("Patient", gender="blue").is_valid()
    with pytest.raises(AuthorizationError):
        SyncFHIRClient(base.url, authorization="Bearer of.bad.news").resources("Patient").fetch()


def test_fhirpy_async_makes_its_round_trips(base: Base) -> None:
    async def story() -> None:
        client = AsyncFHIRClient(base.url, authorization=base.bearer)
        ida = client.resource("Patient", name=[{"family": "Adler", "given": ["Ida"]}])
        await ida.save()
        await ida.patch(gender="female")
        subject = ida.to_reference().reference
        await asyncio.gather(
            *(client.resource("Observation", **weight(subject, kilograms)).save() for kilograms in range(60, 85))
        )
        weights = client.resources("Observation").search(patient=ida.id)
        assert await weights.count() == 25
        assert len(await weights.limit(7).fetch_all()) == 25
        async for each in weights.sort("value-quantity").limit(20):
            assert each["valueQuantity"]["value"] == 60
            assert (await each["subject"].to_resource()).id == ida.id
            break
        raw = await weights.include("Observation", "subject").limit(1).fetch_raw()
        assert [entry.search.mode for entry in raw.entry] == ["match", "include"]
        everything = await ida.execute("$everything", method="get")
        assert len(everything["entry"]) == 26
        one = client.resource("Patient", identifier=[{"system": SYSTEM, "value": "one"}])
        ones = client.resources("Patient").search(identifier=f"{SYSTEM}|one")
        made = await asyncio.gather(*(ones.get_or_create(one) for _ in range(5)))
        assert len({each.id for each, _ in made}) == 1
        assert sum(created for _, created in made) == 1
        assert (await ones.get()).id == made[0][0].id
        await ida.delete()
        with pytest.raises(ResourceNotFound):
            await client.reference("Patient", ida.id).to_resource()

    asyncio.run(story())


def test_fhirclient_makes_its_round_trips(base: Base) -> None:
    smart = FHIRClient({"app_id": "tests", "api_base": base.url})
    smart.prepare()  # reads the CapabilityStatement, every element of it checked
    server = smart.server
    assert server.auth.auth_type == "oauth2"
    server.auth.access_token = base.token
    assert smart.ready
    assert server.capabilityStatement.fhirVersion == "4.0.1"

    made = Patient({"name": [{"family": "Adler", "given": ["Ida"]}], "gender": "female"}).create(server)
    ida = Patient.read(made["id"], server)
    assert smart.human_name(ida.name[0]) == "Ida Adler"
    ida.gender = "other"
    assert ida.update(server)["meta"]["versionId"] == "2"
    for kilograms in range(60, 65):
        Observation({**weight(f"Patient/{ida.id}", kilograms)}).create(server)

    heavy = Observation.where({"code": f"{LOINC}|29463-7", "value-quantity": "gt61", "_count": "2"})
    found = list(heavy.include("subject").perform_resources_iter(server))
    weights = [each.valueQuantity.value for each in found if each.resource_type == "Observation"]
    assert sorted(weights) == [62, 63, 64]
    assert {each.id for each in found if each.resource_type == "Patient"} == {ida.id}
    assert isinstance(found[0].subject, FHIRReference)
    assert found[0].subject.resolved(Patient).gender == "other"

    entry = BundleEntry({"request": {"method": "POST", "url": "Patient"}})
    entry.resource = Patient({"name": [{"text": "Second"}]})
    assert isinstance(entry.request, BundleEntryRequest)
    answer = server.post_json("", {**Bundle({"type": "transaction"}).as_json(), "entry": [entry.as_json()]}).json()
    assert Bundle(answer).entry[0].response.status.startswith("201")

    found[0].delete(server)
    ida_again = Patient.read(ida.id, server)
    assert ida_again.delete(server)["resourceType"] == "OperationOutcome"
    with pytest.raises(FHIRNotFoundException):
        Patient.read("never-was", server)


def test_fhir_kit_client_makes_its_round_trips(base: Base) -> None:
    script = npm.installed("fhir-kit-client", "2.0.3") / SCRIPT.name
    shutil.copy(SCRIPT, script)  # node looks for packages beside the script

    done = subprocess.run(
        ["node", str(script), base.url, base.token], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout)
    assert said["failed"] == []
    assert len(said["passed"]) >= 15
