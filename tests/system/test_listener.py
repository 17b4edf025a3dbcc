"""The listener as a process of its own: TLS with client certificates, its bounds, and input that is none."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import pytest
import trustme
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from fhirserver import app, local
from fhirserver.embedded import free_port
from fhirserver.fhir.problem import Problem
from fhirserver.hl7v2.framing import frame
from fhirserver.hl7v2.message import Message
from fhirserver.hl7v2.process import process
from fhirserver.hl7v2.send import Connection
from fhirserver.hl7v2.senders import CERTIFICATE, SUBJECT, endpoint_resource
from fhirserver.rules.organization import kind_concept
from fhirserver.settings import Secret, Settings
from tests.system import dying

OFFERED = 10_000
KEY = "a master key for tests that is long enough"


@dataclass
class House:
    """An installation's database and folder, and listeners over it."""

    folder: Path
    mongo_url: str
    authority: trustme.CA = field(default_factory=lambda: trustme.CA())
    database: str = field(default_factory=lambda: f"listen-{uuid.uuid4().hex[:8]}")

    def environ(self, **more: object) -> dict[str, str]:
        given = {"data": self.folder, "mongo_url": self.mongo_url, "mongo_database": self.database, "master_key": KEY}
        return {f"FHIRSERVER_{name.upper()}": str(value) for name, value in (given | more).items()}

    def settings(self) -> Settings:
        """What the commands beside the listeners have."""
        return Settings(
            data=self.folder,
            mongo_url=Secret(self.mongo_url),
            mongo_database=self.database,
            master_key=Secret(KEY),
            public_url="http://listen.test",
        )

    def organization(self, *endpoints: dict[str, object]) -> str:
        """A new hospital with these endpoints."""
        with app.opened(self.settings()) as installation:
            kind = [kind_concept("provider")]
            made = {"resourceType": "Organization", "active": True, "name": "Lakeside", "type": kind}
            id = local._create(installation.server, made)
            for each in endpoints:
                managed = {"managingOrganization": {"reference": f"Organization/{id}"}}
                local._create(installation.server, {**each, **managed})
            return id

    def certificate(self, name: str, **more: str) -> tuple[Path, str]:
        """A client's certificate and key in one file, and its fingerprint."""
        made = self.authority.issue_cert(f"{name}.example", common_name=name, **more)
        path = self.folder / f"{name}.pem"
        made.private_key_and_cert_chain_pem.write_to_path(path)
        der = ssl.PEM_cert_to_DER_cert(made.cert_chain_pems[0].bytes().decode())
        return path, sha256(der).hexdigest()

    @contextlib.contextmanager
    def listening(self, **more: object) -> Iterator[int]:
        """A listener process on a free port."""
        port = free_port()
        environ = os.environ | self.environ(mllp_port=port, public_url="http://listen.test", **more)
        with (self.folder / "listener.log").open("wb") as log:
            running = subprocess.Popen([sys.executable, "-m", "fhirserver", "mllp"], env=environ, stderr=log)
            try:
                until(lambda: _open(port), 60)
                yield port
                assert running.poll() is None, "it has not ended"
            finally:
                running.send_signal(signal.SIGTERM)
                assert running.wait(30) == 0


def until(true: object, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _open(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def message(facility: str, control: str = "") -> bytes:
    return (
        f"MSH|^~\\&|ADT1|{facility}|X|Y|20260101120000||ADT^A01|{control or uuid.uuid4().hex[:20]}|P|2.5\rEVN|A01\r"
        f"PID|1||88^^^{facility}^MR||Bramwell^Ottilie\rPV1|1|I\r"
    ).encode()


@pytest.fixture(scope="module")
def house(mongo_url: str, tmp_path_factory: pytest.TempPathFactory) -> House:
    return House(tmp_path_factory.mktemp("listener"), mongo_url)


@pytest.fixture(scope="module")
def plain(house: House) -> Iterator[int]:
    house.organization(endpoint_resource("", "", "PLAIN", False))
    with house.listening(mllp_connections=300, mllp_connections_per_peer=200) as port:
        yield port


def test_more_than_can_be_held_is_shed_and_whoever_is_quick_is_served(house: House) -> None:
    """Sixty senders begin four megabytes each and stop short: the listener holds no more than it may."""
    house.organization(endpoint_resource("", "", "HELD", False))
    with house.listening(mllp_max_message=4 * 1024 * 1024) as port, contextlib.ExitStack() as open_:
        hung_up = 0
        for _ in range(80):
            one = open_.enter_context(Connection("127.0.0.1", port, timeout=20))
            try:
                one.raw(b"\x0bMSH|^~\\&|ADT1|HELD|" + b"x" * (4 * 1024 * 1024 - 100))
                one._socket.settimeout(0.05)
                hung_up += one._socket.recv(1) == b""
            except TimeoutError:
                continue
            except OSError:
                hung_up += 1
        assert hung_up >= 10
        large = message("HELD") + b"NTE|1||" + b"x" * 40_000 + b"\r"
        assert told(port, large) == "AA"


def told(port: int, raw: bytes, tls: ssl.SSLContext | None = None) -> str:
    """MSA-1 of the answer to one message on a connection of its own."""
    with Connection("127.0.0.1", port, tls=tls, timeout=20) as connection:
        return Message.parse(connection.send(raw))["MSA-1"]


def test_client_certificates_say_whose_messages_are_taken(house: House) -> None:
    house.authority.cert_pem.write_to_path(house.folder / "ca.pem")
    server, _ = house.certificate("server")
    house.authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(server)
    lakeside, fingerprint = house.certificate("lakeside")
    hillside, _ = house.certificate("hillside", organization_name="Hillside")
    other, _ = house.certificate("other")
    bound = endpoint_resource("", "", "", False)
    house.organization({**bound, "identifier": [{"system": CERTIFICATE, "value": fingerprint.upper()}]})
    house.organization({**bound, "identifier": [{"system": SUBJECT, "value": "O=Hillside, CN=hillside"}]})
    house.organization(endpoint_resource("", "", "OPEN", False))

    def shows(path: Path | None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(house.folder / "ca.pem"))
        if path:
            context.load_cert_chain(path)
        return context

    tls = {"mllp_certificate": server, "mllp_client_ca": house.folder / "ca.pem"}
    with house.listening(**tls) as port:
        assert told(port, message("ANY"), shows(lakeside)) == "AA"
        assert told(port, message("ANY"), shows(hillside)) == "AA", "by the subject, in any order"
        assert told(port, message("OPEN"), shows(other)) == "AA", "an Endpoint that asks for no certificate"
        assert told(port, message("ANY"), shows(other)) == "AR"
        with pytest.raises((ssl.SSLError, Problem, OSError)):
            told(port, message("OPEN"), shows(None))
        with pytest.raises((Problem, OSError)):
            told(port, message("OPEN"))
        stranger = trustme.CA().issue_cert("lakeside.example", common_name="lakeside")
        stranger.private_key_and_cert_chain_pem.write_to_path(house.folder / "stranger.pem")
        with pytest.raises((ssl.SSLError, Problem, OSError)):
            told(port, message("ANY"), shows(house.folder / "stranger.pem"))
    kept = house.folder / "listener.log"
    assert b"Traceback" not in kept.read_bytes()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ten_thousand_connections_offered_hurt_nobody_who_has_one(plain: int) -> None:
    refused, slowest = 0, 0.0
    with Connection("127.0.0.1", plain, timeout=20) as working:
        offered: list[socket.socket] = []
        for number in range(OFFERED):
            offered.append(_offer(plain))
            if number % 500 == 499:
                begun = time.monotonic()
                assert b"MSA|AA|" in working.send(message("PLAIN"))
                slowest = max(slowest, time.monotonic() - begun)
                refused += sum(_hung_up(each) for each in offered)
                for each in offered:
                    each.close()
                offered.clear()
    assert refused > OFFERED // 2
    assert slowest < 10, "seconds for a message while connections are refused"
    until(lambda: told(plain, message("PLAIN")) == "AA", 20)


def test_a_process_killed_at_any_step_loses_and_repeats_nothing(house: House) -> None:
    facility = f"K{uuid.uuid4().hex[:8]}".upper()
    organization = house.organization(endpoint_resource("", "", facility, False))
    environ = os.environ | house.environ(public_url="http://listen.test")
    words = [sys.executable, "-m", "tests.system.dying", organization, facility]
    done = subprocess.run(words, env=environ, capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.split() == ["0"] + [str(dying.KILLED)] * len(dying.STEPS), done.stderr
    with app.opened(house.settings()) as installation:
        intake, server = installation.intake(), installation.server
        database = server.store.database
        before = database.collection("InboundMessage").count_documents({"o": organization})
        assert before == 1 + len(dying.STEPS) - 3, "all but those that ended before they were stored"
        # As if some seconds had passed: leases have run out. Who takes one over ends what its holder had begun.
        database.collection("leases").update_many({}, [{"$set": {"until": "$$NOW"}}])
        for number in range(len(dying.STEPS)):
            answer = intake.take(dying.message(facility, number), "", organization)
            assert answer is not None
            assert Message.parse(answer)["MSA-1"] == "AA"
        kept = list(database.collection("InboundMessage").find({"o": organization}))
        for each in kept:
            process(intake, organization, each["s"]["lane"][0])
        assert len(kept) == 1 + len(dying.STEPS)
        stored = {name: database.collection(name).find({"o": organization}) for name in ("Patient", "Provenance")}
        assert [each["v"] for each in stored["Patient"]] == [1] * (1 + len(dying.STEPS))
        assert len(list(stored["Provenance"])) == 1 + len(dying.STEPS), "one for each: applied once"
        waiting = database.collection("InboundMessage").count_documents({"o": organization, "s.status": "received"})
        assert not waiting


def _offer(port: int) -> socket.socket:
    made = socket.create_connection(("127.0.0.1", port), timeout=20)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # leaves no port waiting
    return made


def _hung_up(connection: socket.socket) -> bool:
    connection.settimeout(0.01)
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


PIECES = st.one_of(
    st.binary(max_size=200),
    st.sampled_from(
        [b"\x0b", b"\x1c\r", b"\x1c", b"\r", b"\n", b"\x0b\x0b", b"MSH|", b"MSH|^~\\&|", b"PID|1||", b"\x00"]),
    st.builds(lambda body: frame(b"MSH|^~\\&|ADT1|PLAIN|" + body), st.binary(max_size=200)),
    st.builds(lambda cut: frame(message("PLAIN", "FUZZ"))[: cut], st.integers(0, 300)),
    st.builds(
        lambda at, byte: bytes([*frame(message("PLAIN", "FUZZ"))[:at], byte, *frame(message("PLAIN", "FUZZ"))[at:]]),
        st.integers(0, 150), st.integers(0, 255),
    ),
)  # fmt: skip


@examples(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(PIECES, max_size=8))
def test_nothing_that_is_sent_ends_or_stalls_the_listener(plain: int, pieces: list[bytes]) -> None:
    with socket.create_connection(("127.0.0.1", plain), timeout=20) as connection, contextlib.suppress(OSError):
        for piece in pieces:
            connection.sendall(piece)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass  # it hangs up when it has answered what there was
    assert told(plain, message("PLAIN", "ALIVE")) == "AA"
