"""Attempts and refunds that a payment_rpc wrote whose clock was ahead wait for their lease, not for
its error.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from structlog.testing import capture_logs

from mesh import failpoints
from mesh.call import Caller, Role
from mesh.clock import SystemClock
from mesh.failpoints import FailpointRaised
from mesh.money import RequestedAmount
from payment_rpc.domain.payment import PaymentState
from payment_rpc.tables import ATTEMPT, PAYMENT, REFUND
from payment_rpc.usecases.future_rows import FutureRows
from payment_rpc.usecases.refund_start import CreateRefund
from tests.builders.payment import LEASE_SECONDS, PaymentWorld, payment_world
from tests.support.fakes import FakeClock

CLERK = Caller(
    role=Role.MERCHANT, subject="clerk", merchant_id="mall", roles=frozenset({Role.MERCHANT})
)

AHEAD = timedelta(seconds=600)


@pytest.fixture
async def world(
    database_url_factory: Callable[[], str], tmp_path: Path
) -> AsyncIterator[PaymentWorld]:
    async with payment_world(database_url_factory(), database_url_factory(), tmp_path) as world:
        # that of the database, by which the worker knows that its own is right
        world.clock.set(SystemClock().now().replace(microsecond=0))
        yield world


async def crash_of_a_fast_process(world: PaymentWorld) -> None:
    """A charge whose process dies after its first transaction, and whose clock was ten minutes
    ahead.
    """
    order = await world.order()
    fast = world.make_app(clock=FakeClock(world.clock.now() + AHEAD))
    failpoints.arm("payment.charge.after_tx1=raise", environment="test")
    with pytest.raises(FailpointRaised):
        await world.charge(order, key="k1", app=fast)
    failpoints.arm("", environment="test")


def correcting(world: PaymentWorld, clock: Any = None) -> FutureRows:
    return FutureRows(db=world.db, clock=clock or world.clock)


async def test_an_attempt_that_a_fast_clock_left_is_finished_after_its_lease(
    world: PaymentWorld,
) -> None:
    await crash_of_a_fast_process(world)
    with capture_logs() as logs:
        assert await correcting(world).run_once() == 1
    assert [(line["event"], line["alert"], line["corrected"]) for line in logs] == [
        ("rows_from_the_future", True, 1)
    ]
    [attempt] = await world.rows(ATTEMPT)
    assert (
        attempt["lease_until"]
        == attempt["next_query_at"]
        == (attempt["updated_at"] + timedelta(seconds=LEASE_SECONDS))
    )
    assert abs(attempt["updated_at"] - world.clock.now()) < timedelta(seconds=1)
    world.clock.advance(LEASE_SECONDS - 1)
    assert await world.app.polling.run_once() == 0
    world.clock.advance(1)
    assert await world.app.polling.run_once() == 1
    assert [row["state"] for row in await world.rows(PAYMENT)] == [PaymentState.FAILED]
    assert await correcting(world).run_once() == 0


async def test_a_lease_that_is_longer_than_any_is_cut_although_a_right_clock_wrote_last(
    world: PaymentWorld,
) -> None:
    await crash_of_a_fast_process(world)
    now = world.clock.now()

    async def query_now(tx: Any) -> None:
        await tx.execute(
            update(ATTEMPT).values(
                next_query_at=now, updated_at=now, lease_until=now + timedelta(hours=3)
            )
        )

    await world.db.run(query_now)
    assert await correcting(world).run_once() == 1
    [attempt] = await world.rows(ATTEMPT)
    assert attempt["lease_until"] <= now + timedelta(minutes=10, seconds=1)


@pytest.mark.one_database
async def test_a_refund_that_a_fast_clock_put_off_is_asked_for_again(world: PaymentWorld) -> None:
    payment = await world.charge(await world.order())
    ahead = world.clock.now() + AHEAD
    refund = await world.app.refunds.create_refund(
        CreateRefund(
            payment_id=payment.payment_id,
            amount=RequestedAmount("10.00"),
            reason="",
            request_id="",
            key="",
        ),
        CLERK,
    )

    async def put_off(tx: Any) -> None:
        await tx.execute(
            update(REFUND).values(
                state="PENDING",
                next_query_at=ahead + timedelta(seconds=5),
                lease_until=ahead,
                updated_at=ahead,
            )
        )

    await world.db.run(put_off)
    assert await world.app.refunds.run_once() == 0
    assert await correcting(world).run_once() == 1
    world.clock.advance(5)
    assert await world.app.refunds.run_once() == 1
    assert refund.refund_id == (await world.rows(REFUND))[0]["refund_id"]


async def test_rows_of_clocks_that_differ_by_seconds_are_left_alone(world: PaymentWorld) -> None:
    await crash_of_a_fast_process(world)
    nearly = FakeClock(world.clock.now() + AHEAD - timedelta(seconds=29))
    assert await FutureRows(db=world.db, clock=nearly).run_once() == 0


@pytest.mark.parametrize("dialect", ["mariadb"], indirect=True)
async def test_a_process_whose_own_clock_is_behind_the_databases_corrects_nothing(
    world: PaymentWorld,
) -> None:
    await crash_of_a_fast_process(world)
    before = await world.rows(ATTEMPT)
    assert (
        await correcting(world, FakeClock(world.clock.now() - timedelta(seconds=60))).run_once()
        == 0
    )
    assert await world.rows(ATTEMPT) == before
