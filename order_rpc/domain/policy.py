"""What a merchant decides for all of its orders: what shipping costs, what it takes off, and what
becomes of late money.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from mesh.money import Money


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceRule:
    """An amount that depends on what the lines of an order cost. Both amounts are of one
    currency.
    """

    amount: Money
    # shipping: free from here on; discount: only from here on; None: always
    threshold: Money | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MerchantPolicy:
    """The rules of one merchant. The defaults: free shipping, no discount, late money is refunded,
    what is shipped was captured before.
    """

    revives_if_stock: bool = False  # late money revives a cancelled order while there is stock
    ships_on_authorized: bool = False  # held money is captured by ShipOrder
    # by currency
    shipping: Mapping[str, PriceRule] = field(default_factory=lambda: MappingProxyType({}))
    # by currency
    discount: Mapping[str, PriceRule] = field(default_factory=lambda: MappingProxyType({}))

    def shipping_for(self, items: Money) -> Money:
        """What shipping costs for lines of that price."""
        rule = self.shipping.get(items.currency)
        if rule is None or (rule.threshold is not None and items >= rule.threshold):
            return Money.zero(items.currency)
        return rule.amount

    def discount_for(self, items: Money) -> Money:
        """What is taken off lines of that price; never more than they cost."""
        rule = self.discount.get(items.currency)
        if rule is None or (rule.threshold is not None and items < rule.threshold):
            return Money.zero(items.currency)
        return min(rule.amount, items)


DEFAULT_POLICY = MerchantPolicy()
