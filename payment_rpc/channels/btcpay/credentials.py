"""Credentials of a store at a BTCPay Server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

from mesh.errors import InvalidArgument
from mesh.money import CURRENCIES
from payment_rpc.channels.credential_fields import AccountSecrets, read_fields

Key = Annotated[str, msgspec.Meta(pattern=r"^[!-~]{8,200}\Z")]
StoreId = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9]{4,64}\Z")]
Url = Annotated[str, msgspec.Meta(pattern=r"^https?://[!-~]{1,200}\Z")]
Method = Annotated[str, msgspec.Meta(pattern=r"^[A-Z0-9]{2,10}-[A-Z0-9]{2,10}\Z")]
Secrets = Annotated[tuple[Key, ...], msgspec.Meta(min_length=1, max_length=4)]


class Credentials(AccountSecrets, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the server shows of a store.

    Attributes:
        server_url: of the merchant's server; "" where the account's base URL says it.
        store_id: of the store.
        api_key: with the rights cancreateinvoice, canviewinvoices and
            cancreatenonapprovedpullpayments.
        webhook_secrets: of the store's webhook; while one is replaced, both.
        speed_policy: how many confirmations make a payment: 1, 2 or 6. None at all can be
            taken back, so that policy of the server is not offered.
        monitoring_minutes: how long after its expiry the server sees payments of an invoice.
        payout_methods: in which coins refunds are claimed.
        currencies: that invoices may have; none: all.
    """

    store_id: StoreId
    api_key: Key
    webhook_secrets: Secrets
    server_url: Url | Literal[""] = ""
    speed_policy: Literal["MediumSpeed", "LowMediumSpeed", "LowSpeed"] = "MediumSpeed"
    monitoring_minutes: Annotated[int, msgspec.Meta(ge=1440, le=43_200)] = 10_080
    payout_methods: Annotated[tuple[Method, ...], msgspec.Meta(min_length=1)] = ("BTC-CHAIN",)
    currencies: tuple[str, ...] = ()


def parse(fields: Mapping[str, object]) -> Credentials:
    """Reads credentials.

    Raises:
        InvalidArgument: a field is missing, unknown or wrong; names it.
    """
    read = read_fields(fields, Credentials)
    if set(read.currencies) - set(CURRENCIES):
        raise InvalidArgument.of(
            "currencies", "unknown currency, expected an ISO 4217 code such as CNY"
        )
    return read
