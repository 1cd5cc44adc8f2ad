"""What payment_rpc must know of a merchant before it takes money for it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mesh.errors import InvalidArgument
from mesh.merchant_status import MerchantStatus
from payment_rpc.domain.channel_account import AccountMode, provider_of
from payment_rpc.domain.errors import (
    ChannelNotSupported,
    MerchantNotLive,
    MerchantSuspended,
    ReturnUrlNotAllowed,
)
from payment_rpc.domain.payment import WALLET

TEST_CHANNEL = "sandbox"
_RETURN_URL = re.compile(r"https?://[!-~]{1,500}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MerchantTerms:
    """What a merchant has decided, and whether it may sell."""

    name: str = ""  # as buyers see it; "" where nobody said
    return_urls: tuple[str, ...] = ()  # prefixes of where a cashier may send a buyer back
    # accounts, providers and channels that may take money; empty: all of them
    channels: frozenset[str] = frozenset()
    is_test: bool = False
    buyers_may_hold: bool = False  # a buyer may leave the capture of his money to the shop
    status: MerchantStatus = MerchantStatus.OPEN

    def require_open(self, *, channel: str, mode: AccountMode | None = None) -> None:
        """Whether a channel may take new money for the merchant. A wallet is no channel: what it
        holds was taken before. `mode`: of the account, None where the channel is none.

        Raises:
            MerchantSuspended, MerchantNotLive: nothing may. ChannelNotSupported: another one may.
        """
        match self.status:
            case MerchantStatus.SUSPENDED:
                raise MerchantSuspended
            case MerchantStatus.NOT_LIVE:
                raise MerchantNotLive
        if channel == WALLET:
            return
        moves_test_money = channel == TEST_CHANNEL or mode is AccountMode.TEST
        named = {channel, provider_of(channel)}
        if (self.is_test and not moves_test_money) or (self.channels and not named & self.channels):
            raise ChannelNotSupported(
                f"channel: the shop does not take money by {channel}",
                fields={"channel": "the shop does not use it"},
            )

    def require_buyers_hold(self) -> None:
        """Whether a buyer may ask that his money is only held. His order then waits for the shop
        and keeps its stock for days, so the shop decides that.

        Raises:
            InvalidArgument: he may not.
        """
        if not self.buyers_may_hold:
            raise InvalidArgument.of("capture", "the shop takes the money of buyers at once")

    def require_return_url(self, url: str) -> None:
        """Whether a cashier may send a buyer there; "" is nowhere.

        Raises:
            ReturnUrlNotAllowed: it may not.
        """
        if url and not (_RETURN_URL.fullmatch(url) and url.startswith(self.return_urls)):
            raise ReturnUrlNotAllowed(
                "return_url: not on the allow-list",
                fields={"return_url": "not on the merchant's allow-list"},
            )
