"""Where it is known whether merchants may sell."""

from __future__ import annotations

from typing import Protocol

from mesh.merchant_status import MerchantStatus


class MerchantStatuses(Protocol):
    """Knows whether merchants may sell."""

    async def of(self, merchant_id: str) -> MerchantStatus:
        """Whether a merchant may sell now.

        Raises:
            RemoteError: merchant_rpc is away, and nothing is known of this merchant.
        """
        ...


class AllOpen:
    """Without a directory of merchants all of them sell."""

    async def of(self, merchant_id: str) -> MerchantStatus:
        """Whether a merchant may sell."""
        del merchant_id
        return MerchantStatus.OPEN
