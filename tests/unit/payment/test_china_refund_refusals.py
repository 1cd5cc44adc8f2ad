"""A refused refund at Alipay and WeChat Pay: the refusal may be about a call that was repeated, so
a question decides.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from mesh.money import Money
from mesh.outbound.connections import Lost
from payment_rpc.channels.alipay import api as alipay_api
from payment_rpc.channels.alipay import channel as alipay
from payment_rpc.channels.alipay.credentials import parse as parse_alipay
from payment_rpc.channels.requests import CapturedAttempt
from payment_rpc.channels.wechat import api as wechat_api
from payment_rpc.channels.wechat import channel as wechat
from payment_rpc.channels.wechat.credentials import parse as parse_wechat
from tests.support.china_credentials import ALIPAY, VECTOR_TIME, WECHAT


class Answers:
    """Gives prepared answers in turn, instead of a network."""

    def __init__(self, answers: Sequence[Any]) -> None:
        self.left = list(answers)

    async def __call__(self, *_args: Any, **_kwargs: Any) -> Any:
        answer = self.left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def of_alipay(sub_code: str = "", **fields: str) -> alipay_api.Reply:
    code = "40004" if sub_code else "10000"
    content = json.dumps({"code": code, **fields}).encode()
    return alipay_api.Reply(code=code, sub_code=sub_code, message="", content=content)


def of_wechat(status_code: int, code: str = "", **fields: Any) -> wechat_api.Reply:
    content = json.dumps(fields).encode()
    return wechat_api.Reply(status_code=status_code, code=code, message="", content=content)


async def refund_at_alipay(*replies: Any) -> Any:
    channel = alipay.open_channel(
        account="alipay_main",
        credentials=parse_alipay(ALIPAY),
        is_live=False,
        notify_url="",
        base_url=None,
        now=lambda: VECTOR_TIME,
    )
    return await refund(channel, *replies)


async def refund_at_wechat(*replies: Any) -> Any:
    channel = wechat.open_channel(
        account="wechat_main",
        credentials=parse_wechat(WECHAT),
        is_live=True,
        notify_url="",
        base_url=None,
        now=lambda: VECTOR_TIME,
    )
    return await refund(channel, *replies)


async def refund(channel: Any, *replies: Any) -> Any:
    answers = Answers(replies)
    channel._api.call = answers
    fact = await channel.refund(
        refund_id="RF01",
        of=CapturedAttempt(attempt_id="ATT0001", amount=Money(9999, "CNY")),
        amount=Money(1000, "CNY"),
        reason="",
        timeout_seconds=5,
    )
    assert answers.left == []  # the refund itself is called once, and what follows is a question
    return fact


DONE_AT_ALIPAY = of_alipay(
    out_trade_no="ATT0001",
    out_request_no="RF01",
    trade_no="2026",
    refund_status="REFUND_SUCCESS",
    refund_amount="10.00",
)
DONE_AT_WECHAT = of_wechat(
    200,
    out_trade_no="ATT0001",
    out_refund_no="RF01",
    refund_id="50",
    status="SUCCESS",
    amount={"refund": 1000},
)


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        pytest.param(DONE_AT_ALIPAY, "SUCCESS", id="done"),
        pytest.param(of_alipay(), "FAILED", id="unknown there"),
        pytest.param(of_alipay("TRADE_NOT_EXIST"), "FAILED", id="no trade"),
        pytest.param(of_alipay("SYSTEM_ERROR"), "UNKNOWN", id="error"),
        pytest.param(Lost("cut"), "UNKNOWN", id="lost"),
    ],
)
async def test_a_refusal_of_alipay_is_believed_after_a_question(asked, status):
    assert (await refund_at_alipay(of_alipay("TRADE_HAS_CLOSE"), asked)).status == status


@pytest.mark.parametrize(
    ("refusal", "asked", "status"),
    [
        pytest.param("INVALID_REQUEST", DONE_AT_WECHAT, "SUCCESS", id="done"),
        pytest.param(
            "INVALID_REQUEST", of_wechat(404, "RESOURCE_NOT_EXISTS"), "FAILED", id="unknown there"
        ),
        pytest.param("INVALID_REQUEST", of_wechat(500, "SYSTEM_ERROR"), "UNKNOWN", id="error"),
        pytest.param("INVALID_REQUEST", Lost("cut"), "UNKNOWN", id="lost"),
        pytest.param("NOT_ENOUGH", DONE_AT_WECHAT, "SUCCESS", id="done, and no balance now"),
        pytest.param(
            "NOT_ENOUGH", of_wechat(404, "RESOURCE_NOT_EXISTS"), "PENDING", id="no balance"
        ),
        pytest.param("NO_AUTH", DONE_AT_WECHAT, "SUCCESS", id="done, and no permission now"),
        pytest.param(
            "NO_AUTH", of_wechat(404, "RESOURCE_NOT_EXISTS"), "NOT_SENT", id="no permission"
        ),
    ],
)
async def test_a_refusal_of_wechat_pay_is_believed_after_a_question(refusal, asked, status):
    assert (await refund_at_wechat(of_wechat(403, refusal), asked)).status == status


@pytest.mark.parametrize(
    ("status_code", "code"),
    [(500, "INVALID_REQUEST"), (429, "FREQUENCY_LIMITED"), (403, "SOMETHING_NEW"), (400, "")],
)
async def test_what_is_no_clear_refusal_is_unknown_without_a_question(status_code, code):
    assert (await refund_at_wechat(of_wechat(status_code, code))).status == "UNKNOWN"


async def test_a_success_with_a_code_of_a_refusal_is_no_refusal():
    strange = alipay_api.Reply(
        code="10000", sub_code="TRADE_HAS_CLOSE", message="", content=b'{"code":"10000"}'
    )
    assert (await refund_at_alipay(strange)).status == "UNKNOWN"
