"""What payment_rpc tells an order about its payments: any message may come late, twice or out of order, and an order changes at most once by each
payment (PROTOCOLS 3)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh import inbox, outbox
from mesh.call import Caller, current_trace_id
from mesh.clock import Clock
from mesh.db import Database
from mesh.errors import InvalidArgument
from mesh.failpoints import failpoint
from mesh.ids import Ids
from order_rpc.domain.order import Order, OrderState, Verb
from order_rpc.domain.payment import Decision, Disposition, KnownPayment, PaymentSnapshot, decide
from order_rpc.store import orders, payments, stock
from order_rpc.store.orders import AuditRow
from order_rpc.usecases.events import order_paid

CONSUMER = "payment_rpc"         # whose event ids these are
SHORTFALL = "PAYMENT_SHORTFALL"  # audit event: money came that does not pay the order

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateOrderStatus:
    """One message of payment_rpc."""

    merchant_id: str
    order_id: str
    event_id: str
    payment: PaymentSnapshot
    wanted: OrderState | None = None  # what payment_rpc asks for; the snapshot decides


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the order did with the payment, and where it stands now."""

    disposition: Disposition
    state: OrderState


class Payments:
    """UpdateOrderStatus."""

    def __init__(self, *, db: Database, clock: Clock, ids: Ids) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids

    async def update_status(self, command: UpdateOrderStatus, caller: Caller) -> Answer:
        """Takes one message. The first snapshot of a payment with money decides what the order does with it; every other one is noted.

        Raises:
            OrderNotFound: there is no such order. InvalidArgument: it asks for a state that no payment brings.
        """
        if command.wanted not in {None, OrderState.PAID}:
            raise InvalidArgument.of("status", "a payment can only ask for PAID")
        answer, shortfall = await self._db.run(self._update_status, command, caller)
        failpoint("order.update_status.after_commit")
        if shortfall:
            log.error("payment_shortfall", alert=True, merchant_id=command.merchant_id, order_id=command.order_id,
                      payment_id=command.payment.payment_id, problem=shortfall)
        return answer

    async def _update_status(self, tx: AsyncConnection, command: UpdateOrderStatus, caller: Caller) -> tuple[Answer, str]:
        now = self._clock.now()
        is_new = await inbox.first_time(tx, consumer=CONSUMER, event_id=command.event_id, now=now)
        order = await orders.load_order(tx, merchant_id=command.merchant_id, order_id=command.order_id, visible_to=caller, for_update=True)
        known = await payments.find_payment(tx, order, payment_id=command.payment.payment_id)
        if not is_new or (known is not None and known.version >= command.payment.version):
            return _answer(order, known), ""
        heard = KnownPayment.first_heard(command.payment, at=now) if known is None else known.heard(command.payment, at=now)
        decision = Decision(order=order, disposition=heard.disposition)
        if heard.disposition is None and command.payment.has_money:
            decision = decide(order, command.payment, at=now)
            heard = replace(heard, disposition=decision.disposition)
        if known is None:
            await payments.insert_payment(tx, order, heard)
        else:
            await payments.save_payment(tx, order, heard, read_version=known.version)
        await self._carry_out(tx, command, before=order, decision=decision, at=now)
        failpoint("order.update_status.before_commit")
        return _answer(decision.order, heard), decision.shortfall

    async def _carry_out(self, tx: AsyncConnection, command: UpdateOrderStatus, *, before: Order, decision: Decision, at: datetime) -> None:
        after, trace_id = decision.order, current_trace_id()
        step = AuditRow(from_state=before.state, to_state=after.state, event=Verb.PAY, event_id=command.event_id, operator=CONSUMER,
                        trace_id=trace_id, remark=command.payment.payment_id)
        if decision.shortfall:
            remark = f"{command.payment.payment_id}: {decision.shortfall}"
            await orders.append_audit(tx, after, replace(step, event=SHORTFALL, remark=remark, needs_attention=True), at=at)
        elif after.version != before.version:
            await orders.save_order(tx, after, read_version=before.version)
            await orders.append_audit(tx, after, step, at=at)
            await outbox.put(tx, order_paid(after, event_id=self._ids.new("EVT"), trace_id=trace_id))
            await stock.commit(tx, after, at=at)  # last, because it holds up everybody who buys the same product


def _answer(order: Order, payment: KnownPayment | None) -> Answer:
    return Answer(disposition=Disposition.NOTED if payment is None else payment.answer, state=order.state)
