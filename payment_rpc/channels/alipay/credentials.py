"""Credentials of an Alipay application."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import msgspec

from payment_rpc.channels.credential_fields import AccountSecrets, read_fields
from payment_rpc.channels.rsa_signatures import read_private_key, read_public_key

Digits = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{16}\Z")]


class Credentials(AccountSecrets, frozen=True):
    """What Alipay's console shows of an application whose keys are plain keys, no certificates.

    Attributes:
        app_id: of the application.
        seller_id: of the merchant whom buyers pay (2088...).
        private_key: ours, with which requests are signed.
        alipay_public_key: Alipay's, by which answers and notices are checked; not our own public
            key, which the console shows beside it.
        other_alipay_public_keys: accepted too, while Alipay's key is being replaced.
    """

    app_id: Digits
    seller_id: Digits
    private_key: str
    alipay_public_key: str
    other_alipay_public_keys: tuple[str, ...] = ()

    @property
    def public_keys(self) -> tuple[str, ...]:
        """All that sign for Alipay."""
        return (self.alipay_public_key, *self.other_alipay_public_keys)


def parse(fields: Mapping[str, object]) -> Credentials:
    """Reads credentials.

    Raises:
        InvalidArgument: a field is missing, unknown or wrong; names it.
    """
    read = read_fields(fields, Credentials)
    read_private_key(read.private_key, field="private_key")
    read_public_key(read.alipay_public_key, field="alipay_public_key")
    for text in read.other_alipay_public_keys:
        read_public_key(text, field="other_alipay_public_keys")
    return read
