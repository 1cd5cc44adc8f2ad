"""Configuration of order_rpc, read once in `__main__` from ORDER_RPC_* and PAYMESH_*."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mesh.errors import InvalidArgument
from mesh.money import Money
from mesh.settings import MeshSettings
from order_rpc.domain.policy import MerchantPolicy, PriceRule


class PriceSettings(BaseModel):
    """An amount in major units, and from which price of the lines on: shipping is free there, a
    discount begins there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    amount: str
    threshold: str = ""  # "" means always

    def rule(self, currency: str, *, name: str) -> PriceRule:
        """The rule in a currency. Raises InvalidArgument for what is no amount of it."""
        return PriceRule(
            amount=Money.parse(self.amount, currency, field=f"{name}.amount", allow_zero=True),
            threshold=Money.parse(
                self.threshold, currency, field=f"{name}.threshold", allow_zero=True
            )
            if self.threshold
            else None,
        )


class PolicySettings(BaseModel):
    """What a merchant decides.

    Attributes:
        late_money: what becomes of money that arrives for a cancelled order.
        ship_on_authorized: ShipOrder captures held money first; otherwise the shop does.
        shipping: by currency, e.g. {"CNY": {"amount": "8.00", "threshold": "99.00"}}.
        discount: by currency, likewise.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    late_money: Literal["always_refund", "revive_if_stock"] = "always_refund"
    ship_on_authorized: bool = False
    shipping: dict[str, PriceSettings] = {}
    discount: dict[str, PriceSettings] = {}

    def policy(self) -> MerchantPolicy:
        """The policy of the domain. Raises InvalidArgument for what is no amount."""
        return MerchantPolicy(
            revives_if_stock=self.late_money == "revive_if_stock",
            ships_on_authorized=self.ship_on_authorized,
            shipping={
                currency: price.rule(currency, name="shipping")
                for currency, price in self.shipping.items()
            },
            discount={
                currency: price.rule(currency, name="discount")
                for currency, price in self.discount.items()
            },
        )


class OrderSettings(MeshSettings):
    """What order_rpc needs to know beyond what every process does.

    Attributes:
        database_pool_size: connections for writing, and as many for reading.
        payment_window_minutes: how long a buyer may take to pay; the deadline of the order, its
            payments and the channel.
        scan_interval_seconds: pause between rounds of deliveries and expiries that found nothing to
            do.
        expiry_batch_size: orders that one round of the expiry worker begins to cancel.
        hot_sku_group_size: orders of one product that may share a transaction; 1 gives each its
            own.
        merchant_policies: by merchant, e.g. {"mall": {"late_money": "revive_if_stock"}}; the others
            have the defaults.
        merchant_directory: ask merchant_rpc about merchants; what it does not say or know comes
            from the settings above. Otherwise they hold for all merchants.
    """

    service: str = "order_rpc"
    port: int = Field(9906, ge=0, le=65535)
    database_pool_size: int = Field(16, ge=1, le=200)
    payment_window_minutes: float = Field(30, gt=0, le=7 * 24 * 60)
    scan_interval_seconds: float = Field(0.5, gt=0, le=600)
    expiry_batch_size: int = Field(100, ge=1, le=1000)
    hot_sku_group_size: int = Field(50, ge=1, le=500)
    merchant_policies: Mapping[str, PolicySettings] = Field(default_factory=dict)

    merchant_directory: bool = False

    @model_validator(mode="after")
    def _policies_make_sense(self) -> Self:
        try:
            self.policies()
        except InvalidArgument as error:
            raise ValueError(f"merchant_policies: {error.message}") from error
        return self

    def policies(self) -> dict[str, MerchantPolicy]:
        """The policies of the domain, by merchant."""
        return {
            merchant_id: settings.policy()
            for merchant_id, settings in self.merchant_policies.items()
        }
