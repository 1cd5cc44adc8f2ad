"""Proof that order_rpc is right, for `paymesh audit` and `paymesh explain`, which find these functions by name. Reads only."""

from order_rpc.proof.audit import orders_of, orders_page, violations

__all__ = ["orders_of", "orders_page", "violations"]
