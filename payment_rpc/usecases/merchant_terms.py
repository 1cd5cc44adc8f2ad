"""Where the terms of merchants come from."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from mesh.errors import RemoteError
from payment_rpc.domain.merchant_terms import MerchantTerms


class TermsOfMerchants(Protocol):
    """Knows the terms of merchants."""

    async def of(self, merchant_id: str) -> MerchantTerms:
        """The terms of a merchant now, for a new payment.

        Raises:
            RemoteError: merchant_rpc is away, and nothing is known of this merchant.
        """
        ...


class EnvironmentTerms:
    """The terms that the settings of this process say; all merchants are open."""

    def __init__(
        self,
        return_urls: Mapping[str, tuple[str, ...]],
        *,
        buyers_may_hold: Collection[str] = (),
    ) -> None:
        """`buyers_may_hold`: merchants whose buyers may ask for capture MANUAL."""
        self._return_urls = return_urls
        self._buyers_may_hold = frozenset(buyers_may_hold)

    async def of(self, merchant_id: str) -> MerchantTerms:
        """The terms of a merchant."""
        return self.known(merchant_id)

    def known(self, merchant_id: str) -> MerchantTerms:
        """The terms of a merchant."""
        return MerchantTerms(
            return_urls=self._return_urls.get(merchant_id, ()),
            buyers_may_hold=merchant_id in self._buyers_may_hold,
        )


async def name_for_buyers(terms: TermsOfMerchants, merchant_id: str) -> str:
    """The name of a merchant on a page of a channel, "" while merchant_rpc is away: a page without
    it is better than no page.
    """
    try:
        return (await terms.of(merchant_id)).name
    except RemoteError:
        return ""
