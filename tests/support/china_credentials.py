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
