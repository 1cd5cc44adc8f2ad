"""Where the terms of merchants come from."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Protocol

from order_rpc.domain.merchant_terms import MerchantTerms
from order_rpc.domain.policy import DEFAULT_POLICY, MerchantPolicy


class TermsOfMerchants(Protocol):
    """Knows the terms of merchants."""

    async def of(self, merchant_id: str) -> MerchantTerms:
        """The terms of a merchant now, for a new order.

        Raises:
            RemoteError: merchant_rpc is away, and nothing is known of this merchant.
        """
        ...

    def known(self, merchant_id: str) -> MerchantTerms:
        """What is known without asking, inside a transaction; the defaults when that is nothing."""
        ...


class EnvironmentTerms:
    """The terms that the settings of this process say; all merchants are open."""

    def __init__(
        self, *, payment_window: timedelta, policies: Mapping[str, MerchantPolicy]
    ) -> None:
        self._payment_window = payment_window
        self._policies = policies

    async def of(self, merchant_id: str) -> MerchantTerms:
        """The terms of a merchant."""
        return self.known(merchant_id)

    def known(self, merchant_id: str) -> MerchantTerms:
        """The terms of a merchant."""
        return MerchantTerms(
            payment_window=self._payment_window,
            policy=self._policies.get(merchant_id, DEFAULT_POLICY),
        )
