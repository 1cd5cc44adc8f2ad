"""Implements discovery by addresses from configuration, the embedded default. The set of a service
never changes unless a test (or a supervisor in the same process) replaces it with
`StaticDiscovery.replace`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

from mesh.discovery import Endpoint


class StaticWatch:
    """Implements `mesh.discovery.Watch` over a set that other code replaces."""

    def __init__(self, endpoints: frozenset[Endpoint]) -> None:
        self._endpoints = endpoints
        self._given = endpoints
        self._waiters: set[asyncio.Future[None]] = set()

    def current(self) -> frozenset[Endpoint]:
        """The current set."""
        self._given = self._endpoints
        return self._endpoints

    async def changed(self) -> frozenset[Endpoint]:
        """Waits until the set differs from the one returned last."""
        while self._endpoints == self._given:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)
        return self.current()

    async def close(self) -> None:
        """Cancels waiting calls."""
        for waiter in self._waiters:
            waiter.cancel()

    def replace(self, endpoints: frozenset[Endpoint]) -> None:
        """Sets the value of `current` and wakes waiting calls."""
        self._endpoints = endpoints
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)


class StaticDiscovery:
    """Implements `mesh.discovery.Discovery` over a mapping of service names to "host:port"
    strings.
    """

    def __init__(self, targets: Mapping[str, Iterable[str]]) -> None:
        """Raises ValueError when an address is not "host:port"."""
        self._endpoints = {
            service: frozenset(map(Endpoint.parse, addresses))
            for service, addresses in targets.items()
        }
        self._watches: dict[str, list[StaticWatch]] = {}

    def watch(self, service: str) -> StaticWatch:
        """A watch whose set is known at once; empty for an unknown service."""
        watch = StaticWatch(self._endpoints.get(service, frozenset()))
        self._watches.setdefault(service, []).append(watch)
        return watch

    def replace(self, service: str, addresses: Iterable[str]) -> None:
        """Replaces the addresses of a service at run time."""
        endpoints = self._endpoints[service] = frozenset(map(Endpoint.parse, addresses))
        for watch in self._watches.get(service, ()):
            watch.replace(endpoints)

    async def close(self) -> None:
        """Closes every watch."""
        for watches in self._watches.values():
            for watch in watches:
                await watch.close()


class StaticRegistrar:
    """Implements `mesh.discovery.Registrar` without a registry: addresses are configuration on both
    sides.
    """

    async def register(
        self,
        *,
        service: str,
        endpoint: Endpoint,
        grpc_services: tuple[str, ...],
        meta: Mapping[str, str],
        tls: bool,
    ) -> None:
        """Does nothing."""

    async def deregister(self) -> None:
        """Does nothing."""
