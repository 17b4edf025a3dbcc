"""`fhirserver api` as people type it, against a running installation and against a server that is not ours."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest
from joserfc.jwk import ECKey

from tests.running import Running

CLI_EXAMPLE = """{
"resourceType": "ClientApplication",
"id": "cli",
"name": "CLI",
"grantType": [
"client_credentials"
],
"responseTypes": "token",
"secret": "my-super-secret",
"scope": "openid system/*.*"
}"""
PORTAL_EXAMPLE = """{
"resourceType": "ClientApplication",
"id": "patient-portal",
"name": "Patient Portal",
"grantType": [
"authorization_code",
"refresh_token"
],
"responseTypes": "token",
"redirectUri": [
"https://portal.example.com/callback"
],
"scope": "openid profile email patient/*.read offline_access",
"logoUri": "https://portal.example.com/logo.png"
}"""


@dataclass
class Shell:
    """Runs the command with a configuration directory of its own."""

    home: Path
    running: Running | None = None

    def run(self, *words: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
        environ = {**(self.running.environ() if self.running else {}), "XDG_CONFIG_HOME": str(self.home)}
        argv = [sys.executable, "-m", "fhirserver", "api", *words]
        how: dict[str, Any] = {"stdin": subprocess.DEVNULL} if given is None else {"input": given}
        return subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=60, check=False, **how)

    def text(self, *words: str, given: str | None = None) -> str:
        done = self.run(*words, given=given)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def json(self, *words: str, given: str | None = None) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.text(*words, given=given))
        return found

    def file(self, name: str) -> Path:
        return self.home / "fhirserver" / name


@pytest.fixture(scope="module")
def shell(running: Running, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """Somebody with two profiles: `registry`, in use, and `lakeside`, an organization's base."""
    made = Shell(tmp_path_factory.mktemp("config"), running)
    provider = running.cli("organization", "create", "Lakeside")
    application = running.cli("organization", "create", "Acme", "--kind", "application")
    for name, organization, path in (
        ("registry", application, "fhir/4"),
        ("lakeside", provider, f"organizations/{provider}/fhir/4"),
    ):
        token = running.cli("token", "--organization", organization)
        url = ("--base-url", f"{running.base_url}/1/health/{path}/")
        made.text("profile", "add", name, *url, "--auth", "bearer", "--secret-file", "-", given=f"{token}\n")
    return made


LAKESIDE = ("--profile", "lakeside")


def test_the_examples_of_registration_are_taken_as_they_stand(shell: Shell) -> None:
    made = shell.json("create", "r4", "--data", CLI_EXAMPLE)
    assert (made["id"], made["kind"], made["secret"]) == ("cli", "test", "my-super-secret")
    missing = shell.run("read", "r4", "ClientApplication", "my-backend-service")
    assert (missing.returncode, missing.stdout) == (1, "")
    told = "Error: 404 Not Found\n  error not-found: ClientApplication/my-backend-service is not known here.\n"
    assert missing.stderr == told
    assert "secret" not in shell.json("read", "r4", "ClientApplication", "cli")
    assert shell.json("create", "r4", "--data", PORTAL_EXAMPLE)["id"] == "patient-portal"


def test_a_resource_goes_through_its_whole_life(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "patient.json").write_text('{"resourceType": "Patient", "name": [{"family": "Adams"}]}')
    made = shell.json("create", "r4", *LAKESIDE, "--file", str(tmp_path / "patient.json"))
    id = made["id"]
    again = shell.json("update", "r4", *LAKESIDE, given=json.dumps({**made, "gender": "female"}))
    assert again["meta"]["versionId"] == "2"
    patch = '[{"op": "add", "path": "/birthDate", "value": "1970-01-01"}]'
    assert shell.json("patch", "r4", "Patient", id, *LAKESIDE, "--data", patch, "--if-match", "2")["birthDate"]
    lost = shell.run("patch", "r4", f"Patient/{id}", *LAKESIDE, "--data", patch, "--if-match", "2")
    assert lost.returncode == 1
    assert "412" in lost.stderr
    assert "birthDate" not in shell.json("read", "r4", "Patient", id, "--version", "2", *LAKESIDE)
    shell.text("delete", "r4", "Patient", id, *LAKESIDE)
    assert "410 Gone" in shell.run("read", "r4", f"Patient/{id}", *LAKESIDE).stderr
    assert len(shell.json("history", "r4", "Patient", id, *LAKESIDE)["entry"]) == 4
    lines = shell.text("history", "r4", "Patient", id, "_count=1", "--all", *LAKESIDE).splitlines()
    assert [json.loads(line).get("request", {}).get("method") for line in lines] == ["DELETE", None, None, None]


def test_a_search_is_followed_to_its_end_and_prints_numbers_as_they_are(shell: Shell) -> None:
    for number in ("1.10", "2.00", "3.5"):
        value = f'{{"value": {number}}}'
        text = (
            f'{{"resourceType": "Observation", "status": "final", "code": {{"text": "x"}}, "valueQuantity": {value}}}'
        )
        shell.text("create", "r4", *LAKESIDE, "--data", text)
    lines = shell.text("search", "r4", "Observation", "_count=1", "_sort=_lastUpdated", "--all", *LAKESIDE).splitlines()
    assert ['"value":1.10' in lines[0], '"value":2.00' in lines[1], len(lines)] == [True, True, 3]
    shown = shell.text("search", "r4", "Observation", "?value-quantity=lt2&_count=5", *LAKESIDE)
    assert '"value": 1.10\n' in shown
    posted = shell.json("search", "r4", "Observation", "value-quantity=3.5", "--post", *LAKESIDE)
    assert posted["total"] == 1
    assert shell.json("search", "r4", "_type=Patient,Observation", *LAKESIDE)["resourceType"] == "Bundle"


def test_bundles_operations_and_capabilities(shell: Shell) -> None:
    patient = {"resourceType": "Patient", "id": "p1"}
    entries = [
        {"resource": patient, "request": {"method": "PUT", "url": "Patient/p1"}},
        {"request": {"method": "GET", "url": "Patient/nobody"}},
    ]
    bundle = {"resourceType": "Bundle", "type": "batch", "entry": entries}
    done = shell.run("transaction", "r4", *LAKESIDE, given=json.dumps(bundle))
    assert (done.returncode, done.stderr) == (1, "refused: entries 1 (the first is 0)\n")
    assert len(json.loads(done.stdout)["entry"]) == 2
    whole = {**bundle, "type": "transaction", "entry": entries[:1]}
    shell.text("transaction", "r4", *LAKESIDE, "--data", json.dumps(whole))
    found = shell.json("operation", "r4", "$everything", "Patient", "p1", "_count=10", *LAKESIDE)
    assert [entry["resource"]["id"] for entry in found["entry"]] == ["p1"]
    judged = shell.json("operation", "r4", "validate", "Patient", "--data", json.dumps(patient), *LAKESIDE)
    assert judged["resourceType"] == "OperationOutcome"
    assert shell.json("capabilities", "r4", *LAKESIDE)["fhirVersion"] == "4.0.1"


def test_a_client_gets_its_own_tokens_and_keeps_them_while_they_last(shell: Shell, running: Running) -> None:
    client = {"resourceType": "ClientApplication", "id": "keeper", "name": "K", "grantType": ["client_credentials"]}
    shell.text("create", "r4", given=json.dumps({**client, "secret": "my-super-secret", "scope": "system/*.rs"}))
    url = ("--base-url", f"{running.base_url}/1/health/fhir/4", "--auth", "client_credentials")
    shell.text("profile", "add", "self", *url, "--client-id", "keeper", "--secret-file", "-", given="my-super-secret")
    itself = ("read", "r4", "ClientApplication", "keeper", "--profile", "self")
    assert shell.json(*itself)["id"] == "keeper"
    kept = shell.file("tokens.json").read_text()
    shell.text(*itself)
    assert shell.file("tokens.json").read_text() == kept
    for name in ("tokens.json", "api.json"):
        assert stat.S_IMODE(shell.file(name).stat().st_mode) == 0o600
    token = next(iter(json.loads(kept).values()))["token"]
    shell.file("tokens.json").write_text(kept.replace(token, f"{token[:-9]}revoked-x"))
    assert shell.json(*itself)["id"] == "keeper"  # refused for its token, it asked for another one
    shell.text("profile", "remove", "self")
    assert shell.file("tokens.json").read_text().strip() == "{}"


def test_a_client_signs_with_its_key(shell: Shell, running: Running, tmp_path: Path) -> None:
    key = ECKey.generate_key("P-384")
    (tmp_path / "key.pem").write_bytes(key.as_pem(private=True))
    public = {**key.as_dict(private=False), "kid": key.thumbprint(), "use": "sig", "alg": "ES384"}
    client = {"resourceType": "ClientApplication", "id": "signer", "name": "S", "grantType": ["client_credentials"],
              "jwks": json.dumps({"keys": [public]}), "scope": "system/*.rs"}  # fmt: skip
    shell.text("create", "r4", given=json.dumps(client))
    url = ("--base-url", f"{running.base_url}/1/health/fhir/4", "--auth", "client_credentials")
    shell.text("profile", "add", "signer", *url, "--client-id", "signer", "--key-file", str(tmp_path / "key.pem"))
    assert shell.json("read", "r4", "ClientApplication", "signer", "--profile", "signer")["name"] == "S"


# A server of somebody else's


class Foreign(BaseHTTPRequestHandler):
    """What servers do that ours does not."""

    seen: ClassVar[list[tuple[str, str]]] = []

    def do_GET(self) -> None:
        self.seen.append((self.path, self.headers.get("Authorization", "")))
        port = self.server.server_address[1]
        link = {"/fhir/Elsewhere": "http://127.0.0.2:1/next", "/fhir/Circle": f"http://127.0.0.1:{port}/fhir/Circle"}
        if self.path == "/fhir/Patient/slow":
            time.sleep(3)
        if self.path == "/fhir/Patient/moved":
            return self._answer(301, {}, Location="https://elsewhere.example/fhir")
        if self.path == "/fhir/Patient/colour":
            issue = {"severity": "error", "code": "processing", "details": {"text": "red \x1b[31m alert\r\n"}}
            return self._answer(422, {"resourceType": "OperationOutcome", "issue": [issue]})
        if self.path in link:
            entry = [{"resource": {"resourceType": "Patient", "id": "1"}}]
            links = [{"relation": "next", "url": link[self.path]}]
            return self._answer(200, {"resourceType": "Bundle", "link": links, "entry": entry})
        return self._answer(200, {"resourceType": "Patient", "id": "1"})

    def _answer(self, status: int, body: Any, **headers: str) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


@pytest.fixture
def foreign(tmp_path: Path) -> Iterator[Shell]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Foreign)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    made = Shell(tmp_path)
    url = f"http://127.0.0.1:{server.server_address[1]}/fhir"
    made.text("profile", "add", "hapi", "--base-url", url, "--auth", "basic", "--user", "me", "--secret-file", "-",
              given="pass:word")  # fmt: skip
    yield made
    server.shutdown()
    server.server_close()
    thread.join()


def test_basic_authentication_at_any_server(foreign: Shell) -> None:
    assert foreign.json("read", "r4", "Patient", "1")["id"] == "1"
    assert Foreign.seen[-1] == ("/fhir/Patient/1", "Basic " + b64encode(b"me:pass:word").decode())
    assert "pass:word" not in foreign.text("profile", "list")


@pytest.mark.parametrize(("words", "code", "said"), [
    (("read", "r4", "Patient", "moved"), 1, "it redirects to https://elsewhere.example/fhir"),
    (("read", "r4", "Patient", "colour"), 1, "error processing: red  [31m alert\n"),
    (("read", "r4", "Patient", "slow", "--timeout", "0.5"), 3, "did not answer within 0.5 s"),
    (("search", "r4", "Elsewhere", "--all"), 1, "The next link leads to another server: http://127.0.0.2:1/next"),
    (("search", "r4", "Circle", "--all"), 1, "again to a page seen before"),
    (("read", "r4", "Patient", "1", "--profile", "none"), 2, "There is no profile none"),
    (("read", "r4", "Patient"), 2, "say which: TYPE ID"),
    (("create", "r4", "Patient", "--data", '{"resourceType": "Group"}'), 2, "the data is a Group, not a Patient"),
    (("create", "r4", "--data", "{"), 2, "the data is not JSON"),
    (("read", "r5", "Patient", "1"), 2, "'r5' is not 'r4'"),
])  # fmt: skip
def test_what_goes_wrong_is_said_in_words_and_by_the_exit_code(
    words: tuple[str, ...], code: int, said: str, foreign: Shell
) -> None:
    done = foreign.run(*words)
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_of_secrets_that_others_can_read_is_not_used(foreign: Shell) -> None:
    foreign.file("api.json").chmod(0o644)
    done = foreign.run("read", "r4", "Patient", "1")
    assert (done.returncode, "chmod 600" in done.stderr) == (2, True)


def test_the_command_imports_nothing_of_the_server() -> None:
    code = "import sys, fhirserver.cli, fhirserver.remote.calls; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    ours = {name for name in loaded if name.startswith("fhirserver.")} - {"fhirserver.cli", "fhirserver.logs"}
    assert {name for name in ours if not name.startswith("fhirserver.remote")} == {
        *("fhirserver.beside", "fhirserver.settings", "fhirserver.upkeep"),  # of the command line too
    }
    assert not {"pymongo", "flask", "joserfc", "urllib3"} & set(loaded)
