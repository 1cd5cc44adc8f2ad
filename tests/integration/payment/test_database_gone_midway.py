"""The database dies between two steps of one call: what the channel said or did is not forgotten,
and whoever waits hears what is true."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mesh.errors import Unavailable
from mesh.money import RequestedAmount
from payment_rpc.domain.callback import CallbackResult
from payment_rpc.domain.payment import PaymentState
from payment_rpc.domain.refund import RefundState
from payment_rpc.domain.refund_facts import RefundChannelStatus, RefundFact
from payment_rpc.store import callbacks
from payment_rpc.tables import CHANNEL_CALLBACK, REFUND
from payment_rpc.usecases.refund_start import CreateRefund
from tests.builders.order import merchant
from tests.builders.payment import PaymentWorld, payment_world
from tests.builders.payment_steps import RefundLine, callback, deliver, waiting
from tools.servers import MariaDB


@pytest.fixture
async def world(own_mariadb: MariaDB, tmp_path: Path) -> AsyncIterator[PaymentWorld]:
    """Payments on a database that may be killed; the orders have another one."""
    async with payment_world(
        own_mariadb.create_database(), f"sqlite+aiosqlite:///{tmp_path / 'orders.db'}", tmp_path
    ) as world:
        yield world


async def test_a_genuine_callback_whose_database_dies_is_not_logged_as_failed_and_comes_again(
    world: PaymentWorld, own_mariadb: MariaDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database is back as soon as the callback was given up: whatever is written about the
    failure would be found.
    """
    payment, attempt_id = await waiting(world)
    arrive, fail = callbacks.arrive, world.app.callbacks._log.fail

    async def dies(tx: Any, arrived: Any) -> Any:
        monkeypatch.setattr(callbacks, "arrive", arrive)
        logged = await arrive(tx, arrived)
        own_mariadb.kill()
        return logged

    async def is_back(*arguments: Any) -> None:
        own_mariadb.start()
        await fail(*arguments)

    monkeypatch.setattr(callbacks, "arrive", dies)
    monkeypatch.setattr(world.app.callbacks._log, "fail", is_back)
    with pytest.raises(Unavailable):
        await deliver(world, callback(attempt_id))
    assert await world.rows(CHANNEL_CALLBACK) == []
    assert (await world.payment(payment.payment_id)).state is PaymentState.PAYING
    assert await deliver(world, callback(attempt_id)) is CallbackResult.PROCESSED
    assert [row["result"] for row in await world.rows(CHANNEL_CALLBACK)] == ["PROCESSED"]


async def test_a_refund_whose_database_dies_after_it_was_sent_is_on_its_way(
    world: PaymentWorld, own_mariadb: MariaDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    payment = await world.charge(await world.order())
    line = RefundLine(world.channel, monkeypatch)
    send = line.refund

    async def dies(**call: Any) -> RefundFact:
        sent = await send(**call)
        own_mariadb.kill()
        return sent

    monkeypatch.setattr(world.channel, "refund", dies)
    asked = await world.app.refunds.create_refund(
        CreateRefund(
            payment_id=payment.payment_id,
            amount=RequestedAmount("30.00"),
            reason="",
            request_id="",
            key="k1",
        ),
        merchant(),
    )
    assert asked.state is RefundState.SUBMITTED
    own_mariadb.start()
    world.clock.advance(30)
    assert await world.app.refunds.run_once() == 1
    [row] = await world.rows(REFUND)
    assert (row["refund_id"], row["state"], row["channel_refund_no"]) == (
        asked.refund_id,
        "SUCCESS",
        f"SR{asked.refund_id[-6:]}",
    )
    assert line.submissions == [asked.refund_id]
    assert line.truth == {asked.refund_id: RefundChannelStatus.SUCCESS}
    assert await world.ledger_problems() == []
