"""What tests of several files do with an order_rpc: read its lists, recount its figures."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from mesh.call import Caller
from order_rpc.domain.order import OrderState
from order_rpc.usecases.orders import ListOrders
from tests.builders.order import (
    OrderApp,
)


def query(
    merchant_id: str = "mall",
    *,
    user_id: str = "",
    state: OrderState | None = None,
    page_size: int = 0,
    page_token: str = "",
    created_from: datetime | None = None,
    created_before: datetime | None = None,
) -> ListOrders:
    return ListOrders(
        merchant_id=merchant_id,
        user_id=user_id,
        state=state,
        page_size=page_size,
        page_token=page_token,
        created_from=created_from,
        created_before=created_before,
    )


async def pages(app: OrderApp, wanted: ListOrders, caller: Caller) -> list[list[str]]:
    """Order ids, page by page."""
    found = []
    while True:
        shown, token = await app.orders.list(wanted, caller)
        found.append([order.order_id for order in shown])
        if not token:
            return found
        wanted = replace(wanted, page_token=token)


async def rebuild(app: OrderApp) -> int:
    return await app.statistics.rebuild(progress=lambda done, total: None)
