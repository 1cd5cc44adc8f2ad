"""Credentials of an account at Stripe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import msgspec

from payment_rpc.channels.credential_fields import AccountSecrets, read_fields

SecretKey = Annotated[str, msgspec.Meta(pattern=r"^(?:sk|rk)_(?:test|live)_[A-Za-z0-9_]{4,250}\Z")]
WebhookSecret = Annotated[str, msgspec.Meta(pattern=r"^whsec_[!-~]{4,250}\Z")]
AccountId = Annotated[str, msgspec.Meta(pattern=r"^(?:acct_[A-Za-z0-9]{1,60})?\Z")]
MethodType = Annotated[str, msgspec.Meta(pattern=r"^[a-z_]{1,40}\Z")]


class Credentials(AccountSecrets, frozen=True, kw_only=True):
    """Keys of an account, and what it is allowed to do.

    Attributes:
        secret_key: `sk_…`, better a restricted `rk_…`.
        webhook_secrets: `whsec_…` of the endpoint; while one is rolled, which takes a day, both.
        account_id: `acct_…`; events that name another account are refused. "": not known, and
            events that name any are refused.
        payment_method_types: what buyers may pay with, e.g. `card`; none: what is switched on in
            the dashboard.
        multicapture: Stripe allows this account several captures of one authorization.
    """

    secret_key: SecretKey
    webhook_secrets: Annotated[tuple[WebhookSecret, ...], msgspec.Meta(min_length=1, max_length=4)]
    account_id: AccountId = ""
    payment_method_types: tuple[MethodType, ...] = ()
    multicapture: bool = False

    @property
    def is_live(self) -> bool:
        """Whether the key moves real money."""
        return self.secret_key.split("_")[1] == "live"


def parse(fields: Mapping[str, object]) -> Credentials:
    """Reads credentials.

    Raises:
        InvalidArgument: a field is missing, unknown or wrong; names it.
    """
    return read_fields(fields, Credentials)
