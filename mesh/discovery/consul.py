"""Finds the replicas of a service in Consul. When Consul is unavailable, wrong or empty, the set
gets stale but no call fails. A watch keeps its last good set, which no error and no empty answer
replaces, and a restart reads it from a file. No request waits for Consul.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable
from pathlib import Path

from mesh.backoff import Backoff
from mesh.discovery import Endpoint
from mesh.discovery.consul_transport import GRACE_SECONDS, AsyncConsul, ConsulUnavailable
from mesh.discovery.loop import Loop
from mesh.discovery.snapshot import EndpointSnapshot
from mesh.discovery.static import StaticWatch
from mesh.logs import get_logger
from mesh.rate_limit import RateLimiter

log = get_logger()

# Of a blocking query. Short, because it also limits the time to notice an agent that hangs, or one
# that restarted between two queries: its index restarts lower, so it answers only when the wait is
# over.
WAIT_SECONDS = 15.0
# between queries that are answered at once, after a burst of PACE_BURST
PACE_SECONDS = 1.0
PACE_BURST = 2
BACKOFF_SECONDS = 1.0
WATCH_BACKOFF_MAX_SECONDS = 30.0  # the last good set is used meanwhile
# after longer without contact to its leader, a server's answer is checked with the leader
LAST_CONTACT_MAX_SECONDS = 10.0

SERVICE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}", re.ASCII)


def next_index(previous: int, received: int) -> int:
    """The index for the next blocking query, by Consul's rules: an index that went back starts
    over, and one below 1 would not block.
    """
    if received < previous:
        return 0
    return max(received, 1)


class ConsulWatch(StaticWatch):
    """Implements `mesh.discovery.Watch`: follows the passing replicas of one service by blocking
    queries in one task of its own.
    """

    def __init__(
        self,
        consul: AsyncConsul,
        service: str,
        *,
        snapshot: EndpointSnapshot,
        backoff: Backoff,
        pace: RateLimiter,
        wait_seconds: float,
        last_contact_max_seconds: float,
    ) -> None:
        super().__init__(snapshot.load())
        self._consul = consul
        self._service = service
        self._snapshot = snapshot
        self._backoff = backoff
        self._pace = pace
        self._wait_seconds = wait_seconds
        self._last_contact_max_seconds = last_contact_max_seconds
        self._index = 0
        self._heard = False  # whether Consul ever returned a replica to this watch
        self._degraded = True
        self._warned = False
        self._loop = Loop(
            self.run_once,
            name=f"consul-watch-{service}",
            defect_pause_seconds=WATCH_BACKOFF_MAX_SECONDS,
        )

    @property
    def degraded(self) -> bool:
        """True while the set is older than Consul's present answer: Consul is unavailable, or
        returns no replica at all.
        """
        return self._degraded

    def start(self) -> None:
        """Starts following."""
        self._loop.start()

    async def close(self) -> None:
        """Stops following and cancels waiting calls."""
        await self._loop.stop()
        await super().close()

    async def run_once(self) -> float:
        """Queries once and applies the answer. Returns the seconds until the next query."""
        self._pace.take()
        try:
            await self._ask()
        except ConsulUnavailable as error:
            # The next answering server may have a lower index, and a blocking query beyond it would
            # wait in vain.
            self._index = 0
            self._degrade(str(error))
            return max(self._pace.wait_seconds(), self._backoff.next_seconds())
        self._backoff.reset()
        return self._pace.wait_seconds()

    async def _ask(self) -> None:
        # Any server may answer: this works without a leader and spreads the load.
        answer = await self._consul.passing(
            self._service, index=self._index, wait_seconds=self._wait_seconds, stale=True
        )
        if answer.last_contact_seconds > self._last_contact_max_seconds:
            try:
                answer = await self._consul.passing(
                    self._service, index=0, wait_seconds=self._wait_seconds, stale=False
                )
            except ConsulUnavailable:
                # Too old an answer is worse than the previous set, and better than no replica.
                if not self._heard:
                    await self._take(answer.endpoints)
                raise
        self._index = next_index(self._index, answer.index)
        if not answer.endpoints:
            self._degrade("no replica passes its checks")
            return
        self._heard, self._degraded, self._warned = True, False, False
        await self._take(answer.endpoints)

    async def _take(self, endpoints: frozenset[Endpoint]) -> None:
        # a blocking query that returns is no proof of a change
        if endpoints and endpoints != self._endpoints:
            log.info(
                "discovery_changed",
                service=self._service,
                endpoints=[str(endpoint) for endpoint in sorted(endpoints)],
            )
            self.replace(endpoints)
            await self._snapshot.save(endpoints)

    def _degrade(self, problem: str) -> None:
        self._degraded = True
        if not self._warned:  # once per outage: an hour of it is one line
            log.warning(
                "discovery_degraded",
                service=self._service,
                problem=problem,
                endpoints=len(self._endpoints),
            )
            self._warned = True


class ConsulDiscovery:
    """Implements `mesh.discovery.Discovery` on the local Consul agent."""

    def __init__(
        self,
        *,
        address: str,
        token: str | None,
        snapshot_folder: Path,
        wait_seconds: float = WAIT_SECONDS,
        grace_seconds: float = GRACE_SECONDS,
        backoff_seconds: float = BACKOFF_SECONDS,
        backoff_max_seconds: float = WATCH_BACKOFF_MAX_SECONDS,
        pace_seconds: float = PACE_SECONDS,
        last_contact_max_seconds: float = LAST_CONTACT_MAX_SECONDS,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """Opens no connection yet.

        Args:
            address: "host:port" of the agent.
            token: ACL token, or None.
            snapshot_folder: where the last good set of each service is kept over restarts.
            wait_seconds: how long a blocking query waits for a change.
            grace_seconds: how long a query may take in addition.
            backoff_seconds: first pause after a failure; doubles with each, with jitter.
            backoff_max_seconds: longest pause.
            pace_seconds: shortest time between queries that are answered at once, after the first
                two.
            last_contact_max_seconds: how old an answer may be before the leader is asked.
            jitter: numbers in [0, 1).

        Raises:
            ValueError: the address is not "host:port".
        """
        self._consul = AsyncConsul(address, token=token, grace_seconds=grace_seconds)
        self._snapshot_folder = snapshot_folder
        self._wait_seconds = wait_seconds
        self._backoff = (backoff_seconds, backoff_max_seconds)
        self._pace_seconds = pace_seconds
        self._last_contact_max_seconds = last_contact_max_seconds
        self._jitter = jitter
        self._watches: list[ConsulWatch] = []

    def watch(self, service: str) -> ConsulWatch:
        """Starts watching a service, from the last good set that a process on this machine saved.
        Needs a running event loop.

        Raises:
            ValueError: not the name of a service.
        """
        watch = self.open_watch(service)
        watch.start()
        return watch

    def open_watch(self, service: str) -> ConsulWatch:
        """A watch that queries only when its `run_once` is called.

        Raises:
            ValueError: not the name of a service.
        """
        if SERVICE_NAME.fullmatch(service) is None:
            raise ValueError(f"not the name of a service: {service!r}")
        first_seconds, max_seconds = self._backoff
        watch = ConsulWatch(
            self._consul,
            service,
            snapshot=EndpointSnapshot(self._snapshot_folder, service),
            backoff=Backoff(
                first_seconds=first_seconds, max_seconds=max_seconds, jitter=self._jitter
            ),
            pace=RateLimiter(per_second=1 / self._pace_seconds, burst=PACE_BURST),
            wait_seconds=self._wait_seconds,
            last_contact_max_seconds=self._last_contact_max_seconds,
        )
        self._watches.append(watch)
        return watch

    async def close(self) -> None:
        """Closes every watch and connection."""
        await asyncio.gather(*(watch.close() for watch in self._watches))
        await self._consul.close()
