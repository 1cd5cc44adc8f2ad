"""Limits the call rate per method and caller at a server, with the same token buckets as the
gateway, for callers that bypass it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Final
from urllib.parse import unquote

from mesh.call import Caller, Role
from mesh.errors import RateLimited
from mesh.policies import Limit
from mesh.rate_limit import RateLimiter

_SITE_BITS: Final = 64  # prefix of an IPv6 address; the subscriber chooses the rest

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def network_of(address: str) -> str:
    """The network that an address is limited as: the /64 of an IPv6 address, else the address.
    Text that is no address is returned as it is.
    """
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, _SITE_BITS), strict=False))
    return address


def address_of(peer: str) -> str:
    """The address in a peer name of grpc: "ipv4:10.0.0.1:4711", "ipv6:%5B::1%5D:4711". Any other
    name is returned as it is."""
    kind, _, rest = unquote(peer).partition(":")
    return rest.rpartition(":")[0].strip("[]") if kind in {"ipv4", "ipv6"} else peer


def is_relay(address: str, relays: Sequence[Network]) -> bool:
    """Whether an address is in one of the networks of our own gateways."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(parsed in network for network in relays)


def client_address(peer: str, told: str | None, relays: Sequence[Network]) -> str:
    """The address that a call came from: what one of our gateways tells, else that of the peer.

    Args:
        peer: name of the peer in grpc.
        told: by the metadata `x-paymesh-client-address`. Anybody may send it, so that it counts
            from our gateways alone.
    """
    address = address_of(peer)
    if told and is_relay(address, relays):
        try:
            return str(ipaddress.ip_address(told))
        except ValueError:
            pass
    return address


class CallerLimit:
    """The token buckets of one method."""

    def __init__(
        self, limit: Limit, *, relays: Sequence[Network] = (), now: Callable[[], float] = monotonic
    ) -> None:
        """
        Args:
            relays: networks of our own gateways. They forward anonymous calls of many users, and
                have limited these calls already.
            now: a monotonic clock in seconds.

        Raises:
            ValueError: a limit that admits no call.
        """
        self._limiter = RateLimiter(per_second=limit.per_second, burst=limit.burst, now=now)
        self._relays = relays

    def take(self, caller: Caller, context: Any) -> None:
        """Takes one token from the caller's bucket. Siblings are not limited, because they act for
        a caller that was limited already.

        Raises:
            RateLimited: the bucket is empty; says when it will have a token.
        """
        if caller.role is Role.SERVICE:
            return
        name = caller.limited_as
        if not name:
            address = address_of(context.peer())
            if is_relay(address, self._relays):
                return
            name = network_of(address)
        missing_seconds = self._limiter.take(name)
        if missing_seconds:
            raise RateLimited(retry_after_seconds=missing_seconds)
