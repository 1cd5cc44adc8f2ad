"""Credentials of WeChat Pay: read strictly, shown nowhere."""

from __future__ import annotations

import pytest

from mesh.errors import InvalidArgument
from payment_rpc.channels.wechat.channel import WechatChannel, open_channel
from payment_rpc.channels.wechat.credentials import parse
from tests.support.china_credentials import VECTOR_TIME, WECHAT
from tests.support.provider_keys import PROVIDER, private_pem, public_pem

SERIAL = "PUB_KEY_ID_0100000000012026100100000000000001"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mchid", "abc"),
        ("appid", "wx 1"),
        ("serial_no", ""),
        ("private_key", "nonsense"),
        ("private_key", public_pem(PROVIDER)),
        ("api_v3_key", "short"),
        ("api_v3_key", "茶" * 32),
        ("public_keys", {}),
        ("public_keys", {SERIAL: "nonsense"}),
        ("public_keys", {"a b": public_pem(PROVIDER)}),
        ("public_keys", {SERIAL: private_pem(PROVIDER)}),
        ("public_keys", public_pem(PROVIDER)),
        ("colour", "red"),
    ],
)
def test_wrong_credentials_are_refused_by_the_name_of_the_field(field, value):
    with pytest.raises(InvalidArgument) as refusal:
        parse({**WECHAT, field: value})
    assert list(refusal.value.fields) == [field]


def test_a_test_account_never_reaches_the_real_merchant():
    with pytest.raises(InvalidArgument):
        open_channel(
            account="wechat_test",
            credentials=parse(WECHAT),
            is_live=False,
            notify_url="",
            base_url=None,
            now=lambda: VECTOR_TIME,
        )


async def test_credentials_are_shown_nowhere():
    channel: WechatChannel = open_channel(
        account="wechat_main",
        credentials=parse(WECHAT),
        is_live=True,
        notify_url="",
        base_url=None,
        now=lambda: VECTOR_TIME,
    )
    shown = f"{parse(WECHAT)!r}{vars(channel)!r}"
    assert "PRIVATE" not in shown
    assert str(WECHAT["api_v3_key"]) not in shown
