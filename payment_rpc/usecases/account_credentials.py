"""Credentials of channel accounts: read from what a merchant enters, checked, and told without
their secrets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from mesh.errors import InvalidArgument
from payment_rpc.channels import Channel
from payment_rpc.channels.providers import Provider
from payment_rpc.domain.channel_account import AccountMode

FIELD: Final = "credentials"
_HINT_CHARACTERS_MAX: Final = 64
_END_CHARACTERS: Final = 4
_CHARACTERS_WITH_AN_END_MIN: Final = 20  # of a shorter secret four characters are too many


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountRules:
    """What the installation decides about channel accounts.

    Attributes:
        callback_base_url: where providers reach the gateway; "": nowhere.
        provider_urls: per provider, where TEST accounts find it; in development all accounts.
        servers: per provider with a `server_field`, the origins that accounts may name.
    """

    callback_base_url: str = ""
    provider_urls: Mapping[str, str] = field(default_factory=dict)
    servers: Mapping[str, frozenset[str]] = field(default_factory=dict)
    is_development: bool = False

    def notify_url(self, account_id: str) -> str:
        """Where a provider sends the notices of an account; "": nowhere."""
        if not self.callback_base_url:
            return ""
        return f"{self.callback_base_url.rstrip('/')}/api/v1/callbacks/{account_id}"

    def base_url(self, provider: str, mode: AccountMode) -> str | None:
        """Where a provider listens; None: at its own host. Real money never goes elsewhere."""
        if mode is AccountMode.LIVE and not self.is_development:
            return None
        return self.provider_urls.get(provider)

    def check_server(self, provider: Provider, fields: Mapping[str, object]) -> None:
        """Whether an account may name its server: this process will call it.

        Raises:
            InvalidArgument: it is on no list of the installation.
        """
        if not provider.server_field:
            return
        if _origin(fields.get(provider.server_field)) not in self.servers.get(
            provider.name, frozenset()
        ):
            raise InvalidArgument.of(
                f"{FIELD}.{provider.server_field}", "this installation does not call this server"
            )


def read_text(text: str) -> dict[str, object]:
    """The fields of credentials from the text of a JSON object.

    Raises:
        InvalidArgument: it is none.
    """
    try:
        return msgspec.json.decode(text, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeError):
        raise InvalidArgument.of(FIELD, "expected a JSON object") from None


def parse(
    fields: Mapping[str, object], *, provider: Provider, mode: AccountMode, rules: AccountRules
) -> Any:
    """Checks credentials; returns them as the provider's channel takes them.

    Raises:
        InvalidArgument: names the field, never its content.
    """
    try:
        parsed = provider.parse(fields)
    except InvalidArgument as problem:
        raise _within(problem) from None
    except Exception:  # noqa: BLE001  its text may hold a secret
        raise InvalidArgument.of(FIELD, "cannot be read") from None
    is_live = provider.is_live(parsed)
    if is_live is not None and is_live is not (mode is AccountMode.LIVE):
        raise InvalidArgument.of(
            f"{FIELD}.{provider.mode_field}",
            f"is of the other mode; accounts of this merchant are {mode}",
        )
    rules.check_server(provider, fields)
    return parsed


def open_channel(
    fields: Mapping[str, object],
    *,
    account_id: str,
    provider: Provider,
    mode: AccountMode,
    rules: AccountRules,
    now: Callable[[], datetime],
) -> Channel:
    """The channel of an account. Who opens it closes it.

    Raises:
        InvalidArgument: the credentials cannot be used; names the field, never its content.
    """
    credentials = parse(fields, provider=provider, mode=mode, rules=rules)
    try:
        return provider.open_channel(
            account=account_id,
            credentials=credentials,
            is_live=mode is AccountMode.LIVE,
            notify_url=rules.notify_url(account_id),
            base_url=rules.base_url(provider.name, mode),
            now=now,
        )
    except InvalidArgument as problem:
        raise _within(problem) from None
    except Exception:  # noqa: BLE001  as above
        raise InvalidArgument.of(FIELD, "cannot be read") from None


def _within(problem: InvalidArgument) -> InvalidArgument:
    """A problem of a field of the credentials, named as a field of the request."""
    named = {
        FIELD if name == FIELD else f"{FIELD}.{name}": text for name, text in problem.fields.items()
    } or {FIELD: "cannot be read"}
    return InvalidArgument(
        "; ".join(f"{name}: {text}" for name, text in named.items()), fields=named
    )


def hint_of(fields: Mapping[str, object], provider: Provider) -> dict[str, str]:
    """What people see of credentials."""
    hint = {
        name: str(fields[name])[:_HINT_CHARACTERS_MAX]
        for name in provider.shown
        if isinstance(fields.get(name), str | int)
    }
    for name in provider.ends_shown:
        secret = fields.get(name)
        if isinstance(secret, str) and len(secret) >= _CHARACTERS_WITH_AN_END_MIN:
            hint[name] = f"…{secret[-_END_CHARACTERS:]}"
    return hint


def _origin(url: object) -> str:
    """Scheme, host and port of a URL; "" for anything else. A user in it would hide the host."""
    if not isinstance(url, str):
        return ""
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError:
        return ""
    if parts.scheme not in {"http", "https"} or not parts.hostname or "@" in parts.netloc:
        return ""
    usual = {"http": 80, "https": 443}[parts.scheme]
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}" + ("" if port in {None, usual} else f":{port}")


def origins(urls: list[str]) -> frozenset[str]:
    """Origins in the form in which they are compared."""
    return frozenset(filter(None, map(_origin, urls)))
