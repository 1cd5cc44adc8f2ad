"""Adds, changes, shows and tries the accounts of merchants at payment providers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.call import Caller, Role, current_call, current_trace_id
from mesh.clock import Clock
from mesh.db import Database
from mesh.errors import InvalidArgument, Unavailable
from mesh.ids import Ids
from mesh.logs import get_logger
from mesh.paging import Key, PageTokens
from payment_rpc.account_keys import AccountKeys, CannotDecrypt, Sealed
from payment_rpc.channels.providers import Provider
from payment_rpc.domain.channel_account import (
    ACCOUNTS_MAX,
    AccountMode,
    AccountState,
    AccountStep,
    ChannelAccount,
    DefaultFor,
    account_id_of,
)
from payment_rpc.domain.errors import (
    ChannelAccountChanged,
    ChannelAccountNotFound,
    ChannelUnavailable,
)
from payment_rpc.store import channel_accounts
from payment_rpc.store.channel_accounts import AccountChange, StoredAccount
from payment_rpc.usecases.account_channels import AccountChannels
from payment_rpc.usecases.account_credentials import AccountRules, hint_of, read_text

REASON_CHARACTERS_MIN: Final = 5  # of a change to an account that moves real money
ANSWER_SECONDS: Final = 1.0  # of the caller's deadline, kept for the answer
CHECK_SECONDS_MAX: Final = 10.0

log = get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateAccount:
    """A new account. `credentials` is the text of a JSON object. `default_for` None: PROVIDER for
    the first account of a provider, else NONE.
    """

    merchant_id: str
    provider: str
    label: str
    credentials: str = field(repr=False)
    default_for: DefaultFor | None = None
    state: AccountState = AccountState.ENABLED
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateAccount:
    """A change. What is None or "" stays as it is."""

    account_id: str
    read_version: int
    label: str = ""
    credentials: str = field(default="", repr=False)
    default_for: DefaultFor | None = None
    state: AccountState | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _NewCredentials:
    hint: Mapping[str, str]
    sealed: Sealed


class ChannelAccounts:
    """CreateChannelAccount, UpdateChannelAccount, GetChannelAccount, ListChannelAccounts,
    TestChannelAccount.
    """

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        ids: Ids,
        page_tokens: PageTokens,
        keys: AccountKeys,
        providers: Mapping[str, Provider],
        rules: AccountRules,
        channels: AccountChannels,
    ) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids
        self._page_tokens = page_tokens
        self._keys = keys
        self._providers = providers
        self._rules = rules
        self._channels = channels

    def notify_url(self, account: ChannelAccount) -> str:
        """Where the provider has to send its notices; "": nowhere."""
        return self._rules.notify_url(account.account_id)

    async def create(self, command: CreateAccount, caller: Caller) -> ChannelAccount:
        """Adds an account.

        Raises:
            InvalidArgument: names the field. Unavailable: this installation keeps no credentials.
        """
        mode = AccountMode.of_merchant(command.merchant_id)
        _require_reason(command.reason, mode)
        provider = self._provider(command.provider)
        fields = read_text(command.credentials)
        account_id = account_id_of(provider.name, self._ids.new(""))
        await self._channels.try_out(fields, account_id=account_id, provider=provider, mode=mode)
        sealed = self._seal(fields, account_id=account_id, provider=provider.name)
        now = self._clock.now()
        account = ChannelAccount(
            account_id=account_id,
            provider=provider.name,
            merchant_id=command.merchant_id,
            mode=mode,
            label=command.label,
            state=command.state,
            default_for=DefaultFor.NONE,
            hint=hint_of(fields, provider),
            key_id=sealed.key_id,
            sealed_digest=sealed.digest,
            version=1,
            created_by=actor_of(caller),
            created_at=now,
            updated_at=now,
        )
        change = _change(AccountStep.CREATE, caller, command.reason)
        created = await self._db.run(
            self._create, StoredAccount(account=account, sealed=sealed), command.default_for, change
        )
        self._channels.forget(created)
        log.info("channel_account_created", account_id=account_id, actor=change.actor)
        return created

    async def update(self, command: UpdateAccount, caller: Caller) -> ChannelAccount:
        """Changes an account.

        Raises:
            ChannelAccountNotFound, ChannelAccountChanged: it has another version than was read.
            InvalidArgument: names the field. Unavailable: this installation keeps no credentials.
        """
        stored = await self._db.read(channel_accounts.get, command.account_id, visible_to=caller)
        before = stored.account
        _require_reason(command.reason, before.mode)
        new: _NewCredentials | None = None
        if command.credentials:
            provider = self._provider(before.provider)
            fields = read_text(command.credentials)
            await self._channels.try_out(
                fields, account_id=before.account_id, provider=provider, mode=before.mode
            )
            new = _NewCredentials(
                hint=hint_of(fields, provider),
                sealed=self._seal(fields, account_id=before.account_id, provider=provider.name),
            )
        change = _change(AccountStep.UPDATE, caller, command.reason)
        updated = await self._db.run(self._update, command, before.merchant_id, new, change)
        self._channels.forget(updated)
        log.info(
            "channel_account_updated",
            account_id=updated.account_id,
            state=updated.state.value,
            new_credentials=new is not None,
            actor=change.actor,
        )
        return updated

    async def get(self, account_id: str, caller: Caller) -> ChannelAccount:
        """An account.

        Raises:
            ChannelAccountNotFound: there is none, or it is another merchant's.
        """
        return (await self._db.read(channel_accounts.get, account_id, visible_to=caller)).account

    async def list_accounts(
        self, *, merchant_id: str, page_size: int, page_token: str
    ) -> tuple[tuple[ChannelAccount, ...], str]:
        """A page of a merchant's accounts by id, and the token of the next one.

        Raises:
            PageTokenInvalid.
        """

        async def read(after: tuple[Key, ...] | None, limit: int) -> list[ChannelAccount]:
            return await self._db.read(
                channel_accounts.list_accounts,
                merchant_id=merchant_id,
                after=str(after[0]) if after else "",
                limit=limit,
            )

        return await self._page_tokens.page(
            read,
            list_name="ListChannelAccounts",
            filter={"merchant_id": merchant_id},
            types=(str,),
            size=page_size,
            token=page_token,
            key=lambda account: (account.account_id,),
        )

    async def test(self, account_id: str, caller: Caller) -> str:
        """Makes one harmless call with the credentials; returns what is wrong, "" for nothing.

        Raises:
            ChannelAccountNotFound: there is none, or it is another merchant's.
        """
        stored = await self._db.read(channel_accounts.get, account_id, visible_to=caller)
        call = current_call()
        seconds = CHECK_SECONDS_MAX
        if call is not None:
            seconds = min(seconds, call.remaining_seconds() - ANSWER_SECONDS)
        return await check_account(self._channels, stored, timeout_seconds=seconds)

    def _provider(self, name: str) -> Provider:
        provider = self._providers.get(name)
        if provider is None:
            known = ", ".join(sorted(self._providers)) or "none"
            raise InvalidArgument.of("provider", f"unknown; there are: {known}")
        return provider

    def _seal(self, fields: Mapping[str, object], *, account_id: str, provider: str) -> Sealed:
        try:
            return self._keys.seal(fields, account_id=account_id, provider=provider)
        except CannotDecrypt:
            raise Unavailable(
                "this installation keeps no credentials: its operator has to set account_key_file"
            ) from None

    async def _create(
        self,
        tx: AsyncConnection,
        stored: StoredAccount,
        default_for: DefaultFor | None,
        change: AccountChange,
    ) -> ChannelAccount:
        account = stored.account
        others = await channel_accounts.lock_all(tx, merchant_id=account.merchant_id)
        if len(others) >= ACCOUNTS_MAX:
            raise InvalidArgument.of("merchant_id", f"has {ACCOUNTS_MAX} accounts, the most")
        if default_for is None:
            is_first = all(other.account.provider != account.provider for other in others)
            default_for = DefaultFor.PROVIDER if is_first else DefaultFor.NONE
        account = replace(account, default_for=default_for)
        await self._take_default(tx, account, others, change, at=account.created_at)
        await channel_accounts.add(tx, replace(stored, account=account), change)
        return account

    async def _update(
        self,
        tx: AsyncConnection,
        command: UpdateAccount,
        merchant_id: str,
        new: _NewCredentials | None,
        change: AccountChange,
    ) -> ChannelAccount:
        accounts = await channel_accounts.lock_all(tx, merchant_id=merchant_id)
        by_id = {stored.account.account_id: stored for stored in accounts}
        stored = by_id.pop(command.account_id, None)
        if stored is None:
            raise ChannelAccountNotFound
        before = stored.account
        if before.version != command.read_version:
            raise ChannelAccountChanged(
                f"version {before.version} is there now", version=before.version
            )
        now = self._clock.now()
        sealed = stored.sealed if new is None else new.sealed
        account = replace(
            before,
            label=command.label or before.label,
            state=command.state or before.state,
            default_for=command.default_for or before.default_for,
            hint=before.hint if new is None else new.hint,
            key_id=sealed.key_id,
            sealed_digest=sealed.digest,
            version=before.version + 1,
            updated_at=now,
        )
        await self._take_default(tx, account, list(by_id.values()), change, at=now)
        await channel_accounts.save(
            tx,
            StoredAccount(account=account, sealed=sealed),
            change,
            read_version=before.version,
        )
        return account

    async def _take_default(
        self,
        tx: AsyncConnection,
        account: ChannelAccount,
        others: list[StoredAccount],
        change: AccountChange,
        *,
        at: datetime,
    ) -> None:
        """Takes the default from whoever had it, before the new one is written."""
        for other in others:
            after = other.account.without_default(
                account.default_for, by_provider=account.provider, at=at
            )
            if after is not other.account:
                await channel_accounts.save(
                    tx,
                    replace(other, account=after),
                    replace(change, step=AccountStep.LOSE_DEFAULT),
                    read_version=other.account.version,
                )


async def check_account(
    channels: AccountChannels, stored: StoredAccount, *, timeout_seconds: float
) -> str:
    """Makes one harmless call with the credentials of an account; returns what is wrong, "" for
    nothing. It raises nothing.
    """
    try:
        channel = channels.open(stored)
    except ChannelUnavailable as problem:
        return problem.message
    try:
        async with asyncio.timeout(timeout_seconds):
            return await channel.check(timeout_seconds=timeout_seconds)
    except TimeoutError:
        return "the provider did not answer in time"
    except Exception as problem:
        log.exception("channel_check_failed", account_id=stored.account.account_id)
        return f"the check failed: {type(problem).__name__}"


def actor_of(caller: Caller) -> str:
    """Who acts, for the log of an account."""
    if caller.role is Role.SERVICE:
        return f"service:{caller.service}"
    return caller.subject or "anonymous"


def _change(step: AccountStep, caller: Caller, reason: str) -> AccountChange:
    return AccountChange(
        step=step, actor=actor_of(caller), reason=reason.strip(), trace_id=current_trace_id()
    )


def _require_reason(reason: str, mode: AccountMode) -> None:
    if mode is AccountMode.LIVE and len(reason.strip()) < REASON_CHARACTERS_MIN:
        raise InvalidArgument.of(
            "reason", f"a LIVE account needs one of at least {REASON_CHARACTERS_MIN} characters"
        )
