"""All that the simulated PayPal knows. In memory."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import TypeVar

from mesh.clock import Clock
from mesh.ids import Ids
from sandbox.providers.paypal.objects import (
    COUNTED,
    LET_GO,
    Authorization,
    Capture,
    Dispute,
    Order,
    OrderStatus,
    Refund,
    RefundStatus,
)
from sandbox.providers.paypal.refusals import not_found

K = TypeVar("K", Order, Authorization, Capture, Refund, Dispute)

ORDER_LIFE = timedelta(hours=6)
_ID_LENGTH = 17


class Books:
    """Objects by id, in the order in which they were made.

    Attributes:
        busy: ids of objects that a call works on.
    """

    def __init__(self, clock: Clock, ids: Ids) -> None:
        self._clock = clock
        self._ids = ids
        self.orders: dict[str, Order] = {}
        self.authorizations: dict[str, Authorization] = {}
        self.captures: dict[str, Capture] = {}
        self.refunds: dict[str, Refund] = {}
        self.disputes: dict[str, Dispute] = {}
        self.busy: set[str] = set()

    def now(self) -> datetime:
        """The present moment."""
        return self._clock.now()

    def new_id(self) -> str:
        """An id of PayPal's form: 17 capitals and digits."""
        return self._ids.new("")[-_ID_LENGTH:]

    def order(self, order_id: str) -> Order:
        """An order.

        Raises:
            Refused: 404; there is none, or its life ended before anything was done with it.
        """
        found = self.orders.get(order_id)
        if found is None or self.is_gone(found):
            raise not_found()
        return found

    def is_gone(self, order: Order) -> bool:
        """True when an order's life ended before anything was done with it."""
        return (
            order.status not in {OrderStatus.COMPLETED, OrderStatus.VOIDED}
            and self.now() >= order.expires_at
        )

    def authorization(self, authorization_id: str) -> Authorization:
        """An authorization. Raises Refused, 404."""
        return _found(self.authorizations, authorization_id)

    def capture(self, capture_id: str) -> Capture:
        """A capture. Raises Refused, 404."""
        return _found(self.captures, capture_id)

    def refund(self, refund_id: str) -> Refund:
        """A refund. Raises Refused, 404."""
        return _found(self.refunds, refund_id)

    def authorizations_of(self, order_id: str) -> Iterator[Authorization]:
        """The authorizations of an order."""
        return (found for found in self.authorizations.values() if found.order_id == order_id)

    def captures_of(self, order_id: str) -> Iterator[Capture]:
        """The captures of an order."""
        return (found for found in self.captures.values() if found.order_id == order_id)

    def refunds_of(self, capture_id: str) -> Iterator[Refund]:
        """The refunds of a capture."""
        return (found for found in self.refunds.values() if found.capture_id == capture_id)

    def captured_minor(self, authorization_id: str) -> int:
        """What of an authorization is captured, or about to be."""
        return sum(
            found.amount.minor
            for found in self.captures.values()
            if found.authorization_id == authorization_id and found.status in COUNTED
        )

    def refunded_minor(self, capture_id: str) -> int:
        """What of a capture is refunded, or about to be."""
        return sum(
            found.amount.minor
            for found in self.refunds_of(capture_id)
            if found.status in {RefundStatus.PENDING, RefundStatus.COMPLETED}
        )

    def knows_invoice(self, invoice_id: str, *, except_order: str) -> bool:
        """True when a payment of another order has the invoice id."""
        paid = (found for found in self.captures.values() if found.status in COUNTED)
        held = (found for found in self.authorizations.values() if found.status not in LET_GO)
        known = {(found.invoice_id, found.order_id) for found in paid}
        known |= {(found.invoice_id, found.order_id) for found in held}
        return bool(invoice_id) and any(
            known_id == invoice_id and order_id != except_order for known_id, order_id in known
        )


def _found(kept: dict[str, K], key: str) -> K:
    try:
        return kept[key]
    except KeyError:
        raise not_found() from None
