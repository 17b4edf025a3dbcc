"""The examples for operators say what there is: metrics, commands, settings."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from fhirserver.cli import SECTIONS, commands
from fhirserver.meters import CATALOGUE
from fhirserver.settings import Settings, variable

FOLDER = Path(__file__).parents[2] / "examples" / "operate"
FILES = sorted(path for path in FOLDER.rglob("*") if path.is_file())
UNITS = sorted((FOLDER / "systemd").glob("*.service"))


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_an_alert_looks_at_metrics_and_labels_that_there_are(rule: dict[str, Any]) -> None:
    names = {
        f"fhirserver_{each.name}{end}": each
        for each in CATALOGUE
        for end in {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}.get(each.kind, ("",))
    }
    found = re.findall(r"(fhirserver_\w+)(?:\{([^}]*)\})?", rule["expr"])
    assert {name for name, _ in found} <= set(names)
    for name, labels in found:
        assert set(re.findall(r"(\w+)\s*(?:=~|=|!=)", labels)) <= set(names[name].labels)
    assert rule["annotations"]["summary"]
    assert rule["labels"]["severity"] in ("page", "ticket")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_setting_in_an_example_is_one(path: Path) -> None:
    known = {variable(each) for each in fields(Settings)}
    assert set(re.findall(r"FHIRSERVER_[A-Z_]+", path.read_text())) <= known


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_every_unit_starts_a_command_that_there_is(path: Path) -> None:
    started = re.search(r"bin/fhirserver ([\w%-]+)", path.read_text())
    assert started
    assert started[1] == "%i" or started[1] in commands.commands


def test_every_container_runs_a_command_that_there_is_and_one_prepares_first() -> None:
    services = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]
    ours = {name: each for name, each in services.items() if each.get("image") == "fhirserver"}
    assert {each["command"] for each in ours.values()} == {"prepare", "web", "worker", "relay", "mllp"}
    assert {each["command"] for each in ours.values()} <= set(commands.commands)
    waiting = {name for name, each in ours.items() if "prepare" in each["depends_on"]}
    assert waiting == set(ours) - {"prepare"}


@pytest.mark.parametrize("name", ["web", "worker", "relay", "mllp"])
def test_the_help_of_a_process_says_what_it_needs(name: str) -> None:
    assert "FHIRSERVER_" in str(commands.commands[name].help)


def test_the_help_lists_every_command_once() -> None:
    listed = [name for names in SECTIONS.values() for name in names]
    assert sorted(listed) == sorted(commands.commands)
