"""Which endpoints may be named: every trick by which a URL reaches an inside address is refused."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_network

import pytest

from fhirserver.fhir.problem import Problem
from fhirserver.subscriptions.endpoint import Guard, local_lookup

INSIDE = [
    "127.0.0.1", "127.8.8.8", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254", "0.0.0.0",
    "100.64.0.1", "100.100.100.200", "192.0.0.192", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255",
    "168.63.129.16", "203.0.113.7", "::1", "::", "fe80::1", "fc00::1", "fd00:ec2::254", "ff02::1", "::ffff:127.0.0.1",
    "::ffff:10.0.0.1", "::ffff:a9fe:a9fe", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1",
    "2002:7f00:1::", "2001:0:7f00:1::", "2001:db8::1",
]  # fmt: skip
OUTSIDE = ["8.8.8.8", "93.184.216.34", "2606:4700:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"]


def guard(*addresses: str, allowed: Sequence[str] = ()) -> Guard:
    return Guard([ip_network(network) for network in allowed], lambda host, port: addresses)


@pytest.mark.parametrize("address", INSIDE)
def test_an_inside_address_is_refused(address: str) -> None:
    with pytest.raises(Problem, match="not public") as refusal:
        guard(address).check("https://hooks.example/in")
    assert refusal.value.issues[0].code == "value"
    assert refusal.value.issues[0].expression == ("Subscription.channel.endpoint",)
    assert address not in str(refusal.value), "what our resolver sees is nobody's business"


@pytest.mark.parametrize("address", OUTSIDE)
def test_a_public_address_is_accepted(address: str) -> None:
    assert guard(address).addresses("https://hooks.example:8443/in?a=b") == [address]


def test_one_inside_address_among_public_ones_is_enough_to_refuse() -> None:
    with pytest.raises(Problem, match="not public"):
        guard("8.8.8.8", "10.0.0.1").check("https://hooks.example/")


def test_an_operator_can_open_a_network_and_nothing_beside_it() -> None:
    assert guard("10.1.2.3", allowed=["10.1.0.0/16"]).addresses("https://hooks.example/")
    assert guard("::ffff:10.1.2.3", allowed=["10.1.0.0/16"]).addresses("https://hooks.example/")
    with pytest.raises(Problem):
        guard("10.2.0.1", allowed=["10.1.0.0/16"]).check("https://hooks.example/")


def test_plain_http_is_for_opened_networks_only() -> None:
    assert guard("127.0.0.1", allowed=["127.0.0.0/8"]).addresses("http://hooks.example/")
    with pytest.raises(Problem, match="must be https"):
        guard("8.8.8.8", allowed=["127.0.0.0/8"]).check("http://hooks.example/")


@pytest.mark.parametrize(
    "url",
    [
        "", "hooks.example", "/in", "ftp://hooks.example/", "file:///etc/passwd", "gopher://hooks.example/",
        "https://", "https:///in", "https://user:secret@hooks.example/", "https://hooks.example@other.example/",
        "https://hooks.example:99999/", "https://hooks.example:x/", "https://hooks.example/\r\nX: 1", "https://a b/",
        "https://[::1", "https://hooks.example\\@inside/", "https://hooks.example/" + "a" * 2048,
    ],
)  # fmt: skip
def test_what_is_not_an_absolute_https_url_is_refused(url: str) -> None:
    with pytest.raises(Problem) as refusal:
        guard("8.8.8.8").check(url)
    assert refusal.value.issues[0].code == "value"


@pytest.mark.parametrize(
    "host", ["127.1", "2130706433", "0x7f000001", "017700000001", "localhost", "[::1]", "[::ffff:7f00:1]"]
)
def test_other_ways_to_write_loopback_are_refused_by_the_real_resolver(host: str) -> None:
    with pytest.raises(Problem):
        Guard((), local_lookup).addresses(f"https://{host}/")


def test_a_name_without_an_address_may_be_saved_and_cannot_be_connected_to() -> None:
    with pytest.raises(Problem, match="does not resolve"):
        guard().addresses("https://nowhere.example/")
    guard().check("https://nowhere.example/")


def test_the_answer_of_the_resolver_is_kept_and_can_be_forgotten() -> None:
    answers = iter([["8.8.8.8"], ["10.0.0.1"]])
    asked = Guard((), lambda host, port: next(answers))
    assert asked.addresses("https://hooks.example/a") == asked.addresses("https://hooks.example/b") == ["8.8.8.8"]
    asked.forget("https://hooks.example/a")
    with pytest.raises(Problem):
        asked.check("https://hooks.example/a")
