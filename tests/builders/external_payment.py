"""CreatePayment of merchants for tests."""

from __future__ import annotations

from typing import Any

from mesh.money import Money, RequestedAmount
from payment_rpc.domain.order import NewExternalOrder
from payment_rpc.usecases.payment_requests import CreatePayment

PRICE = Money(10_000, "USD")


def command(
    order_no: str = "A-1",
    *,
    amount: Money = PRICE,
    merchant_id: str = "mall",
    key: str = "",
    channel: str = "",
    **said: Any,
) -> CreatePayment:
    """What the servicer makes of a merchant's request."""
    return CreatePayment(
        merchant_id=merchant_id,
        order_id=order_no,
        user_id="",
        amount=RequestedAmount(amount.format(), amount.currency),
        channel=channel,
        return_url="",
        key=key,
        new_order=NewExternalOrder(
            merchant_id=merchant_id,
            order_no=order_no,
            amount=amount,
            operator="merchant:clerk",
            **{"customer_email": "li@example.com", **said},
        ),
    )
