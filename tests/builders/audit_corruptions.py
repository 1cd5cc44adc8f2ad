"""Things that somebody changes by hand in databases of which everything holds, and what of `paymesh
audit` finds each: for tests/integration/services/test_audit_corruptions.py and the mutants of the audit."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import MetaData, Table, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

import order_rpc.tables as of_orders
import payment_rpc.tables as of_payments
from mesh.audit import AuditTolerance
from mesh.db import Database
from mesh.idempotency import RECEIPT
from mesh.log_chain import LOG_CHAIN
from mesh.money import Money
from mesh.outbox import OUTBOX
from order_rpc.domain.order import OrderState
from payment_rpc.domain.errors import CardDeclined
from payment_rpc.domain.ledger import chained_hash, fee_charged
from paymesh_cli.audit.parts import audit_part
from tests.builders.audit import at_rest, nobody_listens
from tests.builders.payment import DECLINED, PaymentWorld
from tests.builders.payment_steps import refund, spend, top_up
from tests.support.sandbox_server import API_KEY

ORDERS, RESERVATION, STOCK, ITEM = (
    of_orders.ORDERS,
    of_orders.RESERVATION,
    of_orders.STOCK,
    of_orders.ORDER_ITEM,
)
HISTORY, MOVEMENT, REQUEST, HEARD = (
    of_orders.ORDER_AUDIT,
    of_orders.STOCK_MOVEMENT,
    of_orders.REFUND_REQUEST,
    of_orders.PAYMENT_DISPOSITION,
)
STATISTIC, ENTRY, ALLOCATION = of_orders.STATISTIC, of_orders.STATISTIC_ENTRY, of_orders.ALLOCATION
PAYMENT, ATTEMPT, REFUND, GATE = (
    of_payments.PAYMENT,
    of_payments.ATTEMPT,
    of_payments.REFUND,
    of_payments.ORDER_GATE,
)
TRANSACTION, POSTING, WALLET = (
    of_payments.LEDGER_TRANSACTION,
    of_payments.LEDGER_POSTING,
    of_payments.WALLET,
)
WALLET_ENTRY, CALLBACK, SCAN = (
    of_payments.WALLET_ENTRY,
    of_payments.CHANNEL_CALLBACK,
    of_payments.SCAN_ACTION,
)
P, A, R, O, H, Q = PAYMENT.c, ATTEMPT.c, REFUND.c, ORDERS.c, HISTORY.c, REQUEST.c

Tamper = Callable[["Stage"], Awaitable[Any]]


@dataclass
class Stage:
    """A shop after a day, and its rows as they were."""

    world: PaymentWorld
    databases: Mapping[str, tuple[Database, MetaData]]
    rows: dict[tuple[str, str], list[dict[str, Any]]]

    async def change(self, service: str, *statements: Any) -> None:
        async def run(tx: AsyncConnection) -> None:
            for statement in statements:
                assert (await tx.execute(statement)).rowcount, f"nothing to spoil: {statement}"

        await self.databases[service][0].run(run)

    async def one(self, table: Table, *conditions: Any) -> Any:
        async def read(tx: AsyncConnection) -> Any:
            return (
                await tx.execute(
                    select(table).where(*conditions).order_by(*table.primary_key.columns).limit(1)
                )
            ).one()

        return await self.databases[
            "payment_rpc" if table.metadata is of_payments.metadata else "order_rpc"
        ][0].read(read)

    async def restore(self) -> None:
        """Every row as it was."""
        for service, (db, metadata) in self.databases.items():
            before = {
                table.name: self.rows[service, table.name] for table in metadata.sorted_tables
            }
            await db.run(restore_rows, metadata, before)

    async def found(self, where: str) -> set[tuple[str, str]]:
        """What one part of the audit finds: (where, check)."""
        return {
            (where, found.check)
            async for found in audit_part(
                where,
                {service: db for service, (db, _) in self.databases.items()},
                AuditTolerance(now=self.world.clock.now(), strict=True),
                sandbox_url=self.world.sandbox.base_url,
                api_key=API_KEY,
            )
        }


Row = dict[str, Any]


@dataclass
class Difference:
    """What must be done with a table, to have the rows that it had."""

    missing: list[Row]
    changed: list[Row]
    unknown: list[tuple[Any, ...]]

    @classmethod
    def of(cls, table: Table, before: Sequence[Row], now: Sequence[Row]) -> Difference:
        was, is_ = ({key_of(table, row): row for row in rows} for rows in (before, now))
        return cls(
            missing=[row for key, row in was.items() if key not in is_],
            changed=[row for key, row in was.items() if key in is_ and is_[key] != row],
            unknown=[key for key in is_ if key not in was],
        )


async def restore_rows(
    tx: AsyncConnection, metadata: MetaData, before: Mapping[str, Sequence[Row]]
) -> None:
    """Gives each table the rows that it had."""
    changes = {
        table: Difference.of(table, before[table.name], await all_rows(tx, table))
        for table in metadata.sorted_tables
    }
    for table in reversed(metadata.sorted_tables):
        for key in changes[table].unknown:
            await tx.execute(delete(table).where(*is_row(table, key)))
    for table in metadata.sorted_tables:
        for row in changes[table].changed:
            await tx.execute(update(table).where(*is_row(table, key_of(table, row))).values(row))
        if changes[table].missing:
            await tx.execute(insert(table), changes[table].missing)


def key_of(table: Table, row: Row) -> tuple[Any, ...]:
    return tuple(row[column.name] for column in table.primary_key)


def is_row(table: Table, key: tuple[Any, ...]) -> list[Any]:
    return [column == value for column, value in zip(table.primary_key, key, strict=True)]


async def all_rows(tx: AsyncConnection, table: Table) -> list[Row]:
    return [dict(row) for row in (await tx.execute(select(table))).mappings()]


async def a_day(world: PaymentWorld) -> None:
    """Cards with and without keys, refunds asked for on both sides, a declined card, a cashier with
    callbacks, the wallet.
    """
    payment = await world.charge(await world.order(), key="k")
    await refund(world, payment, "10.00", key="r")
    order = await world.order()
    paid = await world.charge(order)
    await world.finish()
    request = await world.order_side.refund(await world.order_side.load(order), amount="20.00")
    await refund(world, paid, "20.00", request_id=request.request_id)
    await world.order_side.execute(
        update(OUTBOX).where(OUTBOX.c.tag == "CreateRefund").values(state="DONE")
    )
    with pytest.raises(CardDeclined):
        await world.charge(await world.order(), number=DECLINED)
    waiting = await world.cashier(await world.order())
    await world.press(waiting)
    await world.callbacks()
    await top_up(world, "100.00")
    await refund(world, await spend(world, await world.order("60.00")), "10.00")
    lost = await world.order()
    world.channel.lose_answers = True
    await world.charge(lost)
    world.channel.lose_answers = False
    cancelled = await world.order_side.cancel(await world.order())
    await world.close_gate(cancelled)
    await at_rest(world)
    await nobody_listens(world)


def sql(service: str, *statements: Any) -> Tamper:
    """Statements, each of which must hit something."""

    async def tamper(stage: Stage) -> None:
        await stage.change(service, *statements)

    return tamper


def orders(*statements: Any) -> Tamper:
    return sql("order_rpc", *statements)


def payments(*statements: Any) -> Tamper:
    return sql("payment_rpc", *statements)


async def fee_removed(stage: Stage) -> None:
    """The last transaction of a payment, a fee, with the head set back."""
    fee = await stage.one(
        TRANSACTION,
        TRANSACTION.c.kind == "FEE",
        TRANSACTION.c.payment_id.in_(
            select(P.payment_id).where(P.ledger_head == TRANSACTION.c.hash)
        ),
    )
    await stage.change(
        "payment_rpc",
        delete(POSTING).where(POSTING.c.business_key == fee.business_key),
        delete(TRANSACTION).where(TRANSACTION.c.id == fee.id),
        update(PAYMENT).where(P.payment_id == fee.payment_id).values(ledger_head=fee.previous_hash),
    )


def fee_invented(key: str) -> Tamper:
    """A fee at the end of a payment's chain, hashed as it should be."""

    async def tamper(stage: Stage) -> None:
        payment = await stage.one(PAYMENT, P.state == "SUCCESS", P.channel == "sandbox")
        attempt = await stage.one(ATTEMPT, A.payment_id == payment.payment_id)
        old = await stage.one(
            TRANSACTION, TRANSACTION.c.business_key == f"attempt:{attempt.attempt_id}:fee"
        )
        line = await stage.one(POSTING, POSTING.c.business_key == old.business_key)
        made = fee_charged(
            attempt_id=attempt.attempt_id,
            payment_id=payment.payment_id,
            channel="sandbox",
            fee=Money(line.amount_minor, "CNY"),
        )
        name = key.format(attempt_id=attempt.attempt_id)
        digest = chained_hash(
            payment.ledger_head,
            key=name,
            kind="FEE",
            payment_id=payment.payment_id,
            postings=made.postings,
        )
        await stage.change(
            "payment_rpc",
            insert(TRANSACTION).values(
                business_key=name,
                kind="FEE",
                payment_id=payment.payment_id,
                previous_hash=payment.ledger_head,
                hash=digest,
                booked_at=payment.updated_at,
            ),
            insert(POSTING).values(
                [
                    {
                        "business_key": name,
                        "seq": number,
                        "account": posting.account,
                        "side": posting.side,
                        "amount_minor": posting.amount.minor,
                        "currency": "CNY",
                    }
                    for number, posting in enumerate(made.postings, 1)
                ]
            ),
            update(PAYMENT).where(P.payment_id == payment.payment_id).values(ledger_head=digest),
        )

    return tamper


async def receipt_of_another(stage: Stage) -> None:
    """A key answers with another payment."""
    receipt = await stage.one(RECEIPT_OF_PAYMENTS, RECEIPT_OF_PAYMENTS.c.idempotency_key == "k")
    other = await stage.one(PAYMENT, P.payment_id != receipt.resource_id, P.state == "SUCCESS")
    await stage.change(
        "payment_rpc",
        update(RECEIPT)
        .where(RECEIPT.c.idempotency_key == "k")
        .values(resource_id=other.payment_id),
    )


async def shelf_log_shortened(stage: Stage) -> None:
    """The last movement of a product, its chain set back: only the units tell."""
    last = await stage.one(MOVEMENT, MOVEMENT.c.chain_seq == 1)
    await stage.change(
        "order_rpc",
        delete(MOVEMENT).where(MOVEMENT.c.id == last.id),
        delete(LOG_CHAIN).where(
            LOG_CHAIN.c.log == "stock_movement", LOG_CHAIN.c.entity == f"mall/{last.sku_id}"
        ),
    )


async def new_generation(stage: Stage) -> None:
    held = await stage.one(RESERVATION, RESERVATION.c.state == "COMMITTED")
    await stage.change("order_rpc", insert(RESERVATION).values({**held._mapping, "generation": 2}))


async def allocation_without_steps(stage: Stage) -> None:
    shelf = await stage.one(STOCK)
    at = stage.world.clock.now()
    await stage.change(
        "order_rpc",
        insert(ALLOCATION).values(
            merchant_id="mall",
            activity_id="ACT1",
            sku_id=shelf.sku_id,
            allocated=5,
            returned=0,
            created_at=at,
            updated_at=at,
        ),
    )


RECEIPT_OF_PAYMENTS = of_payments.metadata.tables["receipt"]
PAID = O.state == OrderState.PAID
CARD = P.channel == "sandbox"
WAL = A.channel == "wallet"
SUCCEEDED = Q.state == "SUCCEEDED"
AT_ORDERS: dict[str, tuple[Tamper, str, str]] = {
    "an order is somewhere else": (
        orders(update(ORDERS).where(PAID).values(state="SHIPPED", shipped_at=None)),
        "order_rpc",
        "history_leads_here",
    ),
    "amount + 1": (
        orders(update(ORDERS).where(PAID).values(amount_minor=O.amount_minor + 1)),
        "order_rpc",
        "order_total",
    ),
    "amount + 1, seen across": (
        orders(update(ORDERS).where(PAID).values(amount_minor=O.amount_minor + 1)),
        "across",
        "same_amount",
    ),
    "refunded": (
        orders(update(ORDERS).where(PAID).values(refunded_minor=1)),
        "across",
        "same_refunded",
    ),
    "refunded, within": (
        orders(update(ORDERS).where(PAID).values(refunded_minor=1)),
        "order_rpc",
        "refunds_add_up",
    ),
    "captured": (
        orders(update(ORDERS).where(PAID).values(captured_minor=O.captured_minor + 1)),
        "across",
        "same_captured",
    ),
    "currency": (
        orders(update(ORDERS).where(PAID).values(currency="USD")),
        "across",
        "same_currency",
    ),
    "another buyer": (
        orders(update(ORDERS).where(PAID).values(user_id="thief")),
        "across",
        "same_buyer",
    ),
    "paid by another payment": (
        orders(update(ORDERS).where(PAID).values(paid_payment_id="PAYother")),
        "order_rpc",
        "order_took_payment",
    ),
    "paid by another payment, taken": (
        orders(update(ORDERS).where(PAID).values(paid_payment_id="PAYother")),
        "order_rpc",
        "taken_once",
    ),
    "paid by another payment, across": (
        orders(update(ORDERS).where(PAID).values(paid_payment_id="PAYother")),
        "across",
        "order_paid_by_success",
    ),
    "paid and cancelled": (
        orders(
            update(ORDERS).where(PAID).values(state="CANCELLED", paid_at=None, paid_payment_id="")
        ),
        "across",
        "paid_once",
    ),
    "refunded order": (
        orders(update(ORDERS).where(PAID).values(state="REFUNDED")),
        "across",
        "order_refunded",
    ),
    "a late order": (
        orders(
            update(ORDERS)
            .where(O.state == "CANCELLED")
            .values(state="PENDING_PAYMENT", cancelled_at=None, expires_at=O.created_at)
        ),
        "order_rpc",
        "order_late",
    ),
    "an order that nobody can pay": (
        orders(
            update(ORDERS)
            .where(O.state == "CANCELLED")
            .values(state="PENDING_PAYMENT", cancelled_at=None)
        ),
        "across",
        "gate_open",
    ),
    "held money of which the order does not know": (
        payments(
            update(PAYMENT)
            .where(P.state == "FAILED")
            .values(state="AUTHORIZED", capture_mode="MANUAL", live_slot=1)
        ),
        "across",
        "hold_at_order",
    ),
    "money that nobody holds": (
        orders(
            update(ORDERS)
            .where(O.state == "CANCELLED")
            .values(
                state="PENDING_PAYMENT",
                cancelled_at=None,
                held_payment_id="PAYnone",
                held_minor=1,
                held_until=O.expires_at,
                pay_until=O.expires_at,
            )
        ),
        "across",
        "order_held",
    ),
    "an order that is being cancelled for ever": (
        orders(
            update(ORDERS)
            .where(O.state == "CANCELLED")
            .values(state="CANCELLING", updated_at=O.created_at)
        ),
        "order_rpc",
        "order_late",
    ),
    "reserved for ever": (
        orders(update(RESERVATION).values(state="RESERVED")),
        "order_rpc",
        "line_reserved",
    ),
    "units of a reservation": (
        orders(update(RESERVATION).values(quantity=2)),
        "order_rpc",
        "line_reserved",
    ),
    "reservations are gone": (orders(delete(RESERVATION)), "order_rpc", "line_reserved"),
    "reservations without lines": (orders(delete(ITEM)), "order_rpc", "reservation_of_line"),
    "a second generation": (new_generation, "order_rpc", "old_reservation_released"),
    "available + 1": (
        orders(update(STOCK).values(available=STOCK.c.available + 1)),
        "order_rpc",
        "stock_available",
    ),
    "available - 1": (
        orders(update(STOCK).values(available=STOCK.c.available - 1)),
        "order_rpc",
        "stock_available",
    ),
    "sold + 1": (orders(update(STOCK).values(sold=STOCK.c.sold + 1)), "order_rpc", "stock_sold"),
    "reserved + 1": (
        orders(update(STOCK).values(reserved=STOCK.c.reserved + 1)),
        "order_rpc",
        "stock_reserved",
    ),
    "allocated": (orders(update(STOCK).values(allocated=1)), "order_rpc", "stock_allocated"),
    "an allocation that nobody took": (allocation_without_steps, "order_rpc", "allocation_steps"),
    "a movement is gone with its chain": (shelf_log_shortened, "order_rpc", "stock_available"),
    "a movement says something else": (
        orders(update(MOVEMENT).where(MOVEMENT.c.kind == "INITIAL").values(operator="nobody")),
        "order_rpc",
        "log_chained",
    ),
    "the log of movements is empty": (orders(delete(MOVEMENT)), "order_rpc", "log_chained"),
    "a step of a history": (
        orders(update(HISTORY).where(H.from_state == "").values(to_state="CANCELLED")),
        "order_rpc",
        "history_unbroken",
    ),
    "who did a step": (
        orders(update(HISTORY).where(H.event == "PAY").values(operator="admin:root")),
        "order_rpc",
        "log_chained",
    ),
    "the last steps": (
        orders(delete(HISTORY).where(H.to_state == "PAID")),
        "order_rpc",
        "log_chained",
    ),
    "the first steps": (
        orders(delete(HISTORY).where(H.from_state == "")),
        "order_rpc",
        "history_unbroken",
    ),
    "all histories": (orders(delete(HISTORY)), "order_rpc", "history_leads_here"),
    "all histories and their heads": (
        orders(delete(HISTORY), delete(LOG_CHAIN)),
        "order_rpc",
        "history_leads_here",
    ),
    "a refused message": (orders(update(OUTBOX).values(state="DEAD")), "order_rpc", "outbox_dead"),
    "a message that nobody can read": (
        orders(update(OUTBOX).values(payload="{")),
        "order_rpc",
        "outbox_readable",
    ),
    "a delivered message is gone": (
        orders(delete(OUTBOX).where(OUTBOX.c.tag == "ORDER_PAID")),
        "order_rpc",
        "message_kept",
    ),
    "figures": (
        orders(update(ENTRY).values(amount_minor=ENTRY.c.amount_minor + 1)),
        "order_rpc",
        "statistics_right",
    ),
    "figures are gone": (
        orders(delete(ENTRY).where(ENTRY.c.figure == "PAID")),
        "order_rpc",
        "statistics_right",
    ),
    "a refund that did not happen": (
        orders(update(REQUEST).where(SUCCEEDED).values(state="FAILED")),
        "across",
        "same_refund_state",
    ),
    "a refund that did not happen, within": (
        orders(update(REQUEST).where(SUCCEEDED).values(state="FAILED")),
        "order_rpc",
        "refunds_add_up",
    ),
    "a refund + 1": (
        orders(update(REQUEST).values(amount_minor=Q.amount_minor + 1)),
        "across",
        "same_refund_amount",
    ),
    "a refund of another payment": (
        orders(update(REQUEST).values(payment_id="PAYother")),
        "across",
        "same_refund_payment",
    ),
    "a refund that the order forgot": (orders(delete(REQUEST)), "across", "refund_at_order"),
    "an approved refund that nobody works on": (
        orders(
            update(REQUEST)
            .where(Q.request_id.startswith("RRQ"))
            .values(state="APPROVED", refund_id="")
        ),
        "order_rpc",
        "refund_nobodys_work",
    ),
    "what the order heard": (
        orders(update(HEARD).values(payment_state="CLOSED")),
        "across",
        "same_payment_state",
    ),
}
AT_PAYMENTS: dict[str, tuple[Tamper, str, str]] = {
    "a slot": (
        payments(update(PAYMENT).where(P.state == "SUCCESS").values(live_slot=None)),
        "payment_rpc",
        "success_holds_slot",
    ),
    "an order that was never asked": (
        payments(update(PAYMENT).where(P.state == "SUCCESS").values(disposition=None)),
        "payment_rpc",
        "order_not_told",
    ),
    "paying again": (
        payments(update(PAYMENT).where(P.state == "SUCCESS").values(state="PAYING")),
        "payment_rpc",
        "payment_abandoned",
    ),
    "paying for ever": (
        payments(
            update(PAYMENT)
            .where(P.state == "SUCCESS")
            .values(state="PAYING", expires_at=P.created_at)
        ),
        "payment_rpc",
        "payment_late",
    ),
    "a conflict": (
        payments(
            update(PAYMENT).where(P.state == "SUCCESS").values(state="CONFLICTED", live_slot=None)
        ),
        "payment_rpc",
        "conflict_unseen",
    ),
    "refused money": (
        payments(
            update(PAYMENT)
            .where(P.state == "SUCCESS")
            .values(state="LATE_SUCCESS", live_slot=None, disposition="REFUSED_CANCELLED")
        ),
        "payment_rpc",
        "refused_money_kept",
    ),
    "late money": (
        payments(
            update(PAYMENT).where(P.state == "SUCCESS").values(state="LATE_SUCCESS", live_slot=None)
        ),
        "across",
        "order_paid_by_success",
    ),
    "another number": (
        payments(update(PAYMENT).where(CARD).values(channel_trade_no="other")),
        "payment_rpc",
        "parked_unseen",
    ),
    "a hold that says nothing of the part that was captured": (
        payments(
            update(ATTEMPT)
            .where(A.state == "CAPTURED")
            .values(
                state="AUTHORIZED",
                captured_minor=None,
                captured_currency=None,
                next_query_at=A.created_at,
            )
        ),
        "payment_rpc",
        "parts_of_hold",
    ),
    "a surplus": (
        payments(update(ATTEMPT).where(A.state == "CAPTURED").values(surplus_minor=1)),
        "payment_rpc",
        "surplus_unseen",
    ),
    "a surplus that nothing booked": (
        payments(update(ATTEMPT).where(A.state == "CAPTURED").values(surplus_minor=1)),
        "payment_rpc",
        "ledger_unapplied_receipts",
    ),
    "payments are gone": (payments(delete(PAYMENT)), "across", "order_paid_by_success"),
    "another order": (
        payments(update(PAYMENT).where(P.state == "SUCCESS", CARD).values(order_id=P.payment_id)),
        "across",
        "payment_has_order",
    ),
    "another buyer": (payments(update(PAYMENT).values(user_id="thief")), "across", "same_buyer"),
    "another buyer, within": (
        payments(update(PAYMENT).values(user_id="thief")),
        "payment_rpc",
        "refund_of_payment",
    ),
    "FAILED becomes CLOSED": (
        payments(update(PAYMENT).where(P.state == "FAILED").values(state="CLOSED")),
        "payment_rpc",
        "payment_sealed",
    ),
    "the fee of a payment": (
        payments(update(PAYMENT).where(P.fee_minor > 0).values(fee_minor=0)),
        "payment_rpc",
        "ledger_payment_fee",
    ),
    "a fee is gone, head set back": (fee_removed, "payment_rpc", "ledger_payment_fee"),
    "a fee is gone, says the channel": (fee_removed, "channel", "capture_fee"),
    "a fee was invented": (fee_invented("invented"), "payment_rpc", "ledger_fee_booked"),
    "a booked fee, elsewhere": (
        payments(
            update(POSTING)
            .where(POSTING.c.account == "channel_fee_expense:sandbox")
            .values(account="channel_fee_expense:other")
        ),
        "payment_rpc",
        "ledger_channel_fee_expense",
    ),
    "a receivable": (
        payments(
            update(POSTING)
            .where(POSTING.c.account == "channel_receivable:sandbox", POSTING.c.side == "D")
            .values(amount_minor=POSTING.c.amount_minor + 1)
        ),
        "payment_rpc",
        "ledger_channel_receivable",
    ),
    "a transaction without postings": (
        payments(delete(POSTING)),
        "payment_rpc",
        "ledger_transaction_balanced",
    ),
    "a kind": (
        payments(update(TRANSACTION).values(kind="GIFT")),
        "payment_rpc",
        "ledger_hash_chain",
    ),
    "captured": (
        payments(
            update(PAYMENT)
            .where(P.state == "SUCCESS")
            .values(amount_minor=P.amount_minor + 1, captured_minor=P.captured_minor + 1)
        ),
        "payment_rpc",
        "ledger_payment_captured",
    ),
    "refunded": (
        payments(update(PAYMENT).where(P.refunded_minor > 0).values(refunded_minor=1)),
        "payment_rpc",
        "ledger_payment_refunded",
    ),
    "refund reserved": (
        payments(update(PAYMENT).where(P.state == "SUCCESS").values(refund_reserved_minor=1)),
        "payment_rpc",
        "ledger_payment_refund_reserved",
    ),
    "an attempt of another number": (
        payments(
            update(ATTEMPT).where(A.state == "CAPTURED").values(channel_trade_no=A.attempt_id)
        ),
        "channel",
        "capture_same",
    ),
    "an attempt of another amount": (
        payments(update(ATTEMPT).where(A.state == "CAPTURED").values(captured_minor=1)),
        "channel",
        "capture_same",
    ),
    "an attempt that wanted something else": (
        payments(update(ATTEMPT).values(amount_minor=1)),
        "payment_rpc",
        "attempt_of_payment",
    ),
    "two captures of one number": (
        payments(update(ATTEMPT).where(A.state == "CAPTURED").values(channel_trade_no="T")),
        "payment_rpc",
        "trade_number_once",
    ),
    "an attempt is gone": (
        payments(delete(ATTEMPT).where(A.channel == "sandbox")),
        "channel",
        "capture_known",
    ),
    "an attempt is gone, within": (payments(delete(ATTEMPT)), "payment_rpc", "payment_has_attempt"),
    "a capture that was none": (
        payments(
            update(ATTEMPT)
            .where(A.state == "DECLINED")
            .values(state="CAPTURED", captured_minor=1, captured_currency="CNY")
        ),
        "channel",
        "capture_real",
    ),
    "a capture that nobody booked": (
        payments(
            update(ATTEMPT)
            .where(A.state == "DECLINED")
            .values(state="CAPTURED", captured_minor=1, captured_currency="CNY")
        ),
        "payment_rpc",
        "attempt_booked",
    ),
    "orphan capture of a wallet": (
        payments(update(ATTEMPT).where(WAL).values(payment_id="PAYnone")),
        "payment_rpc",
        "attempt_has_payment",
    ),
    "orphan decline": (
        payments(update(ATTEMPT).where(A.state == "DECLINED").values(payment_id="PAYnone")),
        "payment_rpc",
        "attempt_has_payment",
    ),
    "a payment that failed without an end": (
        payments(
            update(ATTEMPT)
            .where(A.state == "DECLINED")
            .values(state="PENDING", next_query_at=A.updated_at)
        ),
        "payment_rpc",
        "payment_ended",
    ),
    "an attempt that nobody asks about": (
        payments(
            update(ATTEMPT)
            .where(A.state == "DECLINED")
            .values(state="PENDING", next_query_at=A.created_at)
        ),
        "payment_rpc",
        "attempt_late",
    ),
    "orphan refund of a wallet": (
        payments(update(REFUND).where(R.channel == "wallet").values(payment_id="PAYnone")),
        "payment_rpc",
        "refund_has_payment",
    ),
    "a refund of no attempt": (
        payments(update(REFUND).values(attempt_id="ATTnone")),
        "payment_rpc",
        "refund_has_attempt",
    ),
    "refunds larger than the capture": (
        payments(update(REFUND).values(amount_minor=10001)),
        "payment_rpc",
        "refunds_within_capture",
    ),
    "the channel gave more back": (
        payments(update(REFUND).values(amount_minor=R.amount_minor - 1)),
        "channel",
        "refund_amount",
    ),
    "the channel has a refund of its own": (payments(delete(REFUND)), "channel", "refund_known"),
    "the channel never had it": (
        payments(update(REFUND).where(R.channel == "sandbox").values(refund_id=R.attempt_id)),
        "channel",
        "refund_same",
    ),
    "FAILED here, SUCCESS there": (
        payments(update(REFUND).where(R.channel == "sandbox").values(state="FAILED")),
        "channel",
        "refund_same",
    ),
    "SUCCESS here, and the order heard of it": (
        payments(delete(REFUND)),
        "across",
        "refund_at_payment",
    ),
    "what came back of a fee": (
        payments(
            update(POSTING)
            .where(POSTING.c.business_key.like("refund:%:fee"))
            .values(amount_minor=POSTING.c.amount_minor + 1)
        ),
        "channel",
        "refund_fee",
    ),
    "a refund that waits for a person": (
        payments(update(REFUND).values(needs_attention=True)),
        "payment_rpc",
        "refund_unseen",
    ),
    "a refund that nobody asks about": (
        payments(update(REFUND).values(state="PENDING", next_query_at=R.created_at)),
        "payment_rpc",
        "refund_late",
    ),
    "a receipt without an answer": (
        payments(update(RECEIPT).where(RECEIPT.c.method == "Charge").values(state="RUNNING")),
        "payment_rpc",
        "receipt_answered",
    ),
    "a refund receipt without an answer": (
        payments(update(RECEIPT).where(RECEIPT.c.method == "CreateRefund").values(state="RUNNING")),
        "payment_rpc",
        "refund_receipt_answered",
    ),
    "the receipt of a charge is gone": (
        payments(delete(RECEIPT).where(RECEIPT.c.method == "Charge")),
        "payment_rpc",
        "receipt_kept",
    ),
    "a receipt of another payment": (receipt_of_another, "payment_rpc", "receipt_kept"),
    "a receipt of nothing": (
        payments(update(RECEIPT).values(resource_id="PAYnone")),
        "payment_rpc",
        "receipt_of_something",
    ),
    "a refused message": (
        payments(update(OUTBOX).values(state="DEAD")),
        "payment_rpc",
        "outbox_dead",
    ),
    "a message that is late": (
        payments(update(OUTBOX).values(state="NEW")),
        "payment_rpc",
        "outbox_late",
    ),
    "a delivered message is gone": (
        payments(delete(OUTBOX).where(OUTBOX.c.destination == "order_rpc")),
        "payment_rpc",
        "message_kept",
    ),
    "the event of a refund is gone": (
        payments(delete(OUTBOX).where(OUTBOX.c.tag == "REFUND_SUCCEEDED")),
        "payment_rpc",
        "message_kept",
    ),
    "a gate is open again": (
        payments(update(GATE).where(GATE.c.state == "CLOSED").values(state="OPEN")),
        "across",
        "gate_closed",
    ),
    "a gate is gone": (
        payments(delete(GATE).where(GATE.c.state == "CLOSED")),
        "across",
        "gate_closed",
    ),
    "a callback is gone": (payments(delete(CALLBACK)), "payment_rpc", "log_chained"),
    "what a callback said": (
        payments(update(CALLBACK).values(payload="{}")),
        "payment_rpc",
        "log_chained",
    ),
    "a callback that nobody finished": (
        payments(update(CALLBACK).values(result="RECEIVED", finished_at=None)),
        "payment_rpc",
        "callback_late",
    ),
    "a callback that never counted": (
        payments(update(CALLBACK).values(result="FAILED")),
        "payment_rpc",
        "callback_unused",
    ),
    "the diary of the scan is empty": (payments(delete(SCAN)), "payment_rpc", "log_chained"),
    "an entry of a wallet": (
        payments(update(WALLET_ENTRY).values(kind="REFUNDED", amount_minor=5)),
        "payment_rpc",
        "ledger_wallet_balance",
    ),
    "entries of wallets are gone": (
        payments(delete(WALLET_ENTRY)),
        "payment_rpc",
        "ledger_wallet_entries",
    ),
    "whose entry it is": (
        payments(
            update(WALLET_ENTRY).where(WALLET_ENTRY.c.kind == "SPENT").values(payment_id="PAYnone")
        ),
        "payment_rpc",
        "log_chained",
    ),
    "a wallet + 1": (
        payments(update(WALLET).values(balance_minor=WALLET.c.balance_minor + 1)),
        "payment_rpc",
        "ledger_wallet_balance",
    ),
    "wallets are gone": (payments(delete(WALLET)), "payment_rpc", "ledger_entry_belongs"),
    "transactions are gone": (
        payments(delete(TRANSACTION)),
        "payment_rpc",
        "ledger_posting_belongs",
    ),
    "payments of transactions are gone": (
        payments(delete(PAYMENT)),
        "payment_rpc",
        "ledger_transaction_belongs",
    ),
    "a booking is gone": (payments(delete(TRANSACTION)), "payment_rpc", "ledger_capture_booked"),
}


TABLES = {"orders": AT_ORDERS, "payments": AT_PAYMENTS}
ROWS = {f"{table}: {name}": row for table, rows in TABLES.items() for name, row in rows.items()}
