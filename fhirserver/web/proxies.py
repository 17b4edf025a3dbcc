"""The address of who calls, where reverse proxies stand in front: failures are counted by it, audit records name it and
policies may ask for it. X-Forwarded-For, as proxies write it.

A caller may write that header too, so it is read from the right, as far as the operator's own proxies wrote it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any

Wsgi = Callable[[dict[str, Any], Any], Iterable[bytes]]
MOST = 20
"""Addresses of the header that are looked at."""


class Proxies:
    """A WSGI application before another. `trusted` are the networks of the proxies."""

    def __init__(self, beyond: Wsgi, trusted: Sequence[IPv4Network | IPv6Network]) -> None:
        self._beyond = beyond
        self._trusted = trusted

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        environ["REMOTE_ADDR"] = self._caller(environ.get("REMOTE_ADDR", ""), environ.get("HTTP_X_FORWARDED_FOR", ""))
        return self._beyond(environ, start_response)

    def _caller(self, peer: str, header: str) -> str:
        """The last address, from the peer to the left, that is not a proxy's; the last proxy where none is readable."""
        caller = peer
        for text in [*reversed(header.rsplit(",", MOST)[-MOST:]), ""]:
            address = _address(caller)
            if address is None or not any(address in network for network in self._trusted):
                return caller
            told = _address(text.strip())
            if told is None:
                return caller
            caller = str(told)
        return caller


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        found = ip_address(text)
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found
