"""Judges the endpoints that strangers name, so that we do not become their way into the network we stand in.

The name is resolved here and every address it has is judged; the connection then goes to a judged address (see `post`).
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import SplitResult, urlsplit

from fhirserver.fhir.problem import problem

Address = IPv4Address | IPv6Address
Networks = Sequence[IPv4Network | IPv6Network]
Lookup = Callable[[str, int], Sequence[str]]

URL_CHARACTERS = 2048
REMEMBER_SECONDS = 30.0

WHERE = "Subscription.channel.endpoint"

# Addresses that are reachable like any other but answer for the host's own platform, or carry another address inside.
REFUSED = tuple(
    ip_network(text)
    for text in (
        "168.63.129.16/32",  # a cloud's platform address, public by number only
        "192.0.0.0/24",  # protocol assignments, and another cloud's platform addresses among them
        "2002::/16",  # 6to4: an IPv4 address inside
        "2001::/32",  # Teredo: the same
        "64:ff9b:1::/48",  # local-use NAT64
        "::/96",  # IPv4-compatible, deprecated
    )
)
NAT64 = IPv6Network("64:ff9b::/96")


def local_lookup(host: str, port: int) -> Sequence[str]:
    """The addresses of a host by the system's resolver. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found))


class Guard:
    """Judges endpoints.

    `allowed` are the networks that an operator opened: private addresses and plain http are for these only.
    """

    def __init__(self, allowed: Networks = (), lookup: Lookup = local_lookup) -> None:
        self._allowed = tuple(allowed)
        self._lookup = lookup
        self._known: dict[tuple[str, str, int], tuple[float, list[str]]] = {}

    def check(self, url: str) -> None:
        """Raises Problem(value) that says what is wrong with an endpoint. Asks the resolver.

        A name that has no address yet passes: it is judged again when it is connected to.
        """
        parts, port = parts_of(url)
        host = parts.hostname or ""
        self._judge(parts.scheme, host, self._found(host, port))

    def addresses(self, url: str) -> list[str]:
        """The judged addresses of an endpoint, remembered for half a minute. Raises Problem as `check` does."""
        parts, port = parts_of(url)
        host = parts.hostname or ""
        key = (parts.scheme, host, port)
        until, found = self._known.get(key, (0.0, []))
        if time.monotonic() >= until:
            found = self._judged(parts.scheme, host, port)
            if len(self._known) > 10_000:
                self._known.clear()
            self._known[key] = (time.monotonic() + REMEMBER_SECONDS, found)
        return found

    def forget(self, url: str) -> None:
        """Asks the resolver again next time: the address did not answer."""
        parts, port = parts_of(url)
        self._known.pop((parts.scheme, parts.hostname or "", port), None)

    def _judged(self, scheme: str, host: str, port: int) -> list[str]:
        found = self._found(host, port)
        if not found:
            raise problem("value", f"The endpoint's host {host} does not resolve to an address.", WHERE)
        self._judge(scheme, host, found)
        return list(found)

    def _found(self, host: str, port: int) -> Sequence[str]:
        try:
            return self._lookup(host, port)
        except (OSError, UnicodeError):
            return ()

    def _judge(self, scheme: str, host: str, found: Sequence[str]) -> None:
        for text in found:
            address = plain(ip_address(text))
            inside = any(address in network for network in self._allowed)
            if not inside and not public(address):
                raise problem(
                    "value",
                    f"The endpoint's host {host} resolves to an address that is not public. An operator can open a"
                    " network with FHIRSERVER_WEBHOOK_ALLOW.",
                    WHERE,
                )
            if scheme == "http" and not inside:
                raise problem("value", "The endpoint must be https.", WHERE)


def public(address: Address) -> bool:
    """Whether this is an address of the public internet that belongs to nobody's inside."""
    if isinstance(address, IPv6Address) and address in NAT64:
        return public(IPv4Address(int(address) & 0xFFFFFFFF))
    if any(address in network for network in REFUSED):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def plain(address: Address) -> Address:
    """The IPv4 address of an IPv4-mapped IPv6 one, others as they are."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def parts_of(url: str) -> tuple[SplitResult, int]:
    """The parts of an endpoint's URL and its port. Raises Problem(value) for what is not an absolute http(s) URL."""
    if len(url) > URL_CHARACTERS or any(character <= " " or character == "\x7f" for character in url):
        raise problem(
            "value", f"The endpoint must be a URL of at most {URL_CHARACTERS} characters without spaces.", WHERE
        )
    try:
        parts = urlsplit(url)
        port = parts.port or (80 if parts.scheme == "http" else 443)
    except ValueError:
        raise problem("value", "The endpoint is not a valid URL.", WHERE) from None
    if parts.scheme not in ("http", "https") or not parts.hostname or "\\" in url:
        raise problem("value", "The endpoint must be an absolute https URL.", WHERE)
    if parts.username is not None or parts.password is not None:
        raise problem("value", "The endpoint must carry no user and password; send a header in channel.header.", WHERE)
    return parts, port
