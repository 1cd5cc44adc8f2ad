"""The services that the operator's tool works on, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from merchant_rpc.audit import AUDIT as MERCHANT_AUDIT
from mesh.audit import ServiceAudit
from order_rpc.audit import AUDIT as ORDER_AUDIT
from payment_rpc.audit import AUDIT as PAYMENT_AUDIT
from seckill_rpc.audit import AUDIT as SECKILL_AUDIT

# Those with a database.
AUDITS: Final[Mapping[str, ServiceAudit]] = {
    "payment_rpc": PAYMENT_AUDIT,
    "order_rpc": ORDER_AUDIT,
    "seckill_rpc": SECKILL_AUDIT,
    "merchant_rpc": MERCHANT_AUDIT,
}
