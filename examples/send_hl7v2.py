"""An HL7v2 message over MLLP: 0x0B, the message with CR after each segment, 0x1C 0x0D; the answer likewise."""

from __future__ import annotations

import socket
import time
from pathlib import Path

from exchange import MLLP_PORT, base, fhir, fhirserver

MESSAGE = Path(__file__).parent / "hl7v2" / "01-admit-a01-2.3.hl7"


def sent(message: bytes) -> str:
    """The acknowledgment of a message. It comes when the message is stored for good."""
    with socket.create_connection(("127.0.0.1", MLLP_PORT), timeout=30) as connection:
        connection.sendall(b"\x0b" + message + b"\x1c\r")
        answer = b""
        while not answer.endswith(b"\x1c\r"):
            part = connection.recv(65536)
            if not part:
                raise SystemExit("the connection ended without an acknowledgment")
            answer += part
    return answer.strip(b"\x0b\x1c\r").decode().replace("\r", "\n")


def main() -> None:
    """Plays it and prints the acknowledgment and what became of the message."""
    hospital = fhirserver("organization", "create", "Lakeside Hospital")
    # Whose message it is says an Endpoint, by the sender's MSH-3 and MSH-4: here a facility of this run's own.
    facility = f"FAC{hospital[-12:].upper()}"
    fhirserver("endpoint", "create", "--organization", hospital, "--sending-facility", facility)
    header, _, rest = MESSAGE.read_bytes().partition(b"\r")
    fields = header.split(b"|")
    fields[3] = facility.encode()
    print(sent(b"|".join(fields) + b"\r" + rest))

    token = fhirserver("token", "--organization", hospital)
    deadline = time.monotonic() + 30
    while True:
        (entry,) = fhir(token, "GET", f"{base(hospital)}/InboundMessage")["entry"]
        if entry["resource"]["status"] != "received" or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    print("InboundMessage:", entry["resource"]["status"])
    for type in ("Patient", "Encounter", "Provenance"):
        found = fhir(token, "GET", f"{base(hospital)}/{type}")
        print(f"{type}:", *(each["fullUrl"] for each in found["entry"]))


if __name__ == "__main__":
    main()
