"""Log lines: one event a line, machine-readable, with nothing a patient could be known by."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from fhirserver import logs


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def _lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_a_line_is_one_json_object_with_its_facts_and_request(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json", "web")
    token = logs.request_id.set("r-1")
    logging.getLogger("fhirserver.web").info("answered\nfine", extra={"facts": {"status": 200}})
    logs.request_id.reset(token)

    (line,) = _lines(capsys)
    facts = json.loads(line)
    assert {name: facts[name] for name in ("level", "process", "logger", "message", "request", "status")} == {
        "level": "info",
        "process": "web",
        "logger": "fhirserver.web",
        "message": "answered\nfine",
        "request": "r-1",
        "status": 200,
    }


def test_an_exception_is_logged_by_type_and_place_without_its_message(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json", "web")
    try:
        raise KeyError("Smith")
    except KeyError:
        logging.getLogger("x").exception("something unforeseen")

    (line,) = _lines(capsys)
    assert json.loads(line)["exception"] == "KeyError"
    assert "test_logs.py" in json.loads(line)["at"][0]
    assert "Smith" not in line


def test_text_stays_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "text", "web")
    logging.getLogger("x").warning("one\ntwo", extra={"facts": {"count": 2}})

    (line,) = _lines(capsys)
    assert line.endswith("WARNING web x one\\ntwo count=2")


def test_lines_below_the_level_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("warning", "json", "web")
    logging.getLogger("x").info("quiet")

    assert _lines(capsys) == []
