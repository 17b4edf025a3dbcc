"""batch and transaction. FHIR R4: http#transaction, http#trules, http#brules."""

from __future__ import annotations

import base64
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from fhirserver.app import Installation
from fhirserver.fhir.json import encode
from tests.api.client import Answer, Api
from tests.api.samples import bundle, encounter, entry, observation, patient

URN = "urn:uuid:00000000-0000-4000-8000-00000000000"


def statuses(answer: Answer) -> list[str]:
    """The status codes of the response entries."""
    assert answer.status == 200, answer.data
    return [each["response"]["status"][:3] for each in answer.json["entry"]]


def location(answer: Answer, index: int) -> str:
    """Type/id of what an entry wrote."""
    parts = answer.json["entry"][index]["response"]["location"].split("/")
    return "/".join(parts[-4:-2])


# Batch


def test_a_batch_answers_each_entry_for_itself_in_order(api: Api) -> None:
    api.store(patient(id="p"))
    answer = api.post(
        "",
        bundle(
            "batch",
            entry("GET", "Patient/p"),
            entry("GET", "Patient/nobody"),
            entry("POST", "Patient", patient(gender="x")),
            entry("PUT", "Patient/q", patient(id="q")),
            entry("DELETE", "Patient/p"),
            entry("GET", "Patient?_id=q"),
            entry("GET", "metadata"),
            entry("GET", "Patient/q/_history"),
            entry("HEAD", "Patient/q"),
        ),
    )
    assert answer.json["type"] == "batch-response"
    assert statuses(answer) == ["200", "404", "400", "201", "200", "200", "200", "200", "200"]
    entries = answer.json["entry"]
    assert entries[0]["resource"]["id"] == "p"
    assert entries[1]["response"]["outcome"]["issue"][0]["code"] == "not-found"
    assert entries[2]["response"]["outcome"]["issue"][0]["expression"] == ["Patient.gender"]
    assert entries[3]["response"]["etag"] == 'W/"1"'
    assert entries[3]["response"]["location"].endswith("/Patient/q/_history/1")
    assert "lastModified" in entries[3]["response"]
    assert entries[5]["resource"]["total"] == 1


def test_an_entry_of_a_batch_that_cannot_be_read_fails_alone(api: Api) -> None:
    broken: list[Any] = [
        {},
        {"request": {"method": "GET"}},
        {"request": {"method": "GO", "url": "Patient"}},
        {"request": {"method": "GET", "url": 7}},
        {"request": {"method": "GET", "url": "Nothing/at/all/here/now"}},
        {"request": {"method": "PUT", "url": "metadata"}},
        "text",
    ]
    answer = api.post("", bundle("batch", *broken, entry("POST", "Patient", patient())))
    found = statuses(answer)
    assert found[-1] == "201"
    assert all(status in ("400", "404", "405") for status in found[:-1])


def test_a_batch_does_not_resolve_references_between_its_entries(api: Api) -> None:
    answer = api.post(
        "",
        bundle(
            "batch",
            entry("POST", "Patient", patient(), f"{URN}1"),
            entry("POST", "Observation", observation(f"{URN}1")),
        ),
    )
    assert statuses(answer) == ["201", "201"]
    assert api.get(location(answer, 1)).json["subject"]["reference"] == f"{URN}1"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (patient(), "structure"),
        ([], "structure"),
        ({"resourceType": "Bundle"}, "value"),
        ({"resourceType": "Bundle", "type": "searchset"}, "value"),
        ({"resourceType": "Bundle", "type": "message"}, "value"),
        ({"resourceType": "Bundle", "type": "batch", "entry": {}}, "structure"),
    ],
)
def test_what_is_no_batch_or_transaction_is_refused(api: Api, body: Any, code: str) -> None:
    answer = api.post("", body)
    assert (answer.status, answer.issue["code"]) == (400, code)


def test_an_empty_bundle_is_answered_with_an_empty_one(api: Api) -> None:
    for kind in ("batch", "transaction"):
        assert api.post("", {"resourceType": "Bundle", "type": kind}).json == {
            "resourceType": "Bundle",
            "type": f"{kind}-response",
        }


def test_a_bundle_inside_a_bundle_is_not_run(api: Api) -> None:
    inner = bundle("batch", entry("POST", "Patient", patient()))
    assert statuses(api.post("", bundle("batch", entry("POST", "", inner)))) == ["400"]
    assert api.found("Patient") == []


# Transaction


def test_references_between_entries_become_the_new_ids(api: Api) -> None:
    answer = api.post(
        "",
        bundle(
            "transaction",
            entry("POST", "Observation", observation(f"{URN}1", note=[{"text": f"see {URN}1"}]), f"{URN}2"),
            entry("POST", "Patient", patient(link=[{"other": {"reference": f"{URN}3"}, "type": "seealso"}]), f"{URN}1"),
            entry("PUT", "Patient/fixed", patient(id="fixed"), f"{URN}3"),
        ),
    )
    assert statuses(answer) == ["201", "201", "201"]
    made = api.get(location(answer, 0)).json
    assert made["subject"]["reference"] == location(answer, 1)
    assert api.get(location(answer, 1)).json["link"][0]["other"]["reference"] == "Patient/fixed"
    assert api.found(f"Observation?subject={location(answer, 1)}") == [made["id"]]


def test_all_or_nothing(api: Api) -> None:
    api.store(patient(id="stays"))
    answer = api.post(
        "",
        bundle(
            "transaction",
            entry("POST", "Patient", patient()),
            entry("DELETE", "Patient/stays"),
            entry("POST", "Patient", patient(gender="x")),
        ),
    )
    assert answer.status == 400
    assert answer.json["resourceType"] == "OperationOutcome"
    assert answer.issue["diagnostics"].startswith("Entry 2: ")
    assert answer.issue["expression"] == ["Bundle.entry[2].resource.Patient.gender"]
    assert api.found("Patient") == ["stays"]


def test_deletes_come_first_and_reads_last_whatever_the_order_of_entries(api: Api) -> None:
    api.store(patient(id="old", identifier=[{"system": "urn:x", "value": "1"}]))
    answer = api.post(
        "",
        bundle(
            "transaction",
            entry("GET", "Patient?identifier=urn:x|1"),
            entry("PUT", "Patient/put", patient(id="put")),
            entry(
                "POST",
                "Patient",
                patient(identifier=[{"system": "urn:x", "value": "1"}]),
                ifNoneExist="identifier=urn:x|1",
            ),
            entry("DELETE", "Patient/old"),
        ),
    )
    assert statuses(answer) == ["200", "201", "201", "200"]
    found = answer.json["entry"][0]["resource"]["entry"]
    assert [f"Patient/{each['resource']['id']}" for each in found] == [location(answer, 2)]


def test_conditional_entries(api: Api) -> None:
    mrn = [{"system": "urn:x", "value": "1"}]
    api.store(patient(id="one", identifier=mrn))
    answer = api.post(
        "",
        bundle(
            "transaction",
            entry("POST", "Patient", patient(identifier=mrn), f"{URN}1", ifNoneExist="identifier=urn:x|1"),
            entry("POST", "Observation", observation(f"{URN}1")),
            entry(
                "PUT", "Patient?identifier=urn:x|2", patient(identifier=[{"system": "urn:x", "value": "2"}]), f"{URN}2"
            ),
            entry("POST", "Observation", observation(f"{URN}2")),
            entry("DELETE", "Patient?identifier=urn:x|3"),
        ),
    )
    assert statuses(answer) == ["200", "201", "201", "201", "200"]
    assert api.get(location(answer, 1)).json["subject"]["reference"] == "Patient/one"
    assert api.get(location(answer, 3)).json["subject"]["reference"] == location(answer, 2)


def test_conditional_references_are_resolved(api: Api) -> None:
    api.store(patient(id="one", identifier=[{"system": "urn:x", "value": "1"}]))
    answer = api.post(
        "", bundle("transaction", entry("POST", "Observation", observation("Patient?identifier=urn:x|1")))
    )
    assert api.get(location(answer, 0)).json["subject"]["reference"] == "Patient/one"


@pytest.mark.parametrize("criteria", ["identifier=urn:x|nobody", "family=adler", "nonsense=1", "_count=1"])
def test_a_conditional_reference_without_exactly_one_match_fails_the_transaction(api: Api, criteria: str) -> None:
    for _ in range(2):
        api.create(patient())
    answer = api.post(
        "",
        bundle(
            "transaction",
            entry("POST", "Patient", patient()),
            entry("POST", "Observation", observation(f"Patient?{criteria}")),
        ),
    )
    assert answer.status in (400, 412)
    assert "Entry 1" in answer.issue["diagnostics"]
    assert len(api.found("Patient")) == 2


def test_two_entries_may_not_write_the_same_resource(api: Api) -> None:
    for second in (entry("DELETE", "Patient/a"), entry("PUT", "Patient/a", patient(id="a", gender="male"))):
        answer = api.post("", bundle("transaction", entry("PUT", "Patient/a", patient(id="a")), second))
        assert answer.status == 400
        assert "Patient/a" in answer.issue["diagnostics"]
    assert api.found("Patient") == []


def test_two_conditional_entries_may_not_write_the_same_resource(api: Api) -> None:
    api.store(patient(id="one", identifier=[{"system": "urn:x", "value": "1"}]))
    change = patient(identifier=[{"system": "urn:x", "value": "1"}])
    answer = api.post(
        "",
        bundle(
            "transaction",
            entry("PUT", "Patient?identifier=urn:x|1", {**change, "gender": "male"}),
            entry("PUT", "Patient/one", {**change, "id": "one", "gender": "female"}),
        ),
    )
    assert answer.status in (400, 409, 412)
    assert api.get("Patient/one").headers["ETag"] == 'W/"1"'


def test_the_same_full_url_twice_is_refused(api: Api) -> None:
    answer = api.post(
        "",
        bundle(
            "transaction",
            entry("POST", "Patient", patient(), f"{URN}1"),
            entry("POST", "Patient", patient(), f"{URN}1"),
        ),
    )
    assert answer.status == 400


def test_if_match_in_an_entry(api: Api) -> None:
    api.store(patient(id="p"))
    wrong = bundle("transaction", entry("PUT", "Patient/p", patient(id="p", gender="male"), ifMatch='W/"2"'))
    right = bundle("transaction", entry("PUT", "Patient/p", patient(id="p", gender="male"), ifMatch='W/"1"'))
    assert api.post("", wrong).status == 412
    assert statuses(api.post("", right)) == ["200"]


def test_patches_in_entries(api: Api) -> None:
    api.store(patient(id="p"))
    api.store(patient(id="q"))
    steps = base64.b64encode(encode([{"op": "add", "path": "/active", "value": True}])).decode()
    binary = {"resourceType": "Binary", "contentType": "application/json-patch+json", "data": steps}
    change = {
        "resourceType": "Parameters",
        "parameter": [
            {
                "name": "operation",
                "part": [
                    {"name": "type", "valueCode": "add"},
                    {"name": "path", "valueString": "Patient"},
                    {"name": "name", "valueString": "active"},
                    {"name": "value", "valueBoolean": False},
                ],
            }
        ],
    }
    answer = api.post(
        "", bundle("transaction", entry("PATCH", "Patient/p", binary), entry("PATCH", "Patient/q", change))
    )
    assert statuses(answer) == ["200", "200"]
    assert (api.get("Patient/p").json["active"], api.get("Patient/q").json["active"]) == (True, False)


@pytest.mark.parametrize(
    "resource",
    [
        None,
        {"resourceType": "Binary", "data": "%%%"},
        {"resourceType": "Binary", "data": "Nw=="},
        {"resourceType": "Binary"},
    ],
)
def test_a_patch_that_cannot_be_read_is_refused(api: Api, resource: Any) -> None:
    api.store(patient(id="p"))
    answer = api.post("", bundle("transaction", entry("PATCH", "Patient/p", resource)))
    assert 400 <= answer.status < 500
    assert "Entry 0" in answer.issue["diagnostics"]


def test_prefer_decides_whether_the_resources_come_back(api: Api) -> None:
    body = bundle("transaction", entry("POST", "Patient", patient()))
    assert "resource" in api.post("", body, Prefer="return=representation").json["entry"][0]
    assert "resource" not in api.post("", body, Prefer="return=minimal").json["entry"][0]
    outcome = api.post("", body, Prefer="return=OperationOutcome").json["entry"][0]
    assert outcome["response"]["outcome"]["resourceType"] == "OperationOutcome"


def test_absolute_urls_of_this_base_are_understood(api: Api) -> None:
    api.store(patient(id="p"))
    answer = api.post("", bundle("transaction", entry("GET", f"http://api.test{api.base}/Patient/p")))
    assert statuses(answer) == ["200"]
    assert answer.json["entry"][0]["resource"]["id"] == "p"


def test_an_operation_that_reads_may_be_an_entry(api: Api) -> None:
    api.store(patient(id="p"))
    answer = api.post(
        "", bundle("batch", entry("GET", "Patient/p/$everything"), entry("POST", "Patient/$validate", patient()))
    )
    assert statuses(answer) == ["200", "200"]


def test_a_hundred_entries_in_one_transaction(api: Api) -> None:
    answer = api.post(
        "", bundle("transaction", *(entry("POST", "Patient", patient(), f"urn:uuid:{n}") for n in range(100)))
    )
    assert statuses(answer) == ["201"] * 100
    assert api.get("Patient?_summary=count").json["total"] == 100


def test_too_many_entries_are_refused(api: Api) -> None:
    answer = api.post("", bundle("transaction", *[entry("GET", "Patient/p")] * 5_001))
    assert (answer.status, answer.issue["code"]) == (413, "too-long")


def test_concurrent_transactions_with_the_same_conditional_create_make_one_resource(api: Api) -> None:
    mrn = [{"system": "urn:race", "value": "1"}]

    def send(number: int) -> tuple[int, str]:
        answer = api.post(
            "",
            bundle(
                "transaction",
                entry("POST", "Patient", patient(identifier=mrn), f"{URN}1", ifNoneExist="identifier=urn:race|1"),
                entry("POST", "Observation", observation(f"{URN}1")),
            ),
        )
        return answer.status, location(answer, 0) if answer.status == 200 else answer.data.decode()

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(send, range(24)))
    patients = api.found("Patient?identifier=urn:race|1")
    assert len(patients) == 1
    assert {status for status, _ in answers} <= {200, 409, 503}, answers
    written = [where for status, where in answers if status == 200]
    assert set(written) == {f"Patient/{patients[0]}"}
    assert len(api.found("Observation?_count=200")) == len(written)
    assert api.found(f"Observation?subject=Patient/{patients[0]}&_count=200") == api.found("Observation?_count=200")


def test_what_a_transaction_reads_it_sees_as_it_wrote_it(api: Api) -> None:
    pulse = {"system": "http://loinc.org", "concept": [{"code": "8867-4"}]}
    value_set = {"resourceType": "ValueSet", "url": "urn:new", "status": "active", "compose": {"include": [pulse]}}
    ward = {"resourceType": "Location", "id": "ward", "partOf": {"reference": "Location/house"}}
    stay = encounter("Patient/new", id="stay", location=[{"location": {"reference": "Location/ward"}}])
    asked = {
        "Observation?_include=Observation:subject": ["Observation/o", "Patient/new"],
        "Patient?_revinclude=Observation:subject": ["Observation/o", "Patient/new"],
        "Observation?code:in=urn:new": ["Observation/o"],
        "Observation?subject:Patient.family=adler": ["Observation/o"],
        "Encounter?location:below=Location/house": ["Encounter/stay"],
        "Patient?_has:Observation:subject:code=8867-4": ["Patient/new"],
        "Patient?_list=all": ["Patient/new"],
        "Patient/new/Observation": ["Observation/o"],
        "?_type=Patient": ["Patient/new"],
    }
    everybody = {"resourceType": "List", "status": "current", "mode": "working",
                 "entry": [{"item": {"reference": "Patient/new"}}]}  # fmt: skip
    body = bundle(
        "transaction",
        *(entry("GET", path) for path in asked),
        entry("PUT", "Patient/new", patient(id="new")),
        entry("PUT", "Observation/o", observation("Patient/new", id="o")),
        entry("PUT", "Location/house", {"resourceType": "Location", "id": "house"}),
        entry("PUT", "Location/ward", ward),
        entry("PUT", "Encounter/stay", stay),
        entry("PUT", "List/all", everybody | {"id": "all"}),
        entry("POST", "ValueSet", value_set),
    )
    answer = api.post("", body)
    assert answer.status == 200, answer.data
    for path, response in zip(asked, answer.json["entry"], strict=False):
        found = [each["resource"] for each in response["resource"].get("entry", [])]
        assert sorted(f"{each['resourceType']}/{each['id']}" for each in found) == asked[path], path


def test_a_search_by_post_in_a_transaction_reads_what_the_others_wrote(api: Api) -> None:
    body = bundle("transaction", entry("POST", "Patient/_search?family=adler"), entry("POST", "Patient", patient()))
    answer = api.post("", body)
    assert answer.status == 200, answer.data
    assert answer.json["entry"][0]["resource"]["total"] == 1


def test_a_search_in_a_transaction_waits_for_no_index_while_it_runs(api: Api, installation: Installation) -> None:
    api.store(patient(id="p"))
    collection = installation.server.store.database.collection("Basic")
    api.store({"resourceType": "Basic", "id": "b", "code": {"text": "x"}, "created": "2020-01-01"})
    assert "s.created:w k.created.lo k.created.hi" not in collection.index_information()
    body = bundle("transaction", entry("GET", "Basic?created=2020&_sort=-identifier"))
    assert api.post("", body).json["entry"][0]["resource"]["total"] == 1
    names = collection.index_information()
    assert {"s.created:w k.created.lo k.created.hi", "k.identifier.hi"} <= set(names)


def test_a_history_in_a_transaction_has_what_the_others_wrote(api: Api) -> None:
    api.store(patient(id="p"))
    doctor = {"resourceType": "Practitioner", "id": "doc", "name": [{"family": "Doktor"}]}
    changed = patient(id="p", generalPractitioner=[{"reference": "Practitioner/doc"}])
    body = bundle(
        "transaction",
        entry("GET", "Patient/p/_history"),
        entry("GET", "Patient/p/_history/2"),
        entry("GET", "Patient/p/_history/1"),
        entry("GET", "Patient/p/$everything"),
        entry("PUT", "Patient/p", changed),
        entry("PUT", "Practitioner/doc", doctor),
    )
    answer = api.post("", body)
    assert answer.status == 200, answer.data
    history, second, first, whole = (each["resource"] for each in answer.json["entry"][:4])
    assert [each["response"]["etag"] for each in history["entry"]] == ['W/"2"', 'W/"1"']
    assert [each["meta"]["versionId"] for each in (second, first)] == ["2", "1"]
    assert [each["resource"]["id"] for each in whole["entry"]] == ["p", "doc"]


@pytest.mark.parametrize(
    "url", ["Patient?birthdate=never", "Patient?_list=nowhere", "Patient?_has:Observation:nope:code=1"]
)
def test_a_fault_in_the_url_of_an_entry_is_said_to_be_there(api: Api, url: str) -> None:
    answer = api.post("", bundle("transaction", entry("POST", "Patient", patient()), entry("GET", url)))
    assert 400 <= answer.status < 500
    assert answer.issue["expression"] == ["Bundle.entry[1].request.url"]
    assert url.partition("?")[2].partition("=")[0].strip("_") in answer.issue["diagnostics"].replace("List", "list")
