"""Somebody cancels an order whose payment waits for its buyer: what each then reads of the payment,
over the wire and through both services.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from paymesh.order.v1 import order_pb2
from paymesh.payment.v1 import payment_pb2, payment_pb2_grpc

from tests.builders.all_services import order_rpc_before, running

YOU = {"en": "You cancelled this payment. No money moved.", "zh": "您已取消支付，没有扣款。"}
HE = {"en": "The buyer cancelled this payment. No money moved.", "zh": "买家已取消支付，没有扣款。"}
CLOSED = {"en": "The payment was closed. No money moved.", "zh": "支付已关闭，没有扣款。"}


@pytest.mark.parametrize(
    "languages",
    [{"en": "en", "zh": "zh"}, {"en": "en-GB,en;q=0.9,zh;q=0.1", "zh": "zh-CN,en;q=0.5"}],
)
@pytest.mark.parametrize(
    ("who", "reason", "told"),
    [
        ("user", "CANCELLED_BY_BUYER", {"user": YOU, "merchant": HE, "admin": HE}),
        ("merchant", "PAYMENT_CLOSED", {"user": CLOSED, "merchant": CLOSED, "admin": CLOSED}),
        ("admin", "PAYMENT_CLOSED", {"user": CLOSED, "merchant": CLOSED, "admin": CLOSED}),
    ],
)
async def test_who_cancelled_is_told_as_it_was_and_each_reads_it_in_his_language(
    tmp_path: Path,
    who: str,
    reason: str,
    told: dict[str, dict[str, str]],
    languages: dict[str, str],
) -> None:
    async with running(tmp_path) as servers, order_rpc_before(servers) as orders:
        order, bearer = await servers.world.order(), servers.tokens.bearer
        payments = payment_pb2_grpc.PaymentServiceStub(servers.channels["payment_rpc"])
        paying = await orders.PayOrder(
            order_pb2.PayOrderRequest(order_id=order.order_id),
            metadata=[bearer("user")],
            timeout=10,
        )
        cancelled = await orders.CancelOrder(
            order_pb2.CancelOrderRequest(order_id=order.order_id, reason="second thoughts"),
            metadata=[bearer(who)],
            timeout=10,
        )
        assert cancelled.order.state == order_pb2.ORDER_STATE_CANCELLED
        for reader, texts in told.items():
            for language, asked in languages.items():
                answer = await payments.GetPayment(
                    payment_pb2.GetPaymentRequest(payment_id=paying.payment.payment_id),
                    metadata=[bearer(reader), ("accept-language", asked)],
                    timeout=10,
                )
                assert (answer.payment.state, answer.payment.failure.reason) == (
                    payment_pb2.PAYMENT_STATE_CLOSED,
                    reason,
                )
                assert answer.payment.failure.message == texts[language], (reader, language)
