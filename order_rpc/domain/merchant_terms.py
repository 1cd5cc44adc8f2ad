"""What order_rpc must know of a merchant before it makes an order for it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from mesh.merchant_status import MerchantStatus
from order_rpc.domain.errors import MerchantNotLive, MerchantSuspended
from order_rpc.domain.policy import DEFAULT_POLICY, MerchantPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class MerchantTerms:
    """What a merchant has decided, and whether it may sell."""

    payment_window: timedelta  # how long a buyer may take to pay
    policy: MerchantPolicy = DEFAULT_POLICY
    status: MerchantStatus = MerchantStatus.OPEN

    def require_open(self) -> None:
        """Whether the merchant takes new orders.

        Raises:
            MerchantSuspended, MerchantNotLive: it does not.
        """
        match self.status:
            case MerchantStatus.SUSPENDED:
                raise MerchantSuspended
            case MerchantStatus.NOT_LIVE:
                raise MerchantNotLive
