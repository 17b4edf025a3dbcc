"""IHE MHD: an application publishes documents (ITI-65); another finds submissions (ITI-66) and documents (ITI-67) and
retrieves them (ITI-68).
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest

from fhirserver.interactions.ihe.mhd import LIST_TYPES
from tests.api.client import Api
from tests.api.exchange import Exchange, exchange_of
from tests.api.ihe import actor, hospital
from tests.api.submitting import PDF, submission


@pytest.fixture(scope="module")
def exchange(mongo_url: str) -> Iterator[Exchange]:
    with exchange_of(mongo_url, "test_ihe_mhd") as made:
        yield made


@pytest.fixture(scope="module")
def patient(exchange: Exchange) -> str:
    given = {"resourceType": "Patient", "identifier": [{"system": "urn:mrn", "value": "p1"}]}
    return f"Patient/{hospital(exchange).create(given)['id']}"


@pytest.fixture(scope="module")
def source(exchange: Exchange) -> Api:
    return actor(exchange, "mhd-source")


@pytest.fixture(scope="module")
def consumer(exchange: Exchange) -> Api:
    return actor(exchange, "mhd-consumer")


def provided(source: Api, bundle: dict[str, Any]) -> list[str]:
    answer = source.post("", bundle)
    assert answer.status == 200, answer.data
    assert answer.json["type"] == "transaction-response"
    entries = answer.json["entry"]
    assert [entry["response"]["status"][:3] for entry in entries] == ["201"] * len(bundle["entry"])
    return ["/".join(entry["response"]["location"].split("/")[-4:-2]) for entry in entries]


def test_a_document_is_published_found_and_retrieved(source: Api, consumer: Api, patient: str) -> None:
    list_, document, binary = provided(source, submission(patient))
    found = consumer.get(f"List?patient={patient}&code=submissionset&status=current", Prefer="handling=strict")
    assert [f"List/{id}" for id in found.ids] == [list_]
    (about,) = consumer.get(f"DocumentReference?patient={patient}&status=current").resources
    assert f"DocumentReference/{about['id']}" == document
    url = about["content"][0]["attachment"]["url"]
    assert url == binary
    retrieved = consumer.get(url, Accept="application/pdf")
    assert (retrieved.status, retrieved.data) == (200, PDF)
    assert retrieved.headers["Content-Type"] == "application/pdf"
    assert retrieved.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in retrieved.headers["Content-Security-Policy"]


@pytest.fixture(scope="module")
def published(exchange: Exchange, source: Api) -> str:
    """A patient of whom one document was published."""
    given = {"resourceType": "Patient", "identifier": [{"system": "urn:mrn", "value": "p2"}]}
    patient = f"Patient/{hospital(exchange).create(given)['id']}"
    concept = {"coding": [{"system": "urn:c", "code": "c1"}]}
    provided(
        source,
        submission(
            patient,
            category=[concept],
            securityLabel=[concept],
            contained=[{"resourceType": "Practitioner", "id": "a", "name": [{"family": "Kildare", "given": ["Ann"]}]}],
            author=[{"reference": "#a"}],
            context={
                "event": [concept],
                "facilityType": concept,
                "practiceSetting": concept,
                "period": {"start": "2026-03-30"},
                "related": [{"reference": patient}],
            },
        ),
    )
    return patient


@pytest.mark.parametrize("criteria", [
    "code=submissionset&status=current",
    f"code={LIST_TYPES}|submissionset&status=current&date=ge2026-04-01",
    "code=submissionset&status=current&designationType=urn:kinds|referral",
    "code=submissionset&status=current&identifier=urn:ietf:rfc:3986|urn:oid:1.2.129.6.58.92.88336",
    "code=submissionset&status=current&sourceId=urn:ietf:rfc:3986|urn:oid:1.3.6.1",
])  # fmt: skip
def test_iti_66_finds_the_submission(consumer: Api, published: str, criteria: str) -> None:
    assert len(consumer.found(f"List?patient={published}&{criteria}")) == 1


@pytest.mark.parametrize("criteria", [
    "status=current",
    "status=superseded,current",
    "status=current&category=urn:c|c1",
    "status=current&creation=2026-03-31",
    "status=current&date=ge2026-04-01&date=lt2026-04-02",
    "status=current&event=urn:c|c1",
    "status=current&facility=urn:c|c1",
    "status=current&setting=urn:c|c1",
    "status=current&security-label=urn:c|c1",
    "status=current&period=ge2026-03-30",
    "status=current&type=http://loinc.org|11488-4",
    "status=current&identifier=urn:ietf:rfc:3986|urn:oid:1.2.129.6.58.92.88337",
])  # fmt: skip
def test_iti_67_finds_the_document_by_get_and_by_post(consumer: Api, published: str, criteria: str) -> None:
    query = f"patient={published}&{criteria}"
    assert len(consumer.found(f"DocumentReference?{query}")) == 1
    form = {"Content_Type": "application/x-www-form-urlencoded"}
    assert len(consumer.post("DocumentReference/_search", query.encode(), **form).ids) == 1


def test_documents_are_found_by_patients_and_authors_where_these_may_be_searched(
    exchange: Exchange, published: str
) -> None:
    wider = actor(exchange, "mhd-consumer", "pdqm-consumer", "mcsd-consumer")
    for criteria in (
        "DocumentReference?patient.identifier=urn:mrn|p2&status=current",
        f"DocumentReference?patient={published}&author.family=Kildare&author.given=Ann&status=current",
        "List?patient.identifier=urn:mrn|p2&code=submissionset&status=current",
        f"List?patient={published}&source.family=Welby&code=submissionset&status=current",
    ):
        assert len(wider.found(criteria)) == 1, criteria


def test_a_document_that_replaces_another_supersedes_it(source: Api, consumer: Api, exchange: Exchange) -> None:
    patient = f"Patient/{hospital(exchange).create({'resourceType': 'Patient'})['id']}"
    _, first, _ = provided(source, submission(patient))
    relation = {"code": "replaces", "target": {"reference": first}}
    _, second, _ = provided(source, submission(patient, b"%PDF better", relatesTo=[relation]))
    assert consumer.get(first).json["status"] == "superseded"
    assert [
        f"DocumentReference/{id}" for id in consumer.found(f"DocumentReference?patient={patient}&status=current")
    ] == [second]
    gone = {"code": "replaces", "target": {"reference": "DocumentReference/nothing"}}
    refused = source.post("", submission(patient, relatesTo=[gone]))
    assert refused.status == 404
    assert len(consumer.found(f"DocumentReference?patient={patient}")) == 2


def without(bundle: dict[str, Any], index: int, *path: Any) -> dict[str, Any]:
    changed = deepcopy(bundle)
    at = changed["entry"][index]["resource"]
    for step in path[:-1]:
        at = at[step]
    del at[path[-1]]
    return changed


def having(bundle: dict[str, Any], index: int, value: Any, *path: Any) -> dict[str, Any]:
    changed = deepcopy(bundle)
    at = changed["entry"][index]["resource"]
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    return changed


ATTACHMENT = ("content", 0, "attachment")
GOOD = submission("Patient/x")


@pytest.mark.parametrize(
    "bundle",
    [
        without(GOOD, 0, "code"),
        without(GOOD, 0, "extension", 0),
        without(GOOD, 0, "entry"),
        having(GOOD, 0, "snapshot", "mode"),
        having(GOOD, 0, "Patient/other", "subject", "reference"),
        having(GOOD, 1, "superseded", "status"),
        having(GOOD, 1, 3, *ATTACHMENT, "size"),
        having(GOOD, 1, "2jmj7l5rSw0yVb/vlWAYkK/YBwk=", *ATTACHMENT, "hash"),
        having(GOOD, 1, "text/plain", *ATTACHMENT, "contentType"),
        having(GOOD, 1, "https://elsewhere.example/letter.pdf", *ATTACHMENT, "url"),
        having(GOOD, 1, [], "content"),
        having(GOOD, 2, "%%%", "data"),
        having(GOOD, 2, "Observation", "resourceType"),
        {**GOOD, "entry": GOOD["entry"][1:]},
        {**GOOD, "entry": [*GOOD["entry"], GOOD["entry"][0]]},
        {**GOOD, "entry": [{"request": {"method": "GET", "url": "Patient"}}]},
        submission("Patient/x", kind="Comprehensive"),
    ],
)
def test_a_submission_that_is_none_is_refused_whole(source: Api, consumer: Api, bundle: dict[str, Any]) -> None:
    before = consumer.get("DocumentReference?_summary=count").json["total"]
    answer = source.post("", bundle)
    assert answer.status == 400, answer.data
    assert answer.issue["code"] in ("business-rule", "required")
    assert consumer.get("DocumentReference?_summary=count").json["total"] == before


def test_a_comprehensive_submission_has_its_metadata(source: Api, patient: str) -> None:
    concept = {"coding": [{"system": "urn:c", "code": "c1"}]}
    more = {
        "category": [concept],
        "securityLabel": [concept],
        "context": {
            "facilityType": concept,
            "practiceSetting": concept,
            "sourcePatientInfo": {"reference": patient},
        },
    }
    assert len(provided(source, submission(patient, kind="Comprehensive", **more))) == 3


@pytest.mark.parametrize(
    ("accept", "status", "kind"),
    [
        ("application/pdf", 200, "application/pdf"),
        ("*/*", 200, "application/pdf"),
        ("application/*", 200, "application/pdf"),
        ("text/html, application/pdf;q=0.5", 200, "application/pdf"),
        ("application/fhir+json", 200, "application/fhir+json"),
        ("application/json", 200, "application/fhir+json"),
        ("text/plain", 406, "application/fhir+json"),
    ],
)
def test_iti_68_answers_the_document_as_it_is_accepted(
    source: Api, consumer: Api, patient: str, accept: str, status: int, kind: str
) -> None:
    _, _, binary = provided(source, submission(patient))
    answer = consumer.get(binary, Accept=accept)
    assert answer.status == status
    assert answer.headers["Content-Type"].split(";")[0] == kind
    if kind == "application/pdf":
        assert answer.data == PDF
        again = consumer.get(binary, Accept=accept, If_None_Match=answer.headers["ETag"])
        assert (again.status, again.data) == (304, b"")


@pytest.mark.parametrize("said", ["text/html; charset=utf-8", "image/svg+xml"])
def test_a_document_runs_nothing_in_a_browser(exchange: Exchange, consumer: Api, said: str) -> None:
    made = hospital(exchange).create(
        {"resourceType": "Binary", "contentType": said, "data": b64encode(b"<script>").decode()},
        Accept="application/fhir+json",
    )
    answer = consumer.get(f"Binary/{made['id']}")
    assert answer.headers["Content-Type"] == said
    assert answer.headers["Content-Security-Policy"] == "default-src 'none'; sandbox"


def test_a_consumer_publishes_nothing_and_a_source_reads_no_documents(source: Api, consumer: Api, patient: str) -> None:
    assert consumer.post("", submission(patient)).status == 403
    list_, _, binary = provided(source, submission(patient))
    for reference in (list_, binary, f"DocumentReference?patient={patient}"):
        assert source.get(reference).status == 403
