"""The examples in the guide for interface engineers run as they stand against a real installation."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.running import Running

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "docs" / "guides" / "interface-engineers.md"
FIRST = ROOT / "docs" / "api" / "README.md"
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.DOTALL | re.MULTILINE)


STRICT = """
fhir -X PUT "$base/ConceptMap/strict" -d '{"resourceType":"ConceptMap","id":"strict","status":"active","extension":[
  {"url":"https://fhirserver.example/fhir/StructureDefinition/hl7v2-overlay","extension":[
   {"url":"required-table","valueString":"administrative-sex"}]}]}'
sed 's/|M|||55/|Q|||55/; s/LS00006/LS00007/' examples/hl7v2/06-z-segments-a01-2.5.hl7 > local.hl7
curl -sS -X POST "${base%/fhir/4}/hl7v2" -H "Authorization: Bearer $token" -H 'Content-Type: application/hl7-v2' \
  --data-binary @local.hl7 | grep -a 'MSA|AA'
until fhir "$base/InboundMessage?control-id=LS00007&status=code-mapping-error" | grep '"total":1'; do sleep 0.3; done
task=$(fhir "$base/Task?status=requested" | grep -o '"resourceType":"Task","id":"[0-9a-f]*"' | cut -d'"' -f8)
fhir "$base/Task/$task/\\$map-code" \\
  -d '{"resourceType":"Parameters","parameter":[{"name":"code","valueCode":"male"}]}' | grep completed
until fhir "$base/InboundMessage?control-id=LS00007&status=processed" | grep '"total":1'; do sleep 0.3; done
fhir "$base/Patient?gender=male" | grep '"total":1'
"""


def script(running: Running) -> tuple[str, dict[str, str]]:
    """What the API's first page sets, for a hospital of the installation under test, and the environment to run in."""
    hospital = running.cli("organization", "create", "Lakeside Hospital").split()[-1]
    token = running.cli("token", "--organization", hospital).split()[-1]
    (block,) = BLOCK.findall(FIRST.read_text())
    function = next(line for line in block.splitlines() if line.startswith("fhir()"))
    base = f"{running.base_url}/1/health/organizations/{hospital}/fhir/4"
    prelude = f"set -e -o pipefail\nhospital={hospital}\ntoken={token}\nbase={base}\n{function}\n"
    return prelude, {**running.environ(), "PYTHONPATH": str(ROOT)}


def run(text: str, environ: dict[str, str], folder: Path) -> str:
    """What a script prints, run beside the examples; fails if one of its commands does."""
    (folder / "examples").symlink_to(ROOT / "examples")
    text = text.replace(".venv/bin/fhirserver", f"{sys.executable} -m fhirserver")
    argv = ["bash", "-c", text]
    done = subprocess.run(argv, cwd=folder, env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    return done.stdout


@pytest.mark.skipif(not shutil.which("curl"), reason="the examples use curl")
def test_an_engineer_maps_z_segments_by_an_overlay(running: Running, tmp_path: Path) -> None:
    prelude, environ = script(running)
    said = run(prelude + "\n".join(BLOCK.findall(GUIDE.read_text())), environ, tmp_path)
    assert '{"name":"compared","valueInteger":1}' in said
    assert "Northern region" in said
    assert (tmp_path / "before.json").read_text() != (tmp_path / "after.json").read_text()


@pytest.mark.skipif(not shutil.which("curl"), reason="the examples use curl")
def test_a_message_waits_for_its_code_and_goes_on_when_it_is_mapped(running: Running, tmp_path: Path) -> None:
    prelude, environ = script(running)
    run(prelude + STRICT, environ, tmp_path)
