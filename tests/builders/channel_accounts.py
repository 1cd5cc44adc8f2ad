"""Accounts at a provider of tests: its channel is the sandbox under the name of an account."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from secrets import token_bytes
from typing import Any

from mesh.call import Caller, Role
from mesh.errors import InvalidArgument
from payment_rpc.account_keys import AccountKeys, Sealed
from payment_rpc.app import PaymentApp
from payment_rpc.channels.capabilities import Capabilities, Instrument, Limits
from payment_rpc.channels.providers import Provider
from payment_rpc.channels.sandbox.channel import SandboxChannel
from payment_rpc.domain.channel_account import (
    AccountMode,
    AccountState,
    ChannelAccount,
    DefaultFor,
)
from payment_rpc.store.channel_accounts import StoredAccount
from payment_rpc.usecases.account_credentials import AccountRules
from payment_rpc.usecases.channel_accounts import CreateAccount, UpdateAccount
from tests.builders.payment import PaymentWorld
from tests.support.fakes import EPOCH
from tests.support.sandbox_server import API_KEY, CALLBACK_SECRET

SECRET = "sk_toy_a_secret_that_nobody_may_see_0042"
OTHER_SECRET = "sk_toy_another_secret_nobody_may_see_0043"
KEYS = {"2": b"b" * 32, "1": b"a" * 32}
REASON = "a new contract"


@dataclass(frozen=True, kw_only=True)
class ToyCredentials:
    """What the provider of tests gives a merchant."""

    secret_key: str = field(repr=False)
    account_name: str
    server_url: str = ""
    live: bool | None = None


def parse(fields: Mapping[str, object]) -> ToyCredentials:
    for name in fields:
        if name not in {"secret_key", "account_name", "server_url", "live"}:
            raise InvalidArgument.of(name, "unknown field")
    secret = fields.get("secret_key")
    if secret == "explode":
        raise RuntimeError(f"the secret is {fields!r}")
    if not isinstance(secret, str) or not secret.startswith("sk_toy_"):
        raise InvalidArgument.of("secret_key", "expected sk_toy_…")
    return ToyCredentials(
        secret_key=secret,
        account_name=str(fields.get("account_name", "")),
        server_url=str(fields.get("server_url", "")),
        live=fields.get("live"),  # type: ignore[arg-type]  # as a test wants it
    )


class ToyChannel(SandboxChannel):
    """The sandbox as the account of a merchant."""

    def __init__(self, *, account: str, opened: dict[str, Any], provider: Toy, **options: Any):
        super().__init__(**options)
        self._account = account
        self._toy = provider
        self.opened = opened
        self.is_closed = False
        self.checkouts: list[str] = []

    @property
    def name(self) -> str:
        return self._account

    @property
    def provider(self) -> str:
        return "toy"

    @property
    def capabilities(self) -> Capabilities:
        return replace(
            super().capabilities,
            instruments=self._toy.instruments,
            currencies=self._toy.currencies,
        )

    async def checkout(self, *, attempt_id: str, **call: Any) -> Any:
        self.checkouts.append(attempt_id)
        return await super().checkout(attempt_id=attempt_id, **call)

    async def check(self, *, timeout_seconds: float) -> str:
        del timeout_seconds
        if self._toy.check_fails is not None:
            raise self._toy.check_fails
        return self._toy.problem

    async def aclose(self) -> None:
        self.is_closed = True
        await super().aclose()


@dataclass
class Toy:
    """The provider of tests, and what it was asked to open."""

    base_url: str
    instruments: frozenset[Instrument] = frozenset({Instrument.REDIRECT})
    currencies: Mapping[str, Limits] | None = None
    problem: str = ""
    check_fails: Exception | None = None
    refuses: Exception | None = None
    channels: list[ToyChannel] = field(default_factory=list)

    def open_channel(
        self,
        *,
        account: str,
        credentials: ToyCredentials,
        is_live: bool,
        notify_url: str,
        base_url: str | None,
        now: Callable[[], datetime],
    ) -> ToyChannel:
        del now
        if self.refuses is not None:
            raise self.refuses
        channel = ToyChannel(
            account=account,
            opened={
                "secret_key": credentials.secret_key,
                "is_live": is_live,
                "notify_url": notify_url,
                "base_url": base_url,
            },
            provider=self,
            base_url=self.base_url,
            api_key=API_KEY,
            callback_secret=CALLBACK_SECRET,
        )
        self.channels.append(channel)
        return channel

    def providers(self) -> dict[str, Provider]:
        """It, and another one of the same kind."""
        toy = Provider(
            name="toy",
            parse=parse,
            open_channel=self.open_channel,
            summary="for tests",
            shown=("account_name",),
            ends_shown=("secret_key",),
            is_live=lambda credentials: credentials.live,
            mode_field="live",
        )
        return {"toy": toy, "ownserver": replace(toy, name="ownserver", server_field="server_url")}


RULES = AccountRules(
    callback_base_url="https://pay.test/",
    provider_urls={"toy": "http://simulator.test"},
    servers={"ownserver": frozenset({"https://btcpay.test"})},
)


@dataclass
class Accounts:
    """payment_rpc with accounts."""

    world: PaymentWorld
    toy: Toy
    app: PaymentApp

    def another_app(self, **changes: Any) -> PaymentApp:
        """Another process on the same database."""
        values: dict[str, Any] = {
            "account_keys": AccountKeys(KEYS, random_bytes=token_bytes),
            "account_rules": RULES,
            "providers": self.toy.providers(),
            **changes,
        }
        return self.world.make_app(**values)

    async def create(self, merchant_id: str = "mall", **changes: Any) -> ChannelAccount:
        with self._without_those_tried_out():
            return await self.app.channel_accounts.create(
                new_account(merchant_id, **changes), staff(merchant_id)
            )

    async def update(self, account: ChannelAccount, **changes: Any) -> ChannelAccount:
        values: dict[str, Any] = {
            "account_id": account.account_id,
            "read_version": account.version,
            "reason": REASON,
            **changes,
        }
        with self._without_those_tried_out():
            return await self.app.channel_accounts.update(
                UpdateAccount(**values), staff(account.merchant_id)
            )

    @contextmanager
    def _without_those_tried_out(self) -> Iterator[None]:
        """New credentials are tried by a channel that is closed again."""
        before = list(self.toy.channels)
        yield
        tried = [channel for channel in self.toy.channels if channel not in before]
        assert all(channel.is_closed for channel in tried)
        self.toy.channels[:] = before

    async def get(self, account: ChannelAccount) -> ChannelAccount:
        return await self.app.channel_accounts.get(account.account_id, staff(account.merchant_id))


def accounts_in(world: PaymentWorld) -> Accounts:
    """payment_rpc with accounts in a world; close `app.account_channels` afterwards."""
    accounts = Accounts(world=world, toy=Toy(base_url=world.sandbox.base_url), app=world.app)
    accounts.app = accounts.another_app()
    return accounts


def staff(merchant_id: str = "mall", subject: str = "boss") -> Caller:
    """Somebody who works for a shop."""
    return Caller(role=Role.MERCHANT, subject=subject, merchant_id=merchant_id)


def a_stored_account(account_id: str) -> StoredAccount:
    """An account whose credentials nobody can read."""
    return StoredAccount(
        account=ChannelAccount(
            account_id=account_id,
            provider="toy",
            merchant_id="mall",
            mode=AccountMode.LIVE,
            label="main",
            state=AccountState.ENABLED,
            default_for=DefaultFor.NONE,
            hint={},
            key_id="1",
            sealed_digest="",
            version=1,
            created_by="boss",
            created_at=EPOCH,
            updated_at=EPOCH,
        ),
        sealed=Sealed(key_id="1", text=""),
    )


def new_account(merchant_id: str = "mall", **changes: Any) -> CreateAccount:
    """A request for an account."""
    values: dict[str, Any] = {
        "merchant_id": merchant_id,
        "provider": "toy",
        "label": "main",
        "credentials": credentials(),
        "reason": REASON,
        **changes,
    }
    return CreateAccount(**values)


def credentials(secret_key: str = SECRET, **more: Any) -> str:
    """As a merchant enters them."""
    return json.dumps({"secret_key": secret_key, "account_name": "Acme", **more})
