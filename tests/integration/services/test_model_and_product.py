"""The product does what the protocol model does. Rows as they were before a transaction of the
model are written to a database, the use cases of the product do that transaction on them, and what
they leave is what the model left.

docs/protocol_model.md says what is compared and what is not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.errors import MeshError, Outcome
from mesh.money import Money, RequestedAmount
from order_rpc.domain.hold import HeldMoney
from order_rpc.domain.order import Order, OrderState
from order_rpc.domain.payment import CloseAnswer, KnownPayment, PaymentSnapshot
from order_rpc.domain.payment import CloseResult as AnsweredResult
from order_rpc.store import payments as order_payments
from order_rpc.tables import ORDERS
from order_rpc.usecases.outbox_to_payment import PaymentDestination, StillClosing, close_message
from payment_rpc.domain.attempt import Attempt
from payment_rpc.domain.facts import ChannelFact, ChannelStatus
from payment_rpc.domain.hold import CaptureMode
from payment_rpc.domain.order import OrderToPay
from payment_rpc.domain.payment import CREDIT_CARD, Disposition, Payment, PaymentState
from payment_rpc.domain.refund import OPEN, Refund, RefundState
from payment_rpc.domain.refund_facts import RefundChannelStatus, RefundFact
from payment_rpc.store import attempts, payments, refunds
from payment_rpc.tables import MANUAL_REVIEW, ORDER_GATE
from payment_rpc.usecases.cancel import close_answer
from payment_rpc.usecases.messages import order_message
from payment_rpc.usecases.payment_start import NewPayment
from payment_rpc.usecases.refund_start import CreateRefund
from tests.builders.order import PAYMENT_RPC, merchant
from tests.builders.payment import PaymentWorld, a_payment, an_attempt, payment_world
from tests.protocol_model import refunds as model_refunds
from tests.protocol_model import steps
from tests.protocol_model.steps import Done
from tests.protocol_model.world import REFUSALS, AtChannel, Fact, World

S = PaymentState
STATUS = {
    Fact.CAPTURED: ChannelStatus.CAPTURED,
    Fact.WRONG: ChannelStatus.CAPTURED,
    Fact.DECLINED: ChannelStatus.DECLINED,
    Fact.TECH_FAILED: ChannelStatus.FAILED,
    Fact.NOT_ATTEMPTED: ChannelStatus.NOT_SENT,
    Fact.PENDING: ChannelStatus.PENDING,
    Fact.HELD: ChannelStatus.AUTHORIZED,
    Fact.CLOSED: ChannelStatus.CLOSED,
    Fact.LOST: ChannelStatus.CLOSED,
    Fact.UNKNOWN: ChannelStatus.UNKNOWN,
}
# The product has no second attempt: what ended without money ends its payment, which the model
# leaves to a step of its own.
FAILS_OVER = (Fact.TECH_FAILED, Fact.NOT_ATTEMPTED)


@dataclass
class Rows:
    """What is compared. A payment is (state, slot, disposition, captured, refunded, reserved), an
    attempt (state, captured), a refund (state, amount, stands alone, above the cap, automatic);
    `answer` is what the caller heard."""

    payments: list[tuple[Any, ...]]
    attempts: list[tuple[Any, ...]]
    refunds: dict[str, tuple[Any, ...]]
    answer: Any = None
    attention: bool = False
    open_gate: bool = field(default=True)


class RolledBack(Exception):
    """Nothing stays."""


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[PaymentWorld]:
    """On SQLite alone: the rules are in Python, and a thousand transactions go there in seconds."""
    payments, orders = (
        f"sqlite+aiosqlite:///{tmp_path / name}.db" for name in ("payments", "orders")
    )
    async with payment_world(payments, orders, tmp_path) as world:
        yield world


# --- rows of the model as rows of the product -----------------------------------------------------


def cents(units: int) -> Money:
    return Money(units, "CNY")


def is_automatic(world: World, name: str) -> bool:
    """A refund that fails calls a person: what nobody asked for, and all of money that the order
    refused.
    """
    return (
        name.startswith("auto")
        or world.payments[world.refunds[name].payment].disposition in REFUSALS
    )


def main_attempt(world: World, p: int) -> int:
    """The attempt whose capture is the payment's money, -1 for none."""
    alone = {
        row.attempt
        for row in world.refunds.values()
        if row.stands_alone and row.state is not RefundState.FAILED
    }
    mine = [
        a
        for a in world.attempts_of(p)
        if (world.attempts[a].captured or world.attempts[a].units)
        and a not in alone
        and world.attempts[a].at_channel is not AtChannel.WRONG
    ]
    return mine[0] if world.payments[p].captured and mine else -1


def payment_row(world: World, p: int, *, at: Any) -> Payment:
    row, main = world.payments[p], main_attempt(world, p)
    assert row.state is not None
    return replace(
        a_payment(),
        payment_id=f"PAY{p}",
        amount=cents(world.scenario.amount),
        captured=cents(row.captured),
        refunded=cents(row.refunded),
        refund_reserved=cents(row.reserved),
        disputed=cents(0),
        fee=cents(0),
        state=row.state,
        holds_slot=row.slot,
        capture_mode=CaptureMode.MANUAL if world.scenario.holds else CaptureMode.AUTOMATIC,
        disposition=row.disposition,
        channel_trade_no=f"T{main}" if main >= 0 else "",
        outcome=Outcome.CAPTURED if row.captured else Outcome.UNKNOWN,
        expires_at=at + timedelta(minutes=30),
        created_at=at,
        updated_at=at,
    )


def attempt_row(world: World, a: int, *, at: Any) -> Attempt:
    row = world.attempts[a]
    assert row.state is not None
    wrong = row.at_channel is AtChannel.WRONG
    captured = (
        {
            "captured": cents(row.units or world.scenario.amount + wrong),
            "channel_trade_no": f"T{a}",
        }
        if row.captured or row.units
        else {}
    )
    capturing = (
        {
            "capture_id": "CAP1",
            "capture_amount": cents(1 if row.keeps_rest else world.scenario.amount - row.units),
            "capture_keeps_rest": row.keeps_rest,
            "capture_sends": row.captures_sent,
        }
        if row.capturing and world.scenario.parts
        else {}
    )
    if row.capturing:
        captured |= {"capture_id": f"CAP{a}", "capture_amount": cents(world.scenario.amount)}
    return an_attempt(
        row.state,
        attempt_id=f"ATT{a}",
        payment_id=f"PAY{row.payment}",
        sends=1 + row.sent_again,
        amount=cents(world.scenario.amount),
        **captured,
        **capturing,
    )


def refund_row(world: World, name: str, *, at: Any) -> Refund:
    row = world.refunds[name]
    payment = payment_row(world, row.payment, at=at)
    attempt = row.attempt if row.stands_alone else main_attempt(world, row.payment)
    subject = (
        f"ATT{row.attempt}"
        if row.stands_alone
        else payment.payment_id
        if name.startswith("auto")
        else ""
    )
    started = Refund.start(
        payment,
        refund_id=name,
        attempt_id=f"ATT{attempt}",
        channel="sandbox",
        amount=cents(row.amount),
        reason="",
        automatic_of=subject,
        automatic=is_automatic(world, name),
        stands_alone=row.stands_alone,
        at=at,
    )
    due = at if row.state in OPEN else None
    return replace(started, state=row.state, above_cap=row.above_cap, next_query_at=due)


def of_model(world: World) -> Rows:
    return Rows(
        payments=[
            (row.state, row.slot, row.disposition, row.captured, row.refunded, row.reserved)
            for row in world.payments
            if row.state is not None
        ],
        attempts=[
            (row.state, row.captured or row.units > 0)
            for row in world.attempts
            if row.state is not None
        ],
        refunds={
            name: (
                row.state,
                0 if row.stands_alone else row.amount,
                row.stands_alone,
                row.above_cap,
                is_automatic(world, name),
            )
            for name, row in world.refunds.items()
        },
    )


# --- the same transaction in the product ----------------------------------------------------------


class Product:
    """The use cases of payment_rpc and order_rpc, on rows of the model."""

    def __init__(self, shop: PaymentWorld, order: Order) -> None:
        self.shop = shop
        self.order = order
        self.now = shop.clock.now()
        relay = shop.order_side.real.payment_relay
        self.at_order: PaymentDestination = relay._destination  # type: ignore[assignment]
        self.dispositions: Any = shop.app.order_relay._destination

    async def do(self, done: Done) -> Rows:
        """What is left after a transaction, which is rolled back."""
        rows: list[Rows] = []

        async def run(tx: AsyncConnection) -> None:
            await self._write(tx, done.before)
            answer = await getattr(self, f"_{done.kind.replace(' ', '_')}")(tx, done, *done.args)
            rows.append(await self._read(tx, done.before, answer))
            raise RolledBack

        with pytest.raises(RolledBack):
            await self.shop.db.run(run)
        return rows[-1]

    async def _write(self, tx: AsyncConnection, world: World) -> None:
        gate = "CLOSED" if world.shop.gate_closed else "OPEN"
        await tx.execute(
            insert(ORDER_GATE).values(
                merchant_id="mall", order_id="ORD1", state=gate, updated_at=self.now
            )
        )
        for p, payment in enumerate(world.payments):
            if payment.state is not None:
                await payments.insert_payment(tx, payment_row(world, p, at=self.now))
        for a, attempt in enumerate(world.attempts):
            if attempt.state is not None:
                await attempts.insert_attempt(tx, attempt_row(world, a, at=self.now))
        for name in world.refunds:
            await refunds.insert_refund(tx, refund_row(world, name, at=self.now))

    async def _read(self, tx: AsyncConnection, world: World, answer: Any) -> Rows:
        found = await payments.all_of_order(tx, merchant_id="mall", order_id="ORD1")
        ids = [payment.payment_id for payment in found]
        names = {f"PAY{p}": f"auto:p{p}" for p in range(len(world.payments))}
        names |= {f"ATT{a}": f"auto:a{a}" for a in range(len(world.attempts))}
        gate = await tx.execute(ORDER_GATE.select())
        return Rows(
            payments=[
                (
                    row.state,
                    row.holds_slot,
                    row.disposition,
                    row.captured.minor,
                    row.refunded.minor,
                    row.refund_reserved.minor,
                )
                for row in sorted(found, key=lambda row: row.payment_id)
            ],
            attempts=[
                (row.state, row.captured is not None)
                for row in await attempts.attempts_of_payments(tx, ids)
            ],
            refunds={
                names.get(row.automatic_of, row.refund_id): (
                    row.state,
                    0 if row.stands_alone else row.amount.minor,
                    row.stands_alone,
                    row.above_cap,
                    row.automatic,
                )
                for row in await refunds.refunds_of_payments(tx, ids)
            },
            answer=answer,
            attention=(await tx.execute(MANUAL_REVIEW.select())).first() is not None,
            open_gate=gate.one().state == "OPEN",
        )

    async def _fact(
        self, tx: AsyncConnection, done: Done, a: int, fact: Fact, units: int = 0
    ) -> None:
        amount = units if units and fact is Fact.CAPTURED else done.before.scenario.amount
        money: dict[str, Any] = (
            {"amount": cents(amount + (fact is Fact.WRONG)), "trade_no": f"T{a}"}
            if fact is not Fact.LOST
            else {}
        )
        if units and fact is Fact.HELD:
            money["taken"] = cents(units)
        await self.shop.app.channel_results.write(
            tx,
            ChannelFact(attempt_id=f"ATT{a}", status=STATUS[fact], **money),
            first_send=fact is Fact.NOT_ATTEMPTED,
        )

    async def _refund_fact(
        self, tx: AsyncConnection, done: Done, name: str, fact: RefundState
    ) -> None:
        await self.shop.app.refund_results.write(
            tx, RefundFact(refund_id=name, status=RefundChannelStatus(fact))
        )

    async def _disposition(
        self, tx: AsyncConnection, done: Done, p: int, version: int, said: Any
    ) -> None:
        if said != "NOTED":
            message = order_message(
                payment_row(done.before, p, at=self.now), ids=self.shop.ids, at=self.now
            )
            await self.dispositions._settle(tx, message, Disposition(said))

    async def _close_payments(self, tx: AsyncConnection, done: Done) -> str:
        cancellation = self.shop.app.cancellation
        for payment in await cancellation._close_gate(tx, "mall", "ORD1"):
            await cancellation._begin(tx, payment.payment_id, lets_go=done.before.order.lets_go)
        return close_answer(
            await payments.all_of_order(tx, merchant_id="mall", order_id="ORD1"),
            lets_go=done.before.order.lets_go,
            at=self.now,
        ).result.value

    async def _ask_refund(self, tx: AsyncConnection, done: Done, p: int, name: str) -> bool:
        try:
            await self.shop.app.refund_start._reserve(
                tx,
                CreateRefund(
                    payment_id=f"PAY{p}",
                    amount=RequestedAmount("0.01"),
                    reason="",
                    request_id=name,
                    key="",
                ),
                merchant(),
                None,
            )
        except MeshError:
            return False
        return True

    async def _start(self, tx: AsyncConnection, done: Done, p: int) -> bool:
        order = OrderToPay(
            order_id="ORD1",
            merchant_id="mall",
            user_id="u1",
            amount=cents(done.before.scenario.amount),
            state="PENDING_PAYMENT",
            expires_at=self.now + timedelta(minutes=30),
        )
        try:
            started = await self.shop.app.payments._start._start(
                tx,
                NewPayment(
                    order=order,
                    payment_method=CREDIT_CARD,
                    channel="sandbox",
                    card=a_payment().card,
                    idempotency_key=None,
                    fingerprint={},
                ),
            )
        except MeshError:
            return False
        return started.payment is not None

    def _told(self, done: Done, result: str, paid: Sequence[Any]) -> PaymentSnapshot | None:
        """The payment that an answer to ClosePayment names."""
        if not paid:
            return None
        p, version, state, *units = paid
        captured, refunded, reserved = (
            Money(count * self.order.amount.minor // done.before.scenario.amount, "CNY")
            for count in units
        )
        return PaymentSnapshot(
            payment_id=f"PAY{p}",
            version=version,
            state=state.value,
            captured=captured,
            refunded=refunded,
            refund_reserved=reserved,
            held=HeldMoney(amount=self.order.amount, until=self.now + timedelta(days=1))
            if result == "HELD"
            else None,
        )

    async def closes(self, done: Done, result: str, *paid: Any) -> OrderState:
        """The order's state after an answer to ClosePayment."""
        snapshot = self._told(done, result, paid)
        states: list[OrderState] = []

        class Answers:
            async def close_payment(self, **_: Any) -> CloseAnswer:
                return CloseAnswer(
                    result=AnsweredResult(result), payment=snapshot, retry_after_seconds=1
                )

        service: Any = Answers()
        answered = PaymentDestination(
            payments=service,
            applier=self.at_order._applier,
            journal=self.at_order._journal,
            clock=self.shop.clock,
            ids=self.shop.ids,
        )
        message = close_message(
            self.order,
            ids=self.shop.ids,
            at=self.now,
            due_at=self.now,
            by_buyer=False,
            lets_go=False,
        )

        async def run(tx: AsyncConnection) -> None:
            await tx.execute(
                update(ORDERS)
                .where(ORDERS.c.order_id == self.order.order_id)
                .values(state=done.before.order.state)
            )
            if snapshot is not None and (heard := done.before.order.seen[paid[0]]):
                known = KnownPayment.first_seen(snapshot, at=self.now)
                known = replace(known, version=heard)
                await order_payments.insert_payment(tx, self.order, known)
            try:
                settle = await answered.send(message)
                assert settle is not None
                await settle(tx)
            except StillClosing:
                pass
            row = (
                await tx.execute(ORDERS.select().where(ORDERS.c.order_id == self.order.order_id))
            ).one()
            states.append(OrderState(row.state))
            raise RolledBack

        with pytest.raises(RolledBack):
            await self.shop.order_side.db.run(run)
        return states[-1]


# --- and what it leaves ---------------------------------------------------------------------------


def differences(done: Done, left: Rows) -> list[str]:
    """Where model and product differ; the exceptions say why they may."""
    expected = of_model(done.after)
    before, out = of_model(done.before), []
    if done.kind == steps.START:
        return (
            []
            if left.answer == (len(expected.payments) > len(before.payments))
            else [f"started: {left.answer}"]
        )
    if done.kind == steps.FACT and done.args[1] in FAILS_OVER:
        left.payments = expected.payments
    if done.kind == steps.DISPOSITION and done.before.payments[done.args[0]].state not in (
        S.SUCCESS,
        S.LATE_SUCCESS,
    ):
        # late money that went back whole waits for no answer: the product does not keep what comes
        expected = before
    if done.kind == steps.ASK_REFUND:
        if left.answer != (done.args[1] in expected.refunds):
            return [f"refunded: {left.answer}"]
        left.refunds = {
            name if name in expected.refunds else done.args[1]: row
            for name, row in left.refunds.items()
        }
        if left.answer:  # the product submits it in the same transaction
            new = left.refunds[done.args[1]]
            left.refunds[done.args[1]] = (RefundState.CREATED, *new[1:])
    if done.kind == steps.CLOSE:
        answered = next(call[1] for call in done.after.calls if call[0] == "close answer")
        out += (
            []
            if left.answer == answered and not left.open_gate
            else [f"answered {left.answer}, not {answered}"]
        )
    if done.kind == steps.REFUND_FACT and left.attention != any(
        payment.attention for payment in done.after.payments
    ):
        out.append(f"a person was called: {left.attention}")
    for name in ("payments", "attempts", "refunds"):
        is_, should = getattr(left, name), getattr(expected, name)
        out += [] if is_ == should else [f"{name}: {is_}\n    model: {should}"]
    return out


def is_comparable(done: Done) -> bool:
    """The product asks before it takes "not found" for lost, and hears nothing of a refund that it
    has not sent.
    """
    if done.kind == steps.FACT:
        return done.args[1] is not Fact.NOT_FOUND
    if done.kind == steps.REFUND_FACT:
        return done.before.refunds[done.args[0]].state is not RefundState.CREATED
    return True


def calmed(done: Done) -> Done:
    """Nobody looks at anything yet, so that a call for a person shows."""
    before = done.before.of(done.before.key)
    was = [payment.attention for payment in before.payments]
    after = done.after.of(done.after.key)
    for payment in before.payments:
        payment.attention = False
    if done.kind == steps.REFUND_FACT and any(was):
        act = model_refunds.apply_refund_fact
        after = before.of(before.key)
        act(after, *done.args)
    return replace(done, before=before, after=after)


async def test_the_product_leaves_what_the_model_leaves(
    shop: PaymentWorld, rounds: Callable[[int, int], int]
) -> None:
    order = await shop.order()
    await shop.order_side.force_state(order, OrderState.CANCELLING)
    product = Product(
        shop,
        await shop.order_side.orders.get(
            merchant_id="mall", order_id=order.order_id, caller=PAYMENT_RPC
        ),
    )
    sample = steps.sample(range(rounds(300, 3000)), per_kind=rounds(120, 2000))
    done = [calmed(each) for each in [*sample, *steps.every_start()] if is_comparable(each)]
    assert set(Counter(each.kind for each in done)) == set(steps.KINDS)
    wrong = []
    for each in done:
        if each.kind == steps.CLOSE_ANSWER:
            if each.before.order.state is OrderState.CANCELLING:
                left = await product.closes(each, *each.args)
                if left is not each.after.order.state:
                    wrong.append(f"{each.kind} {each.args}: {left}, model {each.after.order.state}")
            continue
        found = differences(each, await product.do(each))
        if found:
            wrong.append(
                f"{each.kind} {each.args}\n    before {of_model(each.before)}\n    "
                + "\n    ".join(found)
            )
    assert not wrong, f"{len(wrong)} of {len(done)}\n" + "\n".join(wrong[:8])
