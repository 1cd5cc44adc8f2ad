"""Credentials of the simulated Alipay and WeChat Pay, and the published vectors' clock."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from tests.support.provider_keys import MERCHANT, PROVIDER, private_pem, public_pem

VECTOR_TIME: Final = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)

ALIPAY: Final[Mapping[str, object]] = {
    "app_id": "2021000000000001",
    "seller_id": "2088000000000001",
    "private_key": private_pem(MERCHANT),
    "alipay_public_key": public_pem(PROVIDER),
}

WECHAT: Final[Mapping[str, object]] = {
    "mchid": "1900000001",
    "appid": "wx0000000000000001",
    "serial_no": "7132D72A03E93CDDF8C03BBD1F37EEDF00000001",
    "private_key": private_pem(MERCHANT),
    "api_v3_key": "paymesh-test-apiv3-key-32-bytes!",
    "public_keys": {"PUB_KEY_ID_0100000000012026100100000000000001": public_pem(PROVIDER)},
}
