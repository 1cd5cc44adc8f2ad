"""One row that cannot be read, or whose step raises, stops no worker for the others: it is told to
people and left out for a while.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError
from structlog.testing import capture_logs

from mesh.bad_rows import PAUSE_FIRST_SECONDS, PAUSE_MAX_SECONDS, Quarantine, RowBatches
from mesh.clock import SystemClock
from mesh.errors import Conflict
from mesh.money import RequestedAmount
from order_rpc.domain.order import OrderState
from order_rpc.tables import ORDERS, STATISTIC_ENTRY
from payment_rpc.domain.payment import PaymentState
from payment_rpc.tables import ATTEMPT, PAYMENT, REFUND, STATEMENT_IMPORT
from payment_rpc.usecases.future_rows import FutureRows
from payment_rpc.usecases.refund_start import CreateRefund
from tests.builders.order import PAYMENT_WINDOW, OrderApp
from tests.builders.payment import LEASE_SECONDS, PaymentWorld
from tests.builders.payment_steps import DAY_SECONDS, TODAY, crashed
from tests.support.bad_rows import CLERK, left_out
from tests.support.databases import plant

# only its columns hold what is not of their type
ON_SQLITE = pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)


async def expired(app: OrderApp, count: int = 3) -> list[str]:
    """Orders whose time is over, by their deadlines."""
    made = []
    for _ in range(count):
        made.append((await app.order()).order_id)
        app.clock.advance(1)
    app.clock.advance(PAYMENT_WINDOW.total_seconds())
    return made


async def states(app: OrderApp) -> dict[str, str]:
    return {row["order_id"]: str(row["state"]) for row in await app.rows(ORDERS)}


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM order_item WHERE order_id = '{}'",
        "UPDATE orders SET address = '[' WHERE order_id = '{}'",
        "UPDATE orders SET refund_status = 'NONSENSE' WHERE order_id = '{}'",
        "UPDATE order_item SET stock_source = 'ATTIC' WHERE order_id = '{}'",
    ],
)
async def test_an_order_that_cannot_expire_stops_no_other(app: OrderApp, damage: str) -> None:
    first, *others = await expired(app)
    await plant(app.db, damage.format(first))
    with capture_logs() as logs:
        assert await app.expire() == 2
        assert await app.expire() == 0
    assert await states(app) == {
        first: OrderState.PENDING_PAYMENT,
        **dict.fromkeys(others, OrderState.CANCELLING),
    }
    assert left_out(logs) == [("expire_orders", f"mall/{first}", True)]
    assert await app.cancellations.due_in() is None  # nobody looks for it again and again


async def test_as_many_bad_orders_as_a_batch_takes_do_not_hide_those_behind_them(
    app: OrderApp,
) -> None:
    *bad, good = await expired(app, 5)
    await plant(app.db, *(f"DELETE FROM order_item WHERE order_id = '{each}'" for each in bad))
    small = app.make(expiry_batch_size=2)
    assert [await app.expire(app=small) for _ in range(3)] == [0, 0, 1]
    assert (await states(app))[good] == OrderState.CANCELLING


async def waiting(world: PaymentWorld) -> list[str]:
    """Three payments whose buyers sit at the cashier, past their deadlines."""
    made = [(await world.cashier(await world.order())).payment_id for _ in range(3)]
    world.clock.advance(PAYMENT_WINDOW.total_seconds() + 1)
    return made


@pytest.mark.parametrize("damage", ["outcome = 'NONSENSE'", "disposition = 'NONSENSE'"])
async def test_a_payment_that_cannot_expire_stops_no_other(
    world: PaymentWorld, damage: str
) -> None:
    first, *others = await waiting(world)
    await plant(world.db, f"UPDATE payment SET {damage} WHERE payment_id = '{first}'")
    with capture_logs() as logs:
        assert await world.app.expiry.run_once() == 2
        assert await world.app.expiry.run_once() == 0
    assert {row["payment_id"]: row["state"] for row in await world.rows(PAYMENT)} == {
        first: PaymentState.PAYING,
        **dict.fromkeys(others, PaymentState.CLOSING),
    }
    assert left_out(logs) == [("expire_payments", first, True)]
    assert await world.app.expiry.due_in() is None


@ON_SQLITE
async def test_a_payment_whose_column_holds_nothing_of_its_type_stops_no_other(
    world: PaymentWorld,
) -> None:
    first, *others = await waiting(world)
    await plant(
        world.db, f"UPDATE payment SET updated_at = 'yesterday' WHERE payment_id = '{first}'"
    )
    with capture_logs() as logs:
        assert await world.app.expiry.run_once() == 2
    assert left_out(logs) == [("expire_payments", first, True)]
    assert [(await world.payment(each)).state for each in others] == [PaymentState.CLOSING] * 2


@pytest.mark.parametrize("damage", ["payment_id = 'PAY0'", "state = 'NONSENSE'"])
async def test_an_attempt_that_cannot_be_asked_for_keeps_no_other_from_being_asked_for(
    world: PaymentWorld, damage: str
) -> None:
    for _ in range(3):
        await crashed(world, "payment.charge.after_channel", await world.order())
    first = (await world.rows(ATTEMPT))[0]["attempt_id"]
    await plant(world.db, f"UPDATE attempt SET {damage} WHERE attempt_id = '{first}'")
    world.clock.advance(LEASE_SECONDS)
    with capture_logs() as logs:
        assert await world.app.polling.run_once() == 2
        assert await world.app.polling.run_once() == 0
    assert left_out(logs) == [("ask_channels", first, True)]
    assert await world.app.polling.due_in() is None
    assert sorted(row["state"] for row in await world.rows(PAYMENT)) == [
        "PAYING",
        "SUCCESS",
        "SUCCESS",
    ]


async def open_refunds(world: PaymentWorld) -> list[str]:
    made = []
    for _ in range(3):
        payment = await world.charge(await world.order())
        made.append(
            (
                await world.app.refunds.create_refund(
                    CreateRefund(
                        payment_id=payment.payment_id,
                        amount=RequestedAmount("10.00"),
                        reason="",
                        request_id="",
                        key="",
                    ),
                    CLERK,
                )
            ).refund_id
        )
    return made


async def test_a_refund_that_cannot_be_read_keeps_no_other_from_going_on(
    world: PaymentWorld,
) -> None:
    first, *_ = await open_refunds(world)
    before = await world.rows(REFUND)
    await plant(
        world.db,
        "UPDATE refund SET state = 'PENDING', next_query_at = 1",
        f"UPDATE refund SET state = 'NONSENSE' WHERE refund_id = '{first}'",
    )
    with capture_logs() as logs:
        assert await world.app.refunds.run_once() == 2
        assert await world.app.refunds.run_once() == 0
    assert left_out(logs) == [("advance_refunds", first, True)]
    asked = [
        row["queries"] - earlier["queries"]
        for row, earlier in zip(await world.rows(REFUND), before, strict=True)
    ]
    assert asked == [0, 1, 1]


async def test_a_row_from_the_future_that_cannot_be_read_keeps_no_other_from_being_corrected(
    world: PaymentWorld,
) -> None:
    world.clock.set(SystemClock().now().replace(microsecond=0))
    first, *_ = await open_refunds(world)
    ahead = int((world.clock.now() + timedelta(hours=1)).timestamp() * 1000)
    await plant(
        world.db,
        f"UPDATE refund SET state = 'PENDING', next_query_at = {ahead}, lease_until = {ahead}, "
        f"updated_at = {ahead}",
        f"UPDATE refund SET state = 'NONSENSE' WHERE refund_id = '{first}'",
    )
    with capture_logs() as logs:
        assert await FutureRows(db=world.db, clock=world.clock).run_once() == 2
    assert left_out(logs) == [("correct_future_rows", first, True)]


async def test_a_callback_that_cannot_be_read_keeps_no_other_from_being_finished(
    world: PaymentWorld,
) -> None:
    empty = (
        "event_id",
        "payload",
        "payload_digest",
        "sent_timestamp",
        "nonce",
        "signature_digest",
        "reason",
        "attempt_id",
        "refund_id",
        "trace_id",
    )
    for number, kind in enumerate(("NONSENSE", "HINT")):
        values = {
            "callback_id": f"CB{number}",
            "channel": "sandbox",
            "kind": kind,
            "payload_encoding": "TEXT",
            "payload_bytes": 0,
            "signature_valid": 1,
            "result": "RECEIVED",
            "deliveries": 1,
            "payment_id": "PAY0",
            "received_at": number,
            "last_received_at": 1,
            "expires_at": 1,
            **dict.fromkeys(empty, ""),
        }
        await plant(
            world.db,
            f"INSERT INTO channel_callback ({', '.join(values)}) VALUES "
            f"({', '.join(map(repr, values.values()))})",
        )
    with capture_logs() as logs:
        # of no payment: never will be finished, which is written down
        assert await world.app.callback_questions.run_once() == 1
        assert await world.app.callback_questions.run_once() == 0
    assert left_out(logs) == [("finish_callbacks", "CB0", True)]


async def test_a_statement_that_cannot_be_read_keeps_no_other_from_being_compared(
    world: PaymentWorld,
) -> None:
    imports = world.app.statement_imports
    world.clock.advance(DAY_SECONDS)
    begun = await imports.import_statement("sandbox", TODAY)
    await imports.run_once()  # fetches it
    await plant(
        world.db,
        "INSERT INTO statement_import SELECT 'A', channel, '2020-01-01', content_hash, '?', "
        "state, line_count, processed, matched, is_complete, "
        "line_errors, error, created_at, finished_at FROM statement_import",
    )
    with capture_logs() as logs:
        while await imports.run_once():
            pass
    assert (await imports.get_statement_import(begun.import_id)).state == "DONE"
    assert left_out(logs) == [("import_statements", "A", True)]
    assert {row["import_id"]: row["state"] for row in await world.rows(STATEMENT_IMPORT)}[
        "A"
    ] == "RUNNING"


async def test_an_entry_that_cannot_be_counted_keeps_no_other_out_of_the_figures(
    app: OrderApp,
) -> None:
    await app.order()
    await app.paid_order()
    entries = await app.rows(STATISTIC_ENTRY)
    bad = entries[0]["id"]
    await plant(app.db, f"UPDATE statistic_entry SET figure = 'NONSENSE' WHERE id = {bad}")
    with capture_logs() as logs:
        assert await app.statistics.fold_once() == len(entries) - 1
        assert await app.statistics.fold_once() == 0
    assert [row["id"] for row in await app.rows(STATISTIC_ENTRY)] == [bad]
    assert left_out(logs) == [("fold_statistics", str(bad), True)]


# The mechanism itself


def of_orders(
    app: OrderApp, take: Any, *, clock: Callable[[], float] = lambda: 0.0, most: int = 10
) -> RowBatches[Any]:
    return RowBatches(
        db=app.db,
        quarantine=Quarantine("w", ORDERS.c.merchant_id, ORDERS.c.order_id, monotonic=clock),
        most=most,
        take=take,
        due=lambda limit: select(ORDERS).order_by(ORDERS.c.order_id).limit(limit),
    )


@ON_SQLITE
async def test_a_row_that_was_left_out_is_tried_again_and_waits_longer_each_time(
    app: OrderApp,
) -> None:
    await app.order()
    now, tried = [0.0], []

    async def take(_tx: Any, rows: Any) -> list[Any]:
        tried.append(now[0])
        raise ZeroDivisionError(len(rows))

    batches = of_orders(app, take, clock=lambda: now[0])
    with capture_logs():
        for now[0] in range(0, 3000, 10):
            assert await batches.run() == []
    moments = sorted(set(tried))
    pauses = [later - earlier for earlier, later in pairwise(moments)]
    assert pauses[:4] == [PAUSE_FIRST_SECONDS, 60, 120, 240]
    assert max(pauses) == PAUSE_MAX_SECONDS


@ON_SQLITE
async def test_what_is_nobodys_fault_leaves_no_row_out_until_one_row_alone_takes_too_long_again_and_again(
    app: OrderApp,
) -> None:
    made = [(await app.order()).order_id for _ in range(2)]
    slow = min(made)
    taken = []

    async def take(_tx: Any, rows: Any) -> list[Any]:
        if slow in [row.order_id for row in rows]:
            raise Conflict
        taken.append([row.order_id for row in rows])
        return list(rows)

    batches = of_orders(app, take, most=2)
    for _ in range(4):
        with pytest.raises(Conflict):
            await batches.run()
    assert taken == []
    with capture_logs() as logs:
        assert len(await batches.run()) == 1
    assert (taken, left_out(logs)) == ([[max(made)]], [])


@ON_SQLITE
async def test_an_error_of_the_database_about_the_query_itself_is_the_rounds(app: OrderApp) -> None:
    await app.order()
    await app.execute(text("ALTER TABLE orders RENAME TO elsewhere"))

    async def take(_tx: Any, rows: Any) -> list[Any]:
        return list(rows)

    with pytest.raises(DBAPIError):
        await of_orders(app, take).run()
