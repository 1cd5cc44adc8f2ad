"""Credentials of a WeChat Pay merchant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final

import msgspec

from mesh.errors import InvalidArgument
from payment_rpc.channels.credential_fields import AccountSecrets, read_fields
from payment_rpc.channels.rsa_signatures import read_private_key, read_public_key

_KEY_BYTES: Final = 32

MerchantId = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{8,32}\Z")]
AppId = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,32}\Z")]
Serial = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_]{1,128}\Z")]
PublicKeys = Annotated[dict[Serial, str], msgspec.Meta(min_length=1, max_length=8)]


class Credentials(AccountSecrets, frozen=True):
    """What the merchant platform shows of a merchant in public-key mode.

    Attributes:
        mchid: the merchant's number.
        appid: of the application or account in which buyers pay.
        serial_no: of our merchant certificate, in hex.
        private_key: ours, with which requests are signed.
        api_v3_key: with which notices are encrypted, 32 bytes.
        public_keys: WeChat Pay's public keys by their ids (`PUB_KEY_ID_...`). Two while one takes
            over from the other; the first is the one that answers shall be signed with.
    """

    mchid: MerchantId
    appid: AppId
    serial_no: Serial
    private_key: str
    api_v3_key: str
    public_keys: PublicKeys


def parse(fields: Mapping[str, object]) -> Credentials:
    """Reads credentials.

    Raises:
        InvalidArgument: a field is missing, unknown or wrong; names it.
    """
    read = read_fields(fields, Credentials)
    read_private_key(read.private_key, field="private_key")
    for text in read.public_keys.values():
        read_public_key(text, field="public_keys")
    if len(read.api_v3_key.encode("utf-8", "replace")) != _KEY_BYTES:
        raise InvalidArgument.of("api_v3_key", f"must have {_KEY_BYTES} bytes")
    return read
