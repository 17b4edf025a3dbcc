"""history of a resource: entries, order, _since, _at, _count and paging. FHIR R4: http#history."""

from __future__ import annotations

import time

import pytest

from tests.api.client import Answer, Api
from tests.api.samples import patient


def versions(answer: Answer) -> list[str]:
    """The ETags of the entries, in order."""
    assert answer.status == 200, answer.data
    return [each["response"]["etag"] for each in answer.json.get("entry", [])]


def test_the_versions_come_newest_first_with_what_made_them(api: Api) -> None:
    made = api.create(patient())
    api.store({**made, "gender": "male"})
    api.delete(f"Patient/{made['id']}")
    answer = api.get(f"Patient/{made['id']}/_history")
    assert answer.json["type"] == "history"
    entries = answer.json["entry"]
    assert [(each["request"]["method"], each["response"]["status"][:3]) for each in entries] == [
        ("DELETE", "204"),
        ("PUT", "200"),
        ("POST", "201"),
    ]
    assert versions(answer) == ['W/"3"', 'W/"2"', 'W/"1"']
    assert "resource" not in entries[0]
    assert entries[1]["resource"]["gender"] == "male"
    assert entries[2]["resource"] == made
    assert entries[2]["request"]["url"] == "Patient"
    assert all(each["fullUrl"].endswith(f"/Patient/{made['id']}") for each in entries)


def test_what_never_was_has_no_history(api: Api) -> None:
    assert api.get("Patient/nobody/_history").status == 404


def test_pages_follow_each_other_without_repeating_or_leaving_out(api: Api) -> None:
    api.store(patient(id="many"))
    for number in range(1, 8):
        api.store(patient(id="many", multipleBirthInteger=number))
    seen, url = [], "Patient/many/_history?_count=3"
    while url:
        answer = api.get(url)
        seen += versions(answer)
        url = answer.link("next") or ""
    assert seen == [f'W/"{number}"' for number in range(8, 0, -1)]


def test_pages_of_history_do_not_shift_when_versions_are_added(api: Api) -> None:
    for number in range(6):
        api.store(patient(id="many", multipleBirthInteger=number))
    first = api.get("Patient/many/_history?_count=3")
    api.store(patient(id="many", multipleBirthInteger=99))
    second = api.get(first.link("next") or "")
    assert versions(first) + versions(second) == [f'W/"{number}"' for number in range(6, 0, -1)]


def test_since_answers_the_versions_from_that_instant_on(api: Api) -> None:
    made = api.create(patient())
    time.sleep(0.02)
    second = api.store({**made, "gender": "male"})
    since = second["meta"]["lastUpdated"]
    assert versions(api.get(f"Patient/{made['id']}/_history?_since={since}")) == ['W/"2"']


def test_at_answers_the_version_that_was_current_then(api: Api) -> None:
    made = api.create(patient())
    time.sleep(0.02)
    second = api.store({**made, "gender": "male"})
    time.sleep(0.02)
    api.store({**made, "gender": "other"})
    between = second["meta"]["lastUpdated"]
    assert versions(api.get(f"Patient/{made['id']}/_history?_at={between}")) == ['W/"2"']
    assert versions(api.get(f"Patient/{made['id']}/_history?_at=2000")) == []
    assert len(versions(api.get(f"Patient/{made['id']}/_history?_at=2020-01-01"))) == 0


@pytest.mark.parametrize(
    "query", ["_since=yesterday", "_at=2020-13", "_count=-1", "_count=x", "_cursor=abc", "nonsense=1", "_since=%00"]
)
def test_malformed_parameters_are_refused(api: Api, query: str) -> None:
    made = api.create(patient())
    answer = api.get(f"Patient/{made['id']}/_history?{query}")
    assert answer.status == 400
    assert answer.issue["diagnostics"]


def test_a_cursor_of_another_history_is_refused(api: Api) -> None:
    for id in ("a", "b"):
        for number in range(3):
            api.store(patient(id=id, multipleBirthInteger=number))
    following = api.get("Patient/a/_history?_count=1").link("next") or ""
    assert api.get(following.replace("Patient/a/", "Patient/b/")).status == 400


def test_a_huge_count_is_bounded(api: Api) -> None:
    made = api.create(patient())
    answer = api.get(f"Patient/{made['id']}/_history?_count=999999999")
    assert "_count=200" in (answer.link("self") or "")
