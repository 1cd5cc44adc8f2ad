"""What a real Consul agent does not do on demand, seen by those who watch: it refuses, hangs, loses
its leader, lies. Callers must not notice.
"""

from __future__ import annotations

import asyncio

import pytest

from mesh.discovery import Endpoint
from tests.builders.consul import Stage, until
from tests.support.fake_consul import NO_LEADER, FakeConsul


def endpoints(*ports: int) -> frozenset[Endpoint]:
    return frozenset(Endpoint("127.0.0.1", port) for port in ports)


# --- watching -------------------------------------------------------------------------------------

PRESENT = endpoints(7001, 7002)


async def heard(fake: FakeConsul, stage: Stage, **arguments):
    """A watch that knows PRESENT."""
    await fake.replace("order_rpc", "127.0.0.1:7001", "127.0.0.1:7002")
    watch = stage.discovery(fake, **arguments).watch("order_rpc")
    await until(watch, *PRESENT)
    return watch


async def refuse(fake: FakeConsul) -> None:
    await fake.stop()


async def hang(fake: FakeConsul) -> None:
    await fake.change(hangs=True)


async def lose_leader(fake: FakeConsul) -> None:
    await fake.change(failure=NO_LEADER)


async def list_nothing(fake: FakeConsul) -> None:
    await fake.change(hides=True)


async def say_null(fake: FakeConsul) -> None:
    await fake.change(garbage="null")


async def talk_html(fake: FakeConsul) -> None:
    await fake.change(garbage="<html>gateway timeout</html>")


async def talk_another_dialect(fake: FakeConsul) -> None:
    await fake.change(garbage='[{"service": "order_rpc"}]')


async def say_a_number(fake: FakeConsul) -> None:
    await fake.change(garbage="[1]")


async def recover(fake: FakeConsul) -> None:
    await fake.start()
    await fake.change(hangs=False, failure=None, hides=False, garbage=None)


@pytest.mark.parametrize(
    "fail",
    [
        refuse,
        hang,
        lose_leader,
        list_nothing,
        say_null,
        talk_html,
        talk_another_dialect,
        say_a_number,
    ],
)
async def test_a_watch_keeps_its_last_good_set_while_consul_fails_and_follows_it_afterwards(
    fake, stage, fail
):
    await fake.replace("order_rpc", "127.0.0.1:7001", "127.0.0.1:7002")
    patience = 1 if fail is hang else 10  # a busy machine answers late
    watch = stage.discovery(fake, wait_seconds=0.05, grace_seconds=patience).open_watch("order_rpc")
    await watch.run_once()
    assert (watch.current(), watch.degraded) == (PRESENT, False)
    await fail(fake)
    for _ in range(2):
        await watch.run_once()
        assert (watch.current(), watch.degraded) == (PRESENT, True)
    await recover(fake)
    await fake.replace("order_rpc", "127.0.0.1:7003")
    await watch.run_once()
    assert (watch.current(), watch.degraded) == (endpoints(7003), False)


async def test_a_watch_that_never_heard_anything_is_empty_and_degraded(fake, stage):
    watch = stage.discovery(fake).open_watch("order_rpc")
    assert (watch.current(), watch.degraded) == (frozenset(), True)
    await watch.run_once()
    assert (watch.current(), watch.degraded) == (frozenset(), True)


async def test_the_running_loop_outlives_an_outage(fake, stage):
    watch = await heard(fake, stage)
    await fake.stop()
    await fake.start()
    await fake.replace("order_rpc", "127.0.0.1:7003")
    await until(watch, Endpoint("127.0.0.1", 7003))


async def test_an_index_that_goes_back_starts_over(fake, stage):
    await fake.replace("order_rpc", "127.0.0.1:7001")
    watch = stage.discovery(fake, wait_seconds=0.05).open_watch("order_rpc")
    await fake.change(index=100)
    await watch.run_once()
    await fake.change(index=5)
    for _ in range(3):
        await watch.run_once()
    asked = [
        request.query.get("index") for request in fake.matching(lambda request: request.is_query)
    ]
    assert asked == [None, "100", None, "5"]


async def test_an_index_of_zero_still_waits(fake, stage):
    await fake.replace("order_rpc", "127.0.0.1:7001")
    await fake.change(index=0)
    watch = stage.discovery(fake, wait_seconds=0.05).open_watch("order_rpc")
    await watch.run_once()
    await watch.run_once()
    assert [
        request.query.get("index") for request in fake.matching(lambda request: request.is_query)
    ] == [None, "1"]


async def test_after_a_failure_the_present_state_is_asked_for_at_once(fake, stage):
    """A restarted Consul counts from below; a query that waits beyond its index would miss every
    change for as long as it waits.
    """
    await fake.replace("order_rpc", "127.0.0.1:7001")
    watch = stage.discovery(fake, wait_seconds=0.05).open_watch("order_rpc")
    await watch.run_once()
    await fake.change(failure=NO_LEADER)
    await watch.run_once()
    await fake.change(failure=None)
    await watch.run_once()
    assert fake.requests[-1].query.get("index") is None


async def test_a_query_asks_any_server_for_passing_replicas_and_waits(fake, stage):
    await heard(fake, stage, wait_seconds=55)
    await fake.received(lambda request: "index" in request.query)
    assert fake.requests[-1].query == {
        "passing": "1",
        "stale": "",
        "index": str(fake.index),
        "wait": "55s",
    }


async def test_an_answer_without_a_change_wakes_nobody(fake, stage):
    watch = await heard(fake, stage)
    waiter = asyncio.ensure_future(watch.changed())
    seen = len(fake.requests)
    await fake.replace("payment_rpc", "127.0.0.1:8001")  # raises the index
    await fake.received(lambda request: request.is_query, count=seen + 1)
    assert not waiter.done()
    await fake.replace("order_rpc", "127.0.0.1:7001")
    assert await asyncio.wait_for(waiter, 10) == endpoints(7001)


async def test_too_old_an_answer_is_asked_of_the_leader(fake, stage):
    await fake.replace("order_rpc", "127.0.0.1:7001")
    await fake.change(last_contact_ms=10_001)
    watch = stage.discovery(fake).open_watch("order_rpc")
    await watch.run_once()
    assert ["stale" in request.query for request in fake.requests] == [True, False]
    assert (watch.current(), watch.degraded) == (endpoints(7001), False)


async def test_an_answer_that_is_old_enough_to_be_right_is_believed(fake, stage):
    await fake.replace("order_rpc", "127.0.0.1:7001")
    await fake.change(last_contact_ms=10_000)
    watch = stage.discovery(fake).open_watch("order_rpc")
    await watch.run_once()
    assert ["stale" in request.query for request in fake.requests] == [True]
    assert not watch.degraded


async def test_too_old_an_answer_without_a_leader_does_not_replace_what_was_heard_before(
    fake, stage
):
    await fake.replace("order_rpc", "127.0.0.1:7001")
    watch = stage.discovery(fake, wait_seconds=0.05).open_watch("order_rpc")
    await watch.run_once()
    await fake.change(last_contact_ms=60_000, leaderless=True)
    await fake.replace("order_rpc", "127.0.0.1:7002")
    await watch.run_once()
    assert (watch.current(), watch.degraded) == (endpoints(7001), True)


async def test_too_old_an_answer_without_a_leader_is_better_than_nobody_to_call(fake, stage):
    await fake.replace("order_rpc", "127.0.0.1:7001")
    await fake.change(last_contact_ms=60_000, leaderless=True)
    watch = stage.discovery(fake).open_watch("order_rpc")
    await watch.run_once()
    assert (watch.current(), watch.degraded) == (endpoints(7001), True)


async def test_too_old_an_answer_that_is_empty_does_not_replace_a_snapshot(fake, stage):
    await fake.replace("order_rpc", "127.0.0.1:7001")
    await stage.discovery(fake).open_watch("order_rpc").run_once()
    await fake.change(last_contact_ms=60_000, leaderless=True, hides=True)
    restarted = stage.discovery(fake).open_watch("order_rpc")
    await restarted.run_once()
    assert (restarted.current(), restarted.degraded) == (endpoints(7001), True)


async def test_a_service_without_a_port_is_nobody_to_call(fake, stage):
    await fake.change(
        garbage='[{"Node": {"Address": "127.0.0.1"}, "Service": {"Address": "", "Port": 0}},'
        ' {"Node": {"Address": "127.0.0.9"}, "Service": {"Address": "", "Port": 7001}}]'
    )
    watch = stage.discovery(fake).open_watch("order_rpc")
    await watch.run_once()
    assert watch.current() == {Endpoint("127.0.0.9", 7001)}


async def test_an_agent_that_answers_at_once_is_not_asked_in_a_tight_loop(fake, stage):
    await fake.replace("order_rpc", "127.0.0.1:7001")
    await fake.change(rushes=True)
    watch = stage.discovery(fake, pace_seconds=60).open_watch("order_rpc")
    assert await watch.run_once() == 0
    assert await watch.run_once() > 30
    assert await watch.run_once() > 30


async def test_pauses_grow_while_consul_is_away_and_start_small_after_its_return(fake, stage):
    await fake.replace("order_rpc", "127.0.0.1:7001")
    watch = stage.discovery(
        fake,
        backoff_seconds=1,
        backoff_max_seconds=5,
        pace_seconds=0.001,
        wait_seconds=0.01,
        jitter=lambda: 0.5,
    ).open_watch("order_rpc")
    await fake.change(failure=NO_LEADER)
    assert [await watch.run_once() for _ in range(5)] == [0.75, 1.5, 3, 3.75, 3.75]
    await fake.change(failure=None)
    await watch.run_once()
    await fake.change(failure=NO_LEADER)
    assert await watch.run_once() == 0.75


# --- snapshots ------------------------------------------------------------------------------------


async def test_a_process_that_starts_while_consul_is_away_knows_the_last_good_set(fake, stage):
    first = stage.discovery(fake)
    await fake.replace("order_rpc", "127.0.0.1:7001", "127.0.0.1:7002")
    watch = first.open_watch("order_rpc")
    await watch.run_once()
    await first.close()
    await fake.stop()

    restarted = stage.discovery(fake).open_watch("order_rpc")
    assert (restarted.current(), restarted.degraded) == (PRESENT, True)
    await restarted.run_once()
    assert restarted.current() == PRESENT
    await fake.start()
    await fake.replace("order_rpc", "127.0.0.1:7003")
    await restarted.run_once()
    assert (restarted.current(), restarted.degraded) == (endpoints(7003), False)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"endpoints": 1}',
        b'{"endpoints": [1]}',
        b'{"endpoints": ["nowhere"]}',
        b"\xff",
    ],
)
async def test_a_snapshot_that_cannot_be_read_counts_as_none(fake, stage, tmp_path, content):
    (tmp_path / "order_rpc.json").write_bytes(content)
    watch = stage.discovery(fake, snapshot_folder=tmp_path).open_watch("order_rpc")
    assert watch.current() == frozenset()
    await fake.replace("order_rpc", "127.0.0.1:7001")
    await watch.run_once()
    assert watch.current() == endpoints(7001)


async def test_a_disk_that_refuses_costs_the_snapshot_alone(fake, stage, tmp_path):
    (tmp_path / "file").write_text("in the way of a folder")
    await fake.replace("order_rpc", "127.0.0.1:7001")
    watch = stage.discovery(fake, snapshot_folder=tmp_path / "file").open_watch("order_rpc")
    await watch.run_once()
    assert (watch.current(), watch.degraded) == (endpoints(7001), False)


async def test_an_answer_without_a_change_writes_nothing(fake, stage, tmp_path):
    await fake.replace("order_rpc", "127.0.0.1:7001")
    watch = stage.discovery(fake, snapshot_folder=tmp_path, wait_seconds=0.01).open_watch(
        "order_rpc"
    )
    await watch.run_once()
    (tmp_path / "order_rpc.json").unlink()
    await watch.run_once()
    assert list(tmp_path.iterdir()) == []


async def test_saving_leaves_one_file_for_each_service(fake, stage, tmp_path):
    await fake.replace("order_rpc", "127.0.0.1:7001")
    watch = stage.discovery(fake, snapshot_folder=tmp_path, wait_seconds=0.01).open_watch(
        "order_rpc"
    )
    await watch.run_once()
    await fake.replace("order_rpc", "127.0.0.1:7002")
    await watch.run_once()
    assert [path.name for path in tmp_path.iterdir()] == ["order_rpc.json"]
