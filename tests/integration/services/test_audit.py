"""`paymesh audit` finds nothing in two databases that the code kept, and every single thing that
somebody changed behind their back.
"""

from __future__ import annotations

import pytest
from sqlalchemy import delete, update

import order_rpc.tables as order_tables
from mesh.audit import AuditTolerance
from mesh.audit.queries import waiting_events
from mesh.errors import Unavailable
from mesh.money import Money
from mesh.outbox import OUTBOX
from payment_rpc.domain.facts import ChannelFact, ChannelStatus
from payment_rpc.domain.payment import Disposition, PaymentState
from payment_rpc.tables import ATTEMPT, MANUAL_REVIEW, PAYMENT, REFUND
from paymesh_cli.audit import between
from paymesh_cli.audit.parts import audit_databases
from tests.builders.audit import a_day_of_trade, audited, nobody_listens
from tests.builders.order import ADMIN
from tests.builders.payment import PaymentWorld
from tests.support.sandbox_server import API_KEY

pytestmark = pytest.mark.one_database

ORDERS, RESERVATION, STOCK, ITEM = (
    order_tables.ORDERS,
    order_tables.RESERVATION,
    order_tables.STOCK,
    order_tables.ORDER_ITEM,
)
HISTORY = order_tables.ORDER_AUDIT


async def test_what_the_code_kept_holds_even_strictly(world: PaymentWorld) -> None:
    await a_day_of_trade(world)
    assert await audited(world, strict=True) == []


async def test_an_order_that_waits_for_money_is_no_violation(world: PaymentWorld) -> None:
    await world.cashier(await world.order())
    await nobody_listens(world)
    assert await audited(world, strict=True) == []


async def test_news_on_their_way_are_forgiven_for_a_while_and_never_strictly(
    world: PaymentWorld,
) -> None:
    world.orders.away = False
    order = await world.order()

    async def leave() -> None:
        world.orders.away = True

    world.channel.after_charge = leave
    payment = await world.charge(order)
    assert payment.state is PaymentState.SUCCESS
    assert await audited(world) == []
    strict = await audited(world, strict=True)
    assert ("across", "paid_once", payment.payment_id) in strict
    assert "outbox_late" in {check for _, check, _ in strict}
    world.clock.advance(11 * 60)
    assert ("across", "paid_once", payment.payment_id) in await audited(world)


async def test_events_wait_where_nobody_publishes_them_and_other_messages_do_not(
    world: PaymentWorld,
) -> None:
    await world.charge(await world.order())
    await world.finish()
    world.clock.advance(2 * 24 * 3600)
    both = ("payment_rpc", "order_rpc")
    assert {(where, check) for where, check, _ in await audited(world)} == {
        (service, "outbox_late") for service in both
    }
    assert [where for where, *_ in await audited(world, without_redis=["order_rpc"])] == [
        "payment_rpc"
    ]
    for strict in (False, True):
        assert await audited(world, strict=strict, without_redis=both) == []
    assert [await waiting_events(db) for db in (world.db, world.order_side.db)] == [1, 2]
    await world.execute(
        update(OUTBOX).where(OUTBOX.c.destination == "order_rpc").values(state="NEW")
    )
    assert [(where, check) for where, check, _ in await audited(world, without_redis=both)] == [
        ("payment_rpc", "outbox_late")
    ]


async def test_work_that_no_worker_does_is_found(world: PaymentWorld) -> None:
    world.channel.lose_answers = True
    await world.charge(await world.order())
    late = await world.cashier(await world.order())
    assert await audited(world, channel=False) == []
    world.clock.advance(3 * 3600)
    found = {(where, check) for where, check, _ in await audited(world, channel=False)}
    assert {
        ("payment_rpc", "attempt_late"),
        ("payment_rpc", "payment_late"),
        ("order_rpc", "order_late"),
    } <= found
    assert ("payment_rpc", "payment_late", late.payment_id) in await audited(world, channel=False)


async def test_parked_money_is_seen_by_a_person_until_it_is_resolved(world: PaymentWorld) -> None:
    conflicted = await world.cashier(await world.order())
    attempt_id = (await world.rows(ATTEMPT))[0]["attempt_id"]
    await world.app.channel_results.apply(
        ChannelFact(
            attempt_id=attempt_id,
            status=ChannelStatus.CAPTURED,
            amount=Money(1, "CNY"),
            trade_no="T8",
        )
    )
    assert await audited(world, channel=False) == []
    await world.app.conflicts.resolve_conflict(
        conflicted.payment_id, state=PaymentState.FAILED, reason="seen", caller=ADMIN
    )
    assert await audited(world, channel=False) == []
    await world.execute(delete(REFUND))
    assert ("payment_rpc", "parked_unseen", attempt_id) in await audited(world, channel=False)
    await world.execute(delete(MANUAL_REVIEW))
    assert ("payment_rpc", "parked_unseen", attempt_id) in await audited(world, channel=False)


async def test_money_that_the_order_refused_and_that_went_back_holds(world: PaymentWorld) -> None:
    order = await world.order()
    world.orders.answer = Disposition.REFUSED_CANCELLED
    payment = await world.charge(order)
    await world.app.refunds.run_once()
    assert (await world.payment(payment.payment_id)).state is PaymentState.LATE_REFUNDED
    assert await audited(world) == []


async def test_a_channel_that_does_not_answer_is_no_proof(
    world: PaymentWorld, free_port: int
) -> None:
    databases = {"payment_rpc": world.db, "order_rpc": world.order_side.db}
    with pytest.raises(Unavailable):
        _ = [
            found
            async for found in audit_databases(
                databases,
                AuditTolerance(now=world.clock.now(), strict=False),
                sandbox_url=f"http://127.0.0.1:{free_port}",
                api_key=API_KEY,
            )
        ]


async def test_pages_of_one_find_the_same(
    world: PaymentWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    await a_day_of_trade(world)
    monkeypatch.setattr(between, "PAGE", 1)
    assert await audited(world, strict=True) == []
    await world.execute(
        update(PAYMENT).where(PAYMENT.c.payment_method == "cashier").values(order_id="ORDnone")
    )
    assert {check for where, check, _ in await audited(world) if where == "across"} == {
        "payment_has_order",
        "order_paid_by_success",
    }
