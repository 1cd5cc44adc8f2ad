"""An account of a merchant at a payment provider. Its id is the `channel` of payments, attempts,
refunds, callbacks and statements, so whatever is kept per channel is kept per account.

The credentials are not here: nothing that shows or logs an account can show them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Final

ACCOUNTS_MAX: Final = 100  # of one merchant
_TEST_SUFFIX: Final = "_test"  # of the test sibling of a merchant; live ids never end so
_ACCOUNT_ID: Final = re.compile(r"([a-z][a-z0-9]{1,15})_[a-z0-9]{12}", re.ASCII)


class AccountMode(StrEnum):
    """Whether an account moves real money. It follows the merchant and never changes."""

    LIVE = "LIVE"
    TEST = "TEST"

    @classmethod
    def of_merchant(cls, merchant_id: str) -> AccountMode:
        """The mode of all accounts of a merchant."""
        return cls.TEST if merchant_id.endswith(_TEST_SUFFIX) else cls.LIVE


class AccountState(StrEnum):
    """What an account is used for. In every state what was begun ends: queries, closes, refunds and
    callbacks go on.
    """

    ENABLED = "ENABLED"
    DRAINING = "DRAINING"  # takes no new payments, and its merchant means to switch it off
    DISABLED = "DISABLED"  # takes no new payments


class DefaultFor(StrEnum):
    """Which payments an account takes that name no account."""

    NONE = "NONE"
    PROVIDER = "PROVIDER"  # those that name its provider
    MERCHANT = "MERCHANT"  # those too, and those that name nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelAccount:
    """An account without its credentials.

    Attributes:
        hint: fields of the credentials that are not secret, and ends of keys, for people.
        key_id: the key under which the credentials are encrypted.
        sealed_digest: SHA-256, in hex, of the encrypted credentials as they are stored.
    """

    account_id: str
    provider: str
    merchant_id: str
    mode: AccountMode
    label: str
    state: AccountState
    default_for: DefaultFor
    hint: Mapping[str, str]
    key_id: str
    sealed_digest: str
    version: int
    created_by: str
    created_at: datetime
    updated_at: datetime

    @property
    def takes_new_payments(self) -> bool:
        """Whether a new attempt may begin here."""
        return self.state is AccountState.ENABLED

    def without_default(
        self, taken: DefaultFor, *, by_provider: str, at: datetime
    ) -> ChannelAccount:
        """The same account after another one of its merchant became a default.

        Args:
            taken: what the other one is the default for.
            by_provider: whose account the other one is.
        """
        if taken is DefaultFor.NONE or self.default_for is DefaultFor.NONE:
            return self
        if self.provider == by_provider:
            left = DefaultFor.NONE
        elif taken is DefaultFor.MERCHANT:
            left = DefaultFor.PROVIDER
        else:
            left = self.default_for
        if left is self.default_for:
            return self
        return replace(self, default_for=left, version=self.version + 1, updated_at=at)

    def said(self) -> dict[str, object]:
        """What the log keeps of an account. Nothing secret."""
        return {
            "provider": self.provider,
            "mode": self.mode,
            "label": self.label,
            "state": self.state,
            "default_for": self.default_for,
            "hint": dict(self.hint),
            "key_id": self.key_id,
            "sealed": self.sealed_digest,
        }


class AccountStep(StrEnum):
    """What changed an account."""

    CREATE = "CREATE"
    UPDATE = "UPDATE"
    LOSE_DEFAULT = "LOSE_DEFAULT"  # another account became the default
    ROTATE_KEY = "ROTATE_KEY"  # the same credentials, encrypted under another key


def account_id_of(provider: str, chance: str) -> str:
    """The id of a new account.

    Args:
        chance: an id of ours; its last 12 characters are random.
    """
    return f"{provider}_{chance[-12:].lower()}"


def provider_of(channel: str) -> str:
    """Whose channel it is: the provider of an account; otherwise the channel itself, e.g.
    "sandbox".
    """
    found = _ACCOUNT_ID.fullmatch(channel)
    return channel if found is None else found[1]


def is_account_id(channel: str) -> bool:
    """Whether a channel has the form of an account's id."""
    return _ACCOUNT_ID.fullmatch(channel) is not None
