"""Configuration of payment_rpc, read once in `__main__` from PAYMENT_RPC_* and PAYMESH_*."""

from __future__ import annotations

from datetime import time
from pathlib import Path
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import Field, model_validator

from mesh.settings import MeshSettings
from payment_rpc.domain.attempt import LEASE_MAX
from payment_rpc.usecases.account_credentials import AccountRules, origins

# scheme, host and port; a path would be a page of somebody
Origin = Annotated[str, Field(pattern=r"^https?://[!-.0-~]{1,200}$")]
UrlOfServer = Annotated[str, Field(pattern=r"^https?://[!-~]{1,200}$")]
UrlPrefix = Annotated[str, Field(pattern=r"^https?://[!-.0-~]+/[!-~]*$")]


class PaymentSettings(MeshSettings):
    """What payment_rpc needs to know beyond what every process does.

    Attributes:
        database_pool_size: connections for writing, and as many for reading.
        channel_timeout_seconds: longest wait for a channel while a buyer waits; afterwards the
            payment is PAYING and asked for.
        attempt_lease_seconds: how long an attempt may be under way before "not found" at the
            channel means that it is lost. Longer than channel_timeout_seconds.
        scan_interval_seconds: pause between rounds of questions, expiries and deliveries that found
            nothing to do.
        scan_batch_size: attempts, refunds or expired payments taken in one round.
        scan_threshold_seconds: age that an attempt has at least before the background asks for it;
            0: its schedule alone decides.
        close_grace_seconds: how long after a deadline a channel that cannot close may still take
            money in time.
        scan_action_retention_days: how long the log of the scan is stored.
        sandbox_url: where the sandbox listens; configuration, because callers never choose where we
            connect.
        sandbox_api_key_file: our key there; None: no channel, only wallets pay.
        sandbox_callback_secret_file: HMAC key of its callbacks; None: the API key.
        sandbox_md5_secret_file: of source 001's rule; None: in development the published one, in
            production none that anybody knows.
        statement_time_zone, statement_cut_off: how the channel counts the days of its statements.
        return_urls: per merchant, prefixes of the URLs to which a cashier may send a buyer back.
            Each has a host and a slash after it: the prefix https://shop.example would admit
            https://shop.example.evil.
        buyers_may_hold: merchants whose buyers may ask for capture MANUAL.
        account_key_file: keys of the credentials of channel accounts, see account_keys.py. Every
            replica has the same; None: there are no accounts.
        callback_base_url: where providers reach the gateway, e.g. https://pay.example; "": nowhere.
        provider_urls: per provider, where TEST accounts find it, e.g. a simulator; in development
            all accounts. None is used for a LIVE account in production.
        btcpay_servers: origins of the BTCPay Servers that accounts may name. Accounts decide whom
            this process calls otherwise.
        merchant_directory: ask merchant_rpc about merchants; what it does not say or know comes
            from the settings of this process. Otherwise they hold for all merchants.
    """

    service: str = "payment_rpc"
    port: int = Field(9907, ge=0, le=65535)
    database_pool_size: int = Field(16, ge=1, le=200)
    channel_timeout_seconds: float = Field(6, gt=0, le=60)
    attempt_lease_seconds: float = Field(20, gt=0, le=LEASE_MAX.total_seconds())
    scan_interval_seconds: float = Field(1, gt=0, le=600)
    scan_batch_size: int = Field(100, ge=1, le=1000)
    scan_threshold_seconds: float = Field(0, ge=0, le=86400)
    close_grace_seconds: float = Field(300, ge=0, le=86400)
    scan_action_retention_days: int = Field(30, ge=1, le=3650)
    sandbox_url: str = Field("http://127.0.0.1:8090", pattern=r"^https?://[!-~]{1,200}$")
    sandbox_api_key_file: Path | None = None
    sandbox_callback_secret_file: Path | None = None
    sandbox_md5_secret_file: Path | None = None
    statement_time_zone: ZoneInfo = ZoneInfo("Asia/Shanghai")
    statement_cut_off: time = time(0)
    return_urls: dict[str, list[UrlPrefix]] = Field(
        default_factory=lambda: {"mall": ["http://127.0.0.1:8080/", "http://localhost:8080/"]}
    )
    buyers_may_hold: list[str] = Field(default_factory=list)
    account_key_file: Path | None = None
    callback_base_url: Origin | Literal[""] = ""
    provider_urls: dict[str, UrlOfServer] = Field(default_factory=dict)
    btcpay_servers: list[Origin] = Field(default_factory=list)
    merchant_directory: bool = False

    def account_rules(self) -> AccountRules:
        """What this installation decides about channel accounts."""
        return AccountRules(
            callback_base_url=self.callback_base_url,
            provider_urls=self.provider_urls,
            servers={"btcpay": origins(self.btcpay_servers)},
            is_development=self.is_development,
        )

    @model_validator(mode="after")
    def _lease_covers_the_call(self) -> Self:
        if self.attempt_lease_seconds <= self.channel_timeout_seconds:
            raise ValueError(
                "attempt_lease_seconds: must be longer than channel_timeout_seconds, or attempts "
                "are given up while they are sent"
            )
        return self
