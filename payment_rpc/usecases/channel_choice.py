"""Which channel takes a new payment. An attempt that has begun stays with its channel for ever."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from mesh.errors import InvalidArgument
from mesh.money import Money
from mesh.times import rfc3339
from payment_rpc.channels import Channel
from payment_rpc.channels.capabilities import ON_THE_WAY, Instrument
from payment_rpc.channels.registry import Channels
from payment_rpc.domain.channel_account import AccountMode, is_account_id
from payment_rpc.domain.errors import ChannelNotSupported, OrderNotPayable
from payment_rpc.domain.merchant_terms import TEST_CHANNEL
from payment_rpc.domain.order import OrderToPay
from payment_rpc.store.channel_accounts import StoredAccount
from payment_rpc.usecases.account_channels import AccountChannels

# What a buyer may be handed at a cashier.
HANDED: Final = frozenset(
    {Instrument.REDIRECT, Instrument.QR, Instrument.CLIENT_SECRET, Instrument.CLIENT_PARAMS}
)
_OTHER_NAMES: Final = {"mock": TEST_CHANNEL}  # MOCK: the name of source 001


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenChannel:
    """A channel for a new payment, and the mode of its account; None: it is no account."""

    channel: Channel
    mode: AccountMode | None = None

    def require_amount(self, amount: Money) -> None:
        """Raises InvalidArgument when the channel does not take an amount."""
        if problem := self.channel.capabilities.problem_with(amount):
            raise InvalidArgument.of("amount", problem)

    def require_hold(self) -> None:
        """Raises InvalidArgument when the channel cannot hold money for a later capture."""
        if not self.channel.capabilities.authorize:
            raise InvalidArgument.of("capture", "the channel cannot hold money")

    def within_its_life(self, order: OrderToPay, *, at: datetime) -> OrderToPay:
        """The order with the deadline that its payment gets: that of the order, or earlier where
        the channel lets an attempt live no longer.

        Raises:
            OrderNotPayable: the channel takes nothing that ends so soon.
        """
        capabilities = self.channel.capabilities
        ends_at = capabilities.end_of_attempt(order.expires_at, at=at)
        if ends_at is None and capabilities.expires is not None:
            needed = round((capabilities.expires[0] + ON_THE_WAY).total_seconds())
            raise OrderNotPayable(
                f"channel: it takes payments that have {needed} seconds at least, and the order "
                f"ends at {rfc3339(order.expires_at)}",
                fields={"channel": f"needs {needed} seconds"},
            )
        return order if ends_at is None else replace(order, expires_at=ends_at)


class ChannelChoice:
    """Chooses channels."""

    def __init__(self, channels: Channels, accounts: AccountChannels | None) -> None:
        """`accounts`: None where there are none."""
        self._channels = channels
        self._accounts = accounts

    async def choose(
        self, *, merchant_id: str, named: str, pays_with: frozenset[Instrument]
    ) -> ChosenChannel:
        """The channel that a caller named: an account of the merchant, a provider for the default
        account there, or another channel; "": the default account of the merchant, else the
        sandbox.

        Raises:
            ChannelNotSupported: there is none, it is another merchant's, it takes no new payments,
                or none of `pays_with`. ChannelUnavailable: its credentials cannot be used.
        """
        chosen = await self._find(merchant_id, named)
        if not chosen.channel.capabilities.instruments & pays_with:
            raise _refusal(f"{chosen.channel.name} does not take what the buyer would pay with")
        return chosen

    async def _find(self, merchant_id: str, named: str) -> ChosenChannel:
        named = _OTHER_NAMES.get(named.lower(), named)
        if self._accounts is None or named == TEST_CHANNEL:
            return ChosenChannel(channel=await self._channels.get(named or TEST_CHANNEL))
        if is_account_id(named):
            stored = await self._accounts.find(named)
        else:
            stored = await self._accounts.find_default(merchant_id=merchant_id, provider=named)
        if stored is None:
            if is_account_id(named):
                raise _refusal("unknown")
            return ChosenChannel(channel=await self._channels.get(named or TEST_CHANNEL))
        _check(stored, merchant_id)
        return ChosenChannel(channel=self._accounts.open(stored), mode=stored.account.mode)


def _check(stored: StoredAccount, merchant_id: str) -> None:
    account = stored.account
    if account.merchant_id != merchant_id:
        raise _refusal("unknown")
    if account.mode is not AccountMode.of_merchant(merchant_id):
        raise _refusal("is of the other mode")
    if not account.takes_new_payments:
        raise _refusal(f"is {account.state} and takes no new payments")


def _refusal(problem: str) -> ChannelNotSupported:
    return ChannelNotSupported(f"channel: {problem}", fields={"channel": problem})
