from __future__ import annotations

import ipaddress
from typing import Any

import pytest

from mesh.call import NOBODY, Caller, Role
from mesh.errors import RateLimited
from mesh.limits import CallerLimit, address_of, client_address, network_of
from mesh.policies import Limit


@pytest.mark.parametrize(
    ("peer", "address", "network"),
    [
        ("ipv4:10.0.0.1:4711", "10.0.0.1", "10.0.0.1"),
        ("ipv6:%5B2001:db8:1:2:3:4:5:6%5D:4711", "2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("ipv6:[2001:db8:1:2::9]:4711", "2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("ipv6:%5B::ffff:10.0.0.1%5D:4711", "::ffff:10.0.0.1", "10.0.0.1"),
        ("ipv6:%5Bfe80::1%25eth0%5D:4711", "fe80::1%eth0", "fe80::/64"),
        ("unix:/tmp/socket", "unix:/tmp/socket", "unix:/tmp/socket"),
    ],
)
def test_an_address_of_ipv6_stands_for_its_64(peer: str, address: str, network: str) -> None:
    assert address_of(peer) == address
    assert network_of(address) == network


class Peer:
    def __init__(self, peer: str) -> None:
        self._peer = peer

    def peer(self) -> str:
        return self._peer


def taken(limit: CallerLimit, caller: Caller, peer: str) -> bool:
    context: Any = Peer(peer)
    try:
        limit.take(caller, context)
    except RateLimited:
        return False
    return True


def test_a_caller_is_a_person_of_a_shop_or_a_network_and_a_sibling_is_nobody() -> None:
    limit = CallerLimit(
        Limit(per_second=1, burst=2),
        relays=(ipaddress.ip_network("10.1.0.0/16"),),
        now=lambda: 100.0,
    )
    person = Caller(role=Role.USER, subject="alice", merchant_id="mall")
    other = Caller(role=Role.MERCHANT, subject="alice", merchant_id="acme")
    sibling = Caller(role=Role.SERVICE, subject="order_rpc", service="order_rpc")
    here = "ipv4:10.9.0.1:1"
    assert [taken(limit, person, here) for _ in range(3)] == [True, True, False]
    assert [taken(limit, other, here) for _ in range(3)] == [True, True, False]
    assert all(taken(limit, sibling, here) for _ in range(5))
    assert [taken(limit, NOBODY, f"ipv6:%5B2001:db8::{n}%5D:{n}") for n in range(3)] == [
        True,
        True,
        False,
    ]
    assert [taken(limit, NOBODY, f"ipv4:10.9.0.2:{n}") for n in range(3)] == [True, True, False]
    assert all(taken(limit, NOBODY, f"ipv4:10.1.2.3:{n}") for n in range(5))


def test_a_publishable_key_stands_in_a_page_so_its_visitors_are_counted_by_address() -> None:
    limit = CallerLimit(Limit(per_second=1, burst=1), now=lambda: 100.0)
    page = Caller(role=Role.PUBLIC, subject="key:AK1", merchant_id="acme")
    assert [taken(limit, page, f"ipv4:10.9.0.{n}:1") for n in (1, 2, 1)] == [True, True, False]
    server = Caller(
        role=Role.MERCHANT,
        subject="key:AK2",
        merchant_id="acme",
        roles=frozenset({Role.MERCHANT}),
    )
    nobodys = Caller(role=Role.PUBLIC, subject="alice", merchant_id="acme")
    for caller in (server, nobodys):
        assert [taken(limit, caller, f"ipv4:10.9.1.{n}:1") for n in (1, 2)] == [True, False]


@pytest.mark.parametrize(
    ("peer", "told", "address"),
    [
        # one of our gateways
        ("ipv4:10.1.0.7:999", "203.0.113.9", "203.0.113.9"),
        ("ipv4:10.1.0.7:999", "2001:DB8::1", "2001:db8::1"),
        ("ipv4:10.1.0.7:999", None, "10.1.0.7"),
        # it writes what is no address, or twice
        ("ipv4:10.1.0.7:999", "", "10.1.0.7"),
        ("ipv4:10.1.0.7:999", "unknown", "10.1.0.7"),
        ("ipv4:10.1.0.7:999", "203.0.113.9, 198.51.100.1", "10.1.0.7"),
        # anybody else
        ("ipv4:198.51.100.1:999", "203.0.113.9", "198.51.100.1"),
        ("ipv6:%5B2001:db8::7%5D:999", "203.0.113.9", "2001:db8::7"),
        ("unix:/tmp/x", "203.0.113.9", "unix:/tmp/x"),
    ],
)
def test_the_address_of_a_client_is_believed_from_our_own_gateways_alone(
    peer: str, told: str | None, address: str
) -> None:
    relays = (ipaddress.ip_network("10.1.0.0/16"),)
    assert client_address(peer, told, relays) == address
