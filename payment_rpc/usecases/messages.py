"""The messages of a change of a payment or a refund: to order_rpc by RPC, because it must arrive,
and to the subscribers of PAYMENT_TOPIC by event.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from mesh.call import current_trace_id
from mesh.db import Database
from mesh.events import destination
from mesh.ids import Ids
from mesh.outbox import Message
from mesh.relay import Destination, Settlement
from mesh.times import rfc3339
from payment_rpc.cache import PaymentCache
from payment_rpc.domain.hold import CaptureMode
from payment_rpc.domain.payment import MONEY, TOP_UP, Payment, PaymentState
from payment_rpc.domain.refund import Refund, RefundState
from payment_rpc.store import payments

ORDER_DESTINATION = "order_rpc"
PAYMENT_TOPIC = "PAYMENT_TOPIC"
EVENT_VERSION = "1.0"
_HELD = PaymentState.AUTHORIZED
_WITHOUT_MONEY = frozenset({PaymentState.FAILED, PaymentState.CLOSED, PaymentState.CONFLICTED})
# How long the relay leaves a message to the request that delivers it itself.
RELAY_DELAY = timedelta(seconds=5)


class EventDestination:
    """Puts the payment of an event into the cache, then publishes the event. The process that
    changed the payment has updated the cache too, unless it died right after its commit. Without
    this the cache would show the former payment for a day.
    """

    def __init__(self, *, stream: Destination, db: Database, cache: PaymentCache) -> None:
        self._stream = stream
        self._db = db
        self._cache = cache

    @property
    def name(self) -> str:
        """Value of `destination` in the outbox."""
        return self._stream.name

    async def send(self, message: Message) -> Settlement | None:
        """Publishes one event.

        Raises:
            Unavailable: the database does not answer, or the stream did not confirm it.
        """
        await self._cache.put_changed(
            await self._db.read(payments.read_payment, message.aggregate_id)
        )
        return await self._stream.send(message)


def messages_of(
    payment: Payment, *, before: Payment, ids: Ids, at: datetime, relay_delay: timedelta
) -> list[Message]:
    """The messages of a change: first the one for order_rpc, when there is one."""
    if payment.state is before.state:
        is_moved = payment.state is _HELD and payment.expires_at != before.expires_at
        return [order_message(payment, ids=ids, at=at)] if is_moved else []
    if payment.payment_method == TOP_UP:
        return _top_up_events(payment, ids=ids, at=at)
    return [
        *_to_order(payment, before, ids=ids, at=at, relay_delay=relay_delay),
        *_to_subscribers(payment, before, ids=ids, at=at),
    ]


def _to_order(
    payment: Payment, before: Payment, *, ids: Ids, at: datetime, relay_delay: timedelta
) -> list[Message]:
    """Money that came, money that is held, and the end of a payment that may have been held: the
    order keeps what it reserved as long as the hold lasts.
    """
    is_end = payment.capture_mode is CaptureMode.MANUAL and payment.state in _WITHOUT_MONEY
    if (payment.state in MONEY and before.state not in MONEY) or payment.state is _HELD or is_end:
        return [order_message(payment, ids=ids, at=at, relay_delay=relay_delay)]
    return []


def _to_subscribers(payment: Payment, before: Payment, *, ids: Ids, at: datetime) -> list[Message]:
    if payment.state in MONEY and before.state not in MONEY:
        return [
            _event(
                payment,
                "PAYMENT_SUCCEEDED",
                ids=ids,
                at=at,
                facts={
                    # what moved: a shop may capture less than was held for it
                    "amount": payment.captured.format(),
                    "owed_amount": payment.amount.format(),
                    "channel_trade_no": payment.channel_trade_no,
                    "paid_at": rfc3339(payment.paid_at or at),
                },
            )
        ]
    if payment.state is _HELD:
        until = {"held_until": rfc3339(payment.expires_at)}
        return [_event(payment, "PAYMENT_AUTHORIZED", ids=ids, at=at, facts=until)]
    if payment.state in (PaymentState.FAILED, PaymentState.CLOSED):
        return [
            _event(
                payment,
                "PAYMENT_FAILED",
                ids=ids,
                at=at,
                facts={"reason": payment.failure.reason if payment.failure else "PAYMENT_CLOSED"},
            )
        ]
    return []


def order_message(
    payment: Payment,
    changed: Refund | None = None,
    *,
    ids: Ids,
    at: datetime,
    relay_delay: timedelta = timedelta(0),
) -> Message:
    """The snapshot of a payment for its order, with the refund that changed. Each change of a
    refund has a message of its own, so a message stays small however many refunds there are.
    """
    return Message(
        event_id=ids.new("EVT"),
        destination=ORDER_DESTINATION,
        tag="UpdateOrderStatus",
        aggregate_id=payment.payment_id,
        trace_id=current_trace_id(),
        due_at=at + relay_delay,
        created_at=at,
        payload={
            "merchant_id": payment.merchant_id,
            "order_id": payment.order_id,
            "payment_id": payment.payment_id,
            "version": payment.version,
            "state": payment.state.value,
            "captured": payment.captured.format(),
            "refunded": payment.refunded.format(),
            "refund_reserved": payment.refund_reserved.format(),
            "currency": payment.amount.currency,
            "wants_paid": payment.state in MONEY,
            "captured_in_part": payment.is_captured_in_part,
            "held_amount": payment.amount.format() if payment.state is _HELD else "",
            "held_until": rfc3339(payment.expires_at) if payment.state is _HELD else "",
            "refunds": [
                {
                    "refund_id": refund.refund_id,
                    "request_id": refund.request_id,
                    "state": refund.state.value,
                    "amount": refund.amount.format(),
                    "reason": refund.failure.reason if refund.failure else "",
                }
                for refund in ([] if changed is None else [changed])
            ],
        },
    )


def refund_events(refund: Refund, *, before: RefundState, ids: Ids, at: datetime) -> list[Message]:
    """The event of a refund that ended, or none."""
    tags = {
        RefundState.SUCCESS: "REFUND_SUCCEEDED",
        RefundState.FAILED: "REFUND_FAILED",
        RefundState.REVERSED: "REFUND_REVERSED",
    }
    if refund.state is before or refund.state not in tags:
        return []
    event_id, trace_id = ids.new("EVT"), current_trace_id()
    return [
        Message(
            event_id=event_id,
            destination=destination(PAYMENT_TOPIC),
            tag=tags[refund.state],
            aggregate_id=refund.payment_id,
            trace_id=trace_id,
            due_at=at,
            created_at=at,
            payload={
                "event_id": event_id,
                "refund_id": refund.refund_id,
                "payment_id": refund.payment_id,
                "order_id": refund.order_id,
                "merchant_id": refund.merchant_id,
                "user_id": refund.user_id,
                "amount": refund.amount.format(),
                "currency": refund.amount.currency,
                "channel": refund.channel,
                "channel_refund_no": refund.channel_refund_no,
                "reason": refund.failure.reason if refund.failure else "",
                "event_time": rfc3339(at),
                "trace_id": trace_id,
                "version": EVENT_VERSION,
            },
        )
    ]


def _top_up_events(payment: Payment, *, ids: Ids, at: datetime) -> list[Message]:
    """A top-up is no sale: it has tags of its own, and no order is informed."""
    if payment.state is PaymentState.SUCCESS:
        return [
            _event(
                payment,
                "WALLET_TOPPED_UP",
                ids=ids,
                at=at,
                facts={"channel_trade_no": payment.channel_trade_no},
            )
        ]
    if payment.state in (PaymentState.FAILED, PaymentState.CLOSED):
        reason = payment.failure.reason if payment.failure else "PAYMENT_CLOSED"
        return [_event(payment, "WALLET_TOP_UP_FAILED", ids=ids, at=at, facts={"reason": reason})]
    return []


def _event(payment: Payment, tag: str, *, ids: Ids, at: datetime, facts: dict[str, Any]) -> Message:
    event_id, trace_id = ids.new("EVT"), current_trace_id()
    return Message(
        event_id=event_id,
        destination=destination(PAYMENT_TOPIC),
        tag=tag,
        aggregate_id=payment.payment_id,
        trace_id=trace_id,
        due_at=at,
        created_at=at,
        payload={
            "event_id": event_id,
            "payment_id": payment.payment_id,
            "order_id": payment.order_id,
            "merchant_id": payment.merchant_id,
            "user_id": payment.user_id,
            "amount": payment.amount.format(),
            "currency": payment.amount.currency,
            "channel": payment.channel,
            **facts,
            "event_time": rfc3339(at),
            "trace_id": trace_id,
            "version": EVENT_VERSION,
        },
    )
