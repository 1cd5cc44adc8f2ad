"""Proof that payment_rpc is right, for `paymesh audit` and `paymesh explain`, which find these functions by name. Reads only."""

from payment_rpc.proof.audit import payments_of_orders, payments_page, violations
from payment_rpc.proof.channel import channel_violations

__all__ = ["channel_violations", "payments_of_orders", "payments_page", "violations"]
