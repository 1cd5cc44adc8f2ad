"""Keeps a channel to each replica of a service and picks the replica for each call.

The set follows discovery at run time; an empty answer of discovery is ignored. A replica is picked
by the power of two random choices on in-flight calls and latency. Only replicas that are connected
and report SERVING take part. Those that fail too often are ejected for a while, never more than
half of them.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection
from contextlib import suppress
from math import inf, sqrt
from time import monotonic
from typing import Any, Final

from grpc import ChannelConnectivity, StatusCode
from grpc.aio import AioRpcError

from mesh.connections import Connections
from mesh.discovery import Endpoint, Watch
from mesh.errors import UpstreamUnavailable
from mesh.logs import get_logger
from mesh.metrics import CLIENT_EJECTIONS, CLIENT_REPLICAS

# how long no replica may be reachable before calls fail at once; covers a restart and the start of
# a mesh
FAIL_FAST_SECONDS: Final = 1.0
# how long a connection that just broke may still count as ready
STALE_SECONDS = 0.02
# a replica that was not picked for this long is tried again, since its latency may be out of date
FORCE_SECONDS = 1.0
DRAIN_SECONDS_MAX = 30.0  # for the calls of a removed replica to end
WATCH_PAUSE_SECONDS = 1.0  # after a watch that failed
# a replica that answered none of its calls for this long is probed
STALL_SECONDS = 1.0
# and counts as hung without a reply for this long; longer than a busy event loop takes to reply
PROBE_SECONDS = 2.0
SMOOTHING = 0.2  # weight of the newest call
SUCCESS_MIN = 0.5  # below it a replica is ejected
SUCCESS_AFTER_EJECTION = 0.7  # two more failures eject it again
EJECTION_SECONDS = 5.0  # doubled each time
EJECTION_SECONDS_MAX = 60.0

_HEALTH_CHECK: Final = "/grpc.health.v1.Health/Check"

log = get_logger()


class Replica:
    """One endpoint, its channel and its measurements."""

    __slots__ = (
        "abandonable",
        "calls",
        "channel",
        "ejected_until",
        "ejections",
        "endpoint",
        "failing_since",
        "hung",
        "in_flight",
        "latency_seconds",
        "picked_at",
        "probe",
        "progress_at",
        "ready",
        "success",
        "watcher",
    )

    def __init__(self, endpoint: Endpoint, channel: Connections) -> None:
        self.endpoint = endpoint
        self.channel = channel
        self.calls: dict[str, Any] = {}  # path -> multicallable of bytes
        self.ready = False
        self.failing_since: float | None = None  # first failure to connect since it was last ready
        self.in_flight = 0
        self.latency_seconds = 0.0
        self.success = 1.0
        self.picked_at = 0.0
        self.progress_at = 0.0  # when it was last idle, or a call last ended
        self.ejected_until = 0.0
        self.ejections = 0
        # connected without a reply: the process is stopped, or the network drops packets
        self.hung = False
        self.abandonable: set[Any] = set()  # calls in flight that may be repeated elsewhere
        self.probe: asyncio.Task[None] | None = None
        self.watcher: asyncio.Task[None] | None = None

    def begin(self, now: float) -> None:
        """Counts a call that is sent to this replica."""
        if not self.in_flight:
            self.progress_at = now
        self.in_flight += 1

    def end(self, now: float) -> None:
        """Counts a call that ended, with any result."""
        self.in_flight -= 1
        self.progress_at = now

    def load(self, now: float) -> float:
        """The cost of one more call here. The latency of a replica that hangs is not measured yet,
        so the time since its last answer is used instead.
        """
        stalled = now - self.progress_at if self.in_flight else 0.0
        return sqrt(max(self.latency_seconds, stalled) + 0.001) * (self.in_flight + 1)


class Replicas:
    """The replicas of `service`. Must be made inside the running loop."""

    def __init__(
        self,
        service: str,
        watch: Watch,
        connect: Callable[[Endpoint], Connections | None],
        *,
        fail_fast_seconds: float = FAIL_FAST_SECONDS,
        now: Callable[[], float] = monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self._service = service
        self._watch = watch
        self._connect = connect
        self._fail_fast_seconds = fail_fast_seconds
        self._now = now
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, protects nothing
        self._all: dict[Endpoint, Replica] = {}
        # connected with newer credentials, not ready yet
        self._successors: dict[Endpoint, Replica] = {}
        self._ready: list[Replica] = []
        self._ejection_ends = 0.0
        self._empty_since: float | None = None  # from the first call that found no endpoint
        self._changed = asyncio.Event()
        self._gauge = CLIENT_REPLICAS.labels(service)
        self._ejections = CLIENT_EJECTIONS.labels(service)
        self._draining: set[asyncio.Task[None]] = set()
        self._next_look: asyncio.TimerHandle | None = None
        self._follower = asyncio.create_task(self._follow())

    @property
    def any_ready(self) -> bool:
        """Whether a call would be sent at once, to a replica that is not known to hang."""
        return any(not replica.hung for replica in self._ready)

    def watch_calls(self) -> None:
        """Starts looking for stalled replicas, until no call is in flight."""
        if self._next_look is None:
            self._next_look = asyncio.get_running_loop().call_later(
                STALL_SECONDS, self._look_for_stalls
            )

    def _look_for_stalls(self) -> None:
        self._next_look = None
        stalled = self._now() - STALL_SECONDS
        for replica in self._all.values():
            if replica.in_flight and replica.progress_at <= stalled and replica.probe is None:
                replica.probe = asyncio.create_task(self._probe(replica))
        if any(replica.in_flight for replica in self._all.values()):
            self.watch_calls()

    async def _probe(self, replica: Replica) -> None:
        """Probes a replica, again and again while it does not reply. Calls to it that may be
        repeated are cancelled when another replica is available.
        """
        try:
            while not await self._answers(replica) and replica.ready:
                if not replica.hung:
                    replica.hung = True
                    log.warning(
                        "replica_hung",
                        target=self._service,
                        endpoint=str(replica.endpoint),
                        seconds=STALL_SECONDS + PROBE_SECONDS,
                    )
                    self._recount()
                if self.any_ready:
                    for rpc in list(replica.abandonable):
                        rpc.cancel()
        finally:
            replica.probe, replica.hung = None, False
            self._recount()

    async def _answers(self, replica: Replica) -> bool:
        """Whether a replica replies to a health check in time, with any status."""
        try:
            check: Any = replica.channel.unary_unary(_HEALTH_CHECK)
            await check(b"", timeout=PROBE_SECONDS)
        except AioRpcError as problem:
            return problem.code() is not StatusCode.DEADLINE_EXCEEDED
        return True

    async def pick(self, deadline: float, tried: Collection[Replica] = ()) -> Replica:
        """Picks the replica for the next call, preferring one that is not in `tried`. Waits for the
        first connection until the deadline.

        Raises:
            UpstreamUnavailable: no replica was reachable for longer than a second, or until the
                deadline. Nothing was sent.
        """
        while True:
            replica = self._choose(tried)
            pause = inf
            if replica is not None:
                # The channel knows of a broken connection before `_observe` does. A call sent now
                # would fail without having been sent.
                if replica.channel.get_state() is ChannelConnectivity.READY:
                    replica.picked_at = self._now()
                    return replica
                tried = (*tried, replica)
                if len(tried) < len(self._ready):
                    continue
                pause = STALE_SECONDS
            until = min(deadline, self._hopeless_at())
            if self._now() >= until:
                raise UpstreamUnavailable(f"no replica of {self._service} is reachable")
            changed = self._changed
            with suppress(TimeoutError):
                async with asyncio.timeout(min(pause, until - self._now())):
                    await changed.wait()

    def _choose(self, tried: Collection[Replica]) -> Replica | None:
        ready = self._ready
        now = self._now()
        if tried or self._ejection_ends:
            ready = [
                replica
                for replica in ready
                if replica.ejected_until <= now and replica not in tried
            ] or ready
            if now > self._ejection_ends:
                self._ejection_ends = 0.0
        count = len(ready)
        if count < 2:
            return ready[0] if ready else None
        first = int(self._rng.random() * count)
        second = (first + 1 + int(self._rng.random() * (count - 1))) % count
        better, other = ready[first], ready[second]
        if other.load(now) < better.load(now):
            better, other = other, better
        return other if now - other.picked_at > FORCE_SECONDS and other.in_flight == 0 else better

    def _hopeless_at(self) -> float:
        """When `pick` stops waiting, because no replica was reachable for too long."""
        if not self._all:
            if self._empty_since is None:
                self._empty_since = self._now()
            return self._empty_since + self._fail_fast_seconds
        since = [replica.failing_since for replica in self._all.values()]
        return max(inf if moment is None else moment for moment in since) + self._fail_fast_seconds

    def ended(self, replica: Replica, seconds: float, *, healthy: bool | None) -> None:
        """Records the result of a call; `healthy` is None when it does not concern the replica."""
        if healthy is None:
            return
        replica.success += SMOOTHING * (healthy - replica.success)
        if healthy:
            replica.latency_seconds += SMOOTHING * (seconds - replica.latency_seconds)
            if replica.ejections and replica.success > 1 - SMOOTHING / 2:
                replica.ejections = 0
        elif replica.success < SUCCESS_MIN:
            self._eject(replica)

    def _eject(self, replica: Replica) -> None:
        now = self._now()
        ejected = sum(1 for other in self._ready if other.ejected_until > now)
        if replica.ejected_until > now or (ejected + 1) * 2 > len(self._ready):
            return
        pause = min(EJECTION_SECONDS * 2**replica.ejections, EJECTION_SECONDS_MAX)
        replica.ejections += 1
        replica.success = SUCCESS_AFTER_EJECTION
        replica.ejected_until = now + pause
        self._ejection_ends = max(self._ejection_ends, replica.ejected_until)
        self._ejections.inc()
        log.warning(
            "replica_ejected", target=self._service, endpoint=str(replica.endpoint), seconds=pause
        )

    async def _follow(self) -> None:
        self._apply(self._watch.current())
        while True:
            try:
                self._apply(await self._watch.changed())
            except Exception:
                log.exception("watch_failed", target=self._service)
                await asyncio.sleep(WATCH_PAUSE_SECONDS)

    def _apply(self, endpoints: frozenset[Endpoint]) -> None:
        if not endpoints:
            # a registry that lost its data is more likely than a service without any replica
            log.warning("no_endpoints", target=self._service, kept=len(self._all))
            return
        self._empty_since = None
        for endpoint in self._all.keys() - endpoints:
            self._retire(self._all.pop(endpoint))
            successor = self._successors.pop(endpoint, None)
            if successor is not None:
                self._retire(successor)
        for endpoint in endpoints - self._all.keys():
            channel = self._connect(endpoint)
            if channel is not None:
                replica = self._all[endpoint] = Replica(endpoint, channel)
                replica.watcher = asyncio.create_task(self._observe(replica))
        self._recount()

    def renew(self) -> None:
        """Connects to every replica again, with the present credentials. Each new connection
        replaces the old one when it is ready. Until then the old one is used, if it works."""
        for endpoint in self._all:
            channel = self._connect(endpoint)
            if channel is not None:
                earlier = self._successors.pop(endpoint, None)
                if earlier is not None:
                    self._retire(earlier)
                successor = self._successors[endpoint] = Replica(endpoint, channel)
                successor.watcher = asyncio.create_task(self._observe(successor))

    def _take_over(self, replica: Replica) -> None:
        """Replaces the old connection to a replica by this one, when it is a successor."""
        if self._successors.get(replica.endpoint) is replica:
            del self._successors[replica.endpoint]
            self._retire(self._all[replica.endpoint])
            self._all[replica.endpoint] = replica

    def _retire(self, replica: Replica) -> None:
        task = asyncio.create_task(self._drain(replica))
        self._draining.add(task)
        task.add_done_callback(self._draining.discard)

    async def _observe(self, replica: Replica) -> None:
        while True:
            state = replica.channel.get_state(try_to_connect=True)
            replica.ready = state is ChannelConnectivity.READY
            if replica.ready:
                replica.failing_since = None
                self._take_over(replica)
            elif state is ChannelConnectivity.TRANSIENT_FAILURE and replica.failing_since is None:
                replica.failing_since = self._now()
            self._recount()
            if state is ChannelConnectivity.SHUTDOWN:
                return
            await replica.channel.wait_for_state_change(state)

    def _recount(self) -> None:
        ready = [replica for replica in self._all.values() if replica.ready]
        # a hung replica is better than none
        self._ready = [replica for replica in ready if not replica.hung] or ready
        self._gauge.set(len(self._ready))
        self._changed.set()
        self._changed = asyncio.Event()

    async def _drain(self, replica: Replica) -> None:
        for task in (replica.watcher, replica.probe):
            if task is not None:
                task.cancel()
        await replica.channel.close(DRAIN_SECONDS_MAX)

    async def close(self, grace_seconds: float | None) -> None:
        """Stops following and closes every channel."""
        await self._watch.close()
        replicas = [*self._all.values(), *self._successors.values()]
        watchers = [
            task
            for replica in replicas
            for task in (replica.watcher, replica.probe)
            if task is not None
        ]
        if self._next_look is not None:
            self._next_look.cancel()
        for task in (self._follower, *watchers, *self._draining):
            task.cancel()
        await asyncio.gather(self._follower, *watchers, *self._draining, return_exceptions=True)
        await asyncio.gather(*(replica.channel.close(grace_seconds) for replica in replicas))
        self._all.clear()
        self._successors.clear()
        self._recount()
