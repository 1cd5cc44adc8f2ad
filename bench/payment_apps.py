"""payment_rpc without its network, for every part of the bench that measures it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from mesh.clock import SystemClock
from mesh.db import Database
from mesh.ids import UlidIds
from mesh.money import Money
from mesh.paging import PageTokens
from payment_rpc.app import PaymentApp, PaymentConfig
from payment_rpc.domain.order import NewExternalOrder, OrderToPay
from payment_rpc.domain.payment import Disposition


class _Orders:
    """order_rpc takes every payment at once and is not measured here."""

    async def get(self, *, merchant_id: str, order_id: str, seckill_ticket: str = "") -> OrderToPay:
        del seckill_ticket
        return OrderToPay(
            order_id=order_id,
            merchant_id=merchant_id,
            user_id="user-1",
            amount=Money(9999, "CNY"),
            state="PENDING_PAYMENT",
            expires_at=SystemClock().now() + timedelta(minutes=30),
        )

    async def register(self, new: NewExternalOrder) -> OrderToPay:
        raise NotImplementedError

    async def update_status(self, snapshot: dict[str, Any], *, event_id: str) -> Disposition | None:
        del snapshot, event_id
        return Disposition.APPLIED


def payment_app(
    db: Database, *, ids: UlidIds, channels: Mapping[str, Any], redis: Any = None
) -> PaymentApp:
    """payment_rpc on a database whose tables are there."""
    return PaymentApp(
        db=db,
        clock=SystemClock(),
        ids=ids,
        orders=_Orders(),
        channels=channels,
        redis=redis,
        return_urls={},
        page_tokens=PageTokens(b"page tokens of the bench, never shown"),
        config=PaymentConfig(
            channel_timeout_seconds=5,
            attempt_lease_seconds=20,
            scan_interval_seconds=1,
            scan_batch_size=100,
        ),
    )
