"""Whose address counts behind reverse proxies."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_network
from typing import Any

import pytest

from fhirserver.web.proxies import Proxies

TRUSTED = (ip_network("10.0.0.0/24"), ip_network("fd00::/64"))


@pytest.mark.parametrize(
    ("peer", "header", "caller"),
    [
        ("10.0.0.1", "203.0.113.7", "203.0.113.7"),
        ("::ffff:10.0.0.1", "203.0.113.7", "203.0.113.7"),
        ("fd00::1", "2001:db8::7", "2001:db8::7"),
        ("10.0.0.1", "203.0.113.7, 10.0.0.2", "203.0.113.7"),
        ("10.0.0.1", "198.51.100.1, 203.0.113.7", "203.0.113.7"),
        ("10.0.0.1", "203.0.113.7,198.51.100.1, 10.0.0.3", "198.51.100.1"),
        ("203.0.113.9", "198.51.100.1", "203.0.113.9"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "unknown", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.7, <script>", "10.0.0.1"),
        ("10.0.0.1", ", ".join(["203.0.113.7", *["10.0.0.2"] * 500]), "10.0.0.2"),
        ("", "203.0.113.7", ""),
    ],
)
def test_the_caller_is_the_last_address_that_is_no_proxy(peer: str, header: str, caller: str) -> None:
    seen: list[str] = []

    def beyond(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        seen.append(environ["REMOTE_ADDR"])
        return []

    Proxies(beyond, TRUSTED)({"REMOTE_ADDR": peer, "HTTP_X_FORWARDED_FOR": header}, None)

    assert seen == [caller]
