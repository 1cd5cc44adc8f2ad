"""The limits of methods, per caller, in this process."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv6Address, ip_address

from gateway.errors import RateLimited
from mesh.call import Caller
from mesh.limits import network_of
from mesh.policies import Limit
from mesh.rate_limit import KEYS_MAX, RateLimiter


def bucket_of(caller: Caller, address: str) -> str:
    """The key of the caller's bucket: the user within its shop, or the address of a caller who has
    no name of its own. For IPv6 it is the network that one customer of a provider has.
    """
    return caller.limited_as or network_of(address)


def readable_address(address: str) -> str:
    """The address of a client in its usual form; "" for what is none. A proxy may write anything
    where an address belongs.
    """
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    mapped = parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None
    return str(mapped or parsed)


class RateLimit:
    """The buckets of one method."""

    def __init__(self, limit: Limit, *, now: Callable[[], float], keys_max: int = KEYS_MAX) -> None:
        """Takes `now`, a monotonic clock in seconds.

        Raises:
            ValueError: a limit that lets nothing pass.
        """
        self._limiter = RateLimiter(
            per_second=limit.per_second, burst=limit.burst, now=now, keys_max=keys_max
        )

    def take(self, caller: str) -> None:
        """Takes one token of a caller's bucket.

        Raises:
            RateLimited: it is empty; says when it will have one.
        """
        missing_seconds = self._limiter.take(caller)
        if missing_seconds:
            raise RateLimited(retry_after_seconds=missing_seconds)
