"""Configuration of order_rpc, read once in `__main__` from ORDER_RPC_* and PAYMESH_*."""

from __future__ import annotations

from pydantic import Field

from mesh.settings import MeshSettings


class OrderSettings(MeshSettings):
    """What order_rpc needs to know beyond what every process does.

    Attributes:
        database_pool_size: connections for writing, and as many for reading.
        payment_window_minutes: how long a buyer may take to pay; the deadline of the order, its payments and the channel.
        scan_interval_seconds: pause between rounds of deliveries that found nothing to do.
    """

    service: str = "order_rpc"
    port: int = Field(9906, ge=0, le=65535)
    database_pool_size: int = Field(16, ge=1, le=200)
    payment_window_minutes: float = Field(30, gt=0, le=7 * 24 * 60)
    scan_interval_seconds: float = Field(0.5, gt=0, le=600)
