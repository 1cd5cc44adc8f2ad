"""The channels of merchants' accounts: opened when they are needed, and anew when an account has
changed.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Final

from mesh.clock import Clock, Seconds
from mesh.db import Database
from mesh.errors import InvalidArgument, Unavailable
from mesh.last_good import LastGood
from mesh.logs import get_logger
from mesh.policies import DEFAULT_MERCHANT
from mesh.rate_limit import RateLimiter
from payment_rpc.account_keys import AccountKeys, CannotDecrypt
from payment_rpc.channels import Channel
from payment_rpc.channels.providers import Provider
from payment_rpc.domain.channel_account import AccountMode, ChannelAccount, is_account_id
from payment_rpc.domain.errors import ChannelUnavailable
from payment_rpc.store import channel_accounts
from payment_rpc.store.channel_accounts import StoredAccount
from payment_rpc.usecases.account_credentials import AccountRules, open_channel

# An account that somebody changed is used as it was for so long by other processes.
FRESH_SECONDS: Final = 5.0
ACCOUNTS_REMEMBERED_MAX: Final = 10_000
# Ids in addresses that nobody has: what is remembered of them, and how many are looked up.
UNKNOWN_REMEMBERED_MAX: Final = 1000
UNKNOWN_PER_SECOND: Final = 20.0
UNKNOWN_BURST: Final = 200
OPEN_MAX: Final = 1000  # channels, each with connections of its own
# Longer than any call of a channel: nobody uses the channel of an old version any more.
RETIRED_SECONDS: Final = 300.0

log = get_logger()


class _NoSuchAccountError(Exception):
    """There is no account with an id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opened:
    version: int
    channel: Channel


class AccountChannels:
    """Opens channels by account."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        keys: AccountKeys,
        providers: Mapping[str, Provider],
        rules: AccountRules,
        now: Callable[[], Seconds] = monotonic,
    ) -> None:
        """`now`: monotonic seconds."""
        self._db = db
        self._clock = clock
        self._keys = keys
        self._providers = providers
        self._rules = rules
        self._now = now
        self._accounts: LastGood[StoredAccount] = LastGood(
            self._read, fresh_seconds=FRESH_SECONDS, entries_max=ACCOUNTS_REMEMBERED_MAX, now=now
        )
        self._defaults: LastGood[StoredAccount | None] = LastGood(
            self._read_default,
            fresh_seconds=FRESH_SECONDS,
            entries_max=ACCOUNTS_REMEMBERED_MAX,
            now=now,
        )
        # ids that nobody has, until when: apart, so that strangers push no account out
        self._missing: OrderedDict[str, Seconds] = OrderedDict()
        self._strangers = RateLimiter(
            per_second=UNKNOWN_PER_SECOND, burst=UNKNOWN_BURST, now=now, keys_max=1
        )
        self._opened: OrderedDict[str, _Opened] = OrderedDict()
        self._retired: deque[tuple[Seconds, Channel]] = deque()
        self._told: dict[str, int] = {}  # versions that cannot be opened, once in the log

    async def load(self, account_id: str) -> Channel | None:
        """The channel of an account, whatever its state; None when there is no such account.

        Raises:
            ChannelUnavailable: it cannot be opened; says why.
        """
        await self._close_retired()
        stored = await self.find(account_id)
        return None if stored is None else self.open(stored)

    async def load_addressed(self, name: str) -> Channel | None:
        """The channel of the account to which a message is addressed. The addresses of source 004
        name the provider alone: then it is the default account there of the installation's own
        merchant. None when there is none.

        Raises:
            ChannelUnavailable: it cannot be opened; says why. Unavailable: too many messages to
                accounts that are not known here.
        """
        if not name:
            return None
        if is_account_id(name):
            # each costs a question to the database, and anybody can ask
            is_new = self._accounts.known(name) is None and not self._is_missing(name)
            if is_new and (seconds := self._strangers.take()):
                raise Unavailable(retry_after_seconds=seconds)
            return await self.load(name)
        stored = await self.find_default(merchant_id=DEFAULT_MERCHANT, provider=name)
        return None if stored is None else self.open(stored)

    async def find(self, account_id: str) -> StoredAccount | None:
        """An account as it was at most FRESH_SECONDS ago; None when there is none."""
        if not is_account_id(account_id) or self._is_missing(account_id):
            return None
        try:
            return await self._accounts.get(account_id)
        except _NoSuchAccountError:
            self._missing[account_id] = self._now() + FRESH_SECONDS
            self._missing.move_to_end(account_id)
            while len(self._missing) > UNKNOWN_REMEMBERED_MAX:
                self._missing.popitem(last=False)
            return None

    async def find_default(self, *, merchant_id: str, provider: str) -> StoredAccount | None:
        """The default account of a merchant for a provider, or for what names none (""), as it was
        at most FRESH_SECONDS ago.
        """
        if provider and provider not in self._providers:
            return None
        return await self._defaults.get(f"{merchant_id}/{provider}")

    def forget(self, account: ChannelAccount) -> None:
        """An account was changed here."""
        self._accounts.forget(account.account_id)
        self._missing.pop(account.account_id, None)
        for provider in ("", *self._providers):  # a default may have passed between providers
            self._defaults.forget(f"{account.merchant_id}/{provider}")

    def open(self, stored: StoredAccount) -> Channel:
        """The channel of an account as it was read.

        Raises:
            ChannelUnavailable: it cannot be opened; says why, never with a secret.
        """
        account = stored.account
        before = self._opened.get(account.account_id)
        if before is not None and before.version >= account.version:
            self._opened.move_to_end(account.account_id)
            return before.channel
        try:
            channel = self._open(stored)
        except ChannelUnavailable as problem:
            if self._told.get(account.account_id) != account.version:
                self._told[account.account_id] = account.version
                log.error(
                    "channel_account_unusable",
                    alert=True,
                    account_id=account.account_id,
                    problem=problem.message,
                )
            raise
        self._told.pop(account.account_id, None)
        if before is not None:
            self._retire(before.channel)
        self._opened[account.account_id] = _Opened(version=account.version, channel=channel)
        self._opened.move_to_end(account.account_id)
        while len(self._opened) > OPEN_MAX:
            self._retire(self._opened.popitem(last=False)[1].channel)
        return channel

    async def try_out(
        self,
        fields: Mapping[str, object],
        *,
        account_id: str,
        provider: Provider,
        mode: AccountMode,
    ) -> None:
        """Opens a channel with new credentials and closes it. It makes no call.

        Raises:
            InvalidArgument: they cannot be used; names the field, never its content.
        """
        channel = self._open_with(fields, account_id=account_id, provider=provider, mode=mode)
        await channel.aclose()

    async def aclose(self) -> None:
        """Closes all channels."""
        channels = [opened.channel for opened in self._opened.values()]
        channels += [channel for _, channel in self._retired]
        self._opened.clear()
        self._retired.clear()
        await asyncio.gather(*(channel.aclose() for channel in channels))

    def _open(self, stored: StoredAccount) -> Channel:
        account = stored.account
        provider = self._providers.get(account.provider)
        if provider is None:
            raise ChannelUnavailable(
                f"{account.account_id}: this version has no provider {account.provider!r}"
            )
        try:
            fields = self._keys.open(
                stored.sealed, account_id=account.account_id, provider=account.provider
            )
            return self._open_with(
                fields, account_id=account.account_id, provider=provider, mode=account.mode
            )
        except CannotDecrypt as problem:
            raise ChannelUnavailable(f"{account.account_id}: {problem}") from None
        except InvalidArgument as problem:
            raise ChannelUnavailable(f"{account.account_id}: {problem.message}") from None

    def _open_with(
        self,
        fields: Mapping[str, object],
        *,
        account_id: str,
        provider: Provider,
        mode: AccountMode,
    ) -> Channel:
        return open_channel(
            fields,
            account_id=account_id,
            provider=provider,
            mode=mode,
            rules=self._rules,
            now=self._clock.now,
        )

    def _retire(self, channel: Channel) -> None:
        self._retired.append((self._now() + RETIRED_SECONDS, channel))

    async def _close_retired(self) -> None:
        while self._retired and self._retired[0][0] <= self._now():
            _, channel = self._retired.popleft()
            await channel.aclose()

    def _is_missing(self, account_id: str) -> bool:
        until = self._missing.get(account_id)
        return until is not None and self._now() < until

    async def _read(self, account_id: str) -> StoredAccount:
        stored = await self._db.read(channel_accounts.find, account_id)
        if stored is None:
            raise _NoSuchAccountError
        return stored

    async def _read_default(self, key: str) -> StoredAccount | None:
        merchant_id, _, provider = key.rpartition("/")
        return await self._db.read(
            channel_accounts.find_default, merchant_id=merchant_id, provider=provider
        )
