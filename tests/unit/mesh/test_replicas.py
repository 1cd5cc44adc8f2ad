"""Who takes the next call, on a clock that stands still. Channels stand in for grpc; connections
are tried in tests/integration/mesh/test_client.py.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import asynccontextmanager
from typing import Any

import pytest
from grpc import ChannelConnectivity

from mesh.discovery import Endpoint
from mesh.discovery.static import StaticDiscovery
from mesh.errors import UpstreamUnavailable
from mesh.replicas import EJECTION_SECONDS, Replica, Replicas
from mesh.retries import RetryBudget

READY, CONNECTING, FAILING = (
    ChannelConnectivity.READY,
    ChannelConnectivity.CONNECTING,
    ChannelConnectivity.TRANSIENT_FAILURE,
)


class Connection:
    """A channel whose state the test decides."""

    def __init__(self, state: ChannelConnectivity) -> None:
        self.state = state
        self._changed = asyncio.Event()
        self.closed = False

    def get_state(self, try_to_connect: bool = False) -> ChannelConnectivity:
        return self.state

    async def wait_for_state_change(self, last: ChannelConnectivity) -> None:
        while self.state is last:
            await self._changed.wait()
            self._changed.clear()

    async def become(self, state: ChannelConnectivity) -> None:
        self.state = state
        self._changed.set()
        await settle()

    async def close(self, grace: float | None) -> None:
        self.closed = True


class Stage:
    """Replicas on ports 1 to `count`."""

    def __init__(self, count: int, state: ChannelConnectivity = READY) -> None:
        self.now = 100.0
        self.connections: dict[int, Connection] = {}
        self.discovery = StaticDiscovery(
            {"echo_rpc": [f"h:{port}" for port in range(1, count + 1)]}
        )

        def connect(endpoint: Endpoint) -> Any:
            connection = self.connections[endpoint.port] = Connection(state)
            return connection

        self.replicas = Replicas(
            "echo_rpc",
            self.discovery.watch("echo_rpc"),
            connect,
            now=lambda: self.now,
            rng=random.Random(1),
        )

    def replica(self, port: int) -> Replica:
        return self.replicas._all[Endpoint("h", port)]

    async def picked(self, times: int = 100, tried: tuple[Replica, ...] = ()) -> Counter[int]:
        return Counter(
            [(await self.replicas.pick(self.now + 1, tried)).endpoint.port for _ in range(times)]
        )


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@asynccontextmanager
async def stage_of(count: int, state: ChannelConnectivity = READY) -> Any:
    stage = Stage(count, state)
    await settle()
    for replica in stage.replicas._all.values():
        replica.picked_at = stage.now  # none has waited for long
    yield stage
    await stage.replicas.close(None)


async def test_equal_replicas_get_equal_shares() -> None:
    async with stage_of(4) as stage:
        assert min((await stage.picked(400)).values()) > 60


async def test_a_replica_with_more_running_calls_is_passed_by() -> None:
    async with stage_of(2) as stage:
        stage.replica(1).begin(stage.now)
        assert await stage.picked() == {2: 100}
        stage.replica(2).begin(stage.now)
        stage.replica(2).begin(stage.now)
        assert await stage.picked() == {1: 100}


async def test_a_slow_replica_is_passed_by() -> None:
    async with stage_of(2) as stage:
        stage.replicas.ended(stage.replica(1), 0.5, healthy=True)
        assert await stage.picked() == {2: 100}


async def test_a_replica_that_hangs_gets_worse_before_its_first_answer() -> None:
    async with stage_of(2) as stage:
        hanging, slow = stage.replica(1), stage.replica(2)
        hanging.begin(stage.now)
        for _ in range(50):
            stage.replicas.ended(slow, 0.1, healthy=True)
        assert await stage.picked() == {1: 100}
        stage.now += 0.2
        assert hanging.load(stage.now) > slow.load(stage.now)
        hanging.end(stage.now)
        assert hanging.load(stage.now) < slow.load(stage.now)


async def test_an_idle_replica_is_tried_again_after_a_second_however_slow_it_was() -> None:
    async with stage_of(2) as stage:
        stage.replicas.ended(stage.replica(1), 0.5, healthy=True)
        await stage.picked(20)
        stage.now += 1.1
        stage.replica(2).picked_at = stage.now
        assert (await stage.picked(2))[1] == 1


async def test_whoever_was_tried_is_passed_by_while_there_is_another() -> None:
    async with stage_of(2) as stage:
        first = stage.replica(1)
        assert await stage.picked(tried=(first,)) == {2: 100}
        await stage.connections[2].become(FAILING)
        assert await stage.picked(tried=(first,)) == {1: 100}


async def test_only_connected_replicas_take_calls() -> None:
    async with stage_of(3) as stage:
        await stage.connections[1].become(CONNECTING)
        await stage.connections[2].become(FAILING)
        assert await stage.picked() == {3: 100}
        await stage.connections[1].become(READY)
        assert set(await stage.picked()) == {1, 3}


async def test_a_connection_that_just_broke_gets_no_call() -> None:
    async with stage_of(2) as stage:
        stage.connections[1].state = FAILING  # nobody has told the observer yet
        assert await stage.picked() == {2: 100}


async def test_a_failing_replica_is_left_out_for_longer_each_time() -> None:
    async with stage_of(3) as stage:
        bad = stage.replica(1)
        for times in (1, 2, 4):
            for _ in range(10):
                stage.replicas.ended(bad, 1, healthy=False)
            assert bad.ejected_until == stage.now + EJECTION_SECONDS * times
            assert set(await stage.picked()) == {2, 3}
            stage.now = bad.ejected_until
            assert 1 in await stage.picked()
        for _ in range(50):
            stage.replicas.ended(bad, 0.001, healthy=True)
        assert bad.ejections == 0


async def test_never_more_than_half_are_left_out() -> None:
    for count, ejected in ((1, 0), (2, 1), (3, 1), (4, 2)):
        async with stage_of(count) as stage:
            for port in range(1, count + 1):
                for _ in range(10):
                    stage.replicas.ended(stage.replica(port), 1, healthy=False)
            assert (
                sum(
                    1
                    for replica in stage.replicas._all.values()
                    if replica.ejected_until > stage.now
                )
                == ejected
            )
            assert len(await stage.picked()) == count - ejected


async def test_a_call_that_was_cancelled_says_nothing_about_a_replica() -> None:
    async with stage_of(2) as stage:
        for _ in range(10):
            stage.replicas.ended(stage.replica(1), 1, healthy=None)
        assert stage.replica(1).success == 1


async def test_nobody_reachable_fails_after_a_second_and_at_once_from_then_on() -> None:
    async with stage_of(2, FAILING) as stage:
        stage.now += 0.9
        waiting = asyncio.create_task(stage.replicas.pick(stage.now + 60))
        await settle()
        assert not waiting.done()
        stage.now += 0.1
        await stage.connections[1].become(CONNECTING)  # trying again is no news
        with pytest.raises(UpstreamUnavailable):
            await waiting
        await stage.connections[1].become(READY)
        assert await stage.picked() == {1: 100}


async def test_while_somebody_connects_a_call_waits_until_its_deadline() -> None:
    async with stage_of(2, CONNECTING) as stage:
        await stage.connections[1].become(FAILING)
        stage.now += 10
        waiting = asyncio.create_task(stage.replicas.pick(stage.now + 60))
        await settle()
        assert not waiting.done()
        await stage.connections[2].become(READY)
        assert (await waiting).endpoint.port == 2


async def test_an_empty_answer_of_discovery_keeps_the_last_set() -> None:
    async with stage_of(2) as stage:
        stage.discovery.replace("echo_rpc", [])
        await settle()
        assert set(await stage.picked()) == {1, 2}


async def test_a_removed_replica_is_closed_and_the_others_keep_their_connections() -> None:
    async with stage_of(2) as stage:
        kept = stage.replica(1)
        stage.discovery.replace("echo_rpc", ["h:1", "h:3"])
        await settle()
        assert stage.connections[2].closed
        assert stage.replica(1) is kept
        assert set(await stage.picked()) == {1, 3}


def test_the_budget_is_a_tenth_of_the_calls_and_ten_at_any_time() -> None:
    now = 0.0
    budget = RetryBudget(now=lambda: now)
    assert sum(budget.take() for _ in range(50)) == 10
    for _ in range(100):
        budget.called()
    assert sum(budget.take() for _ in range(50)) == 10
    now = 3.0
    assert sum(budget.take() for _ in range(50)) == 3
    for _ in range(100_000):
        budget.called()
    assert sum(budget.take() for _ in range(500)) == 100
