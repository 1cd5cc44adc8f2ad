"""payment_rpc through its port: what a caller sees of payments, refusals and callbacks, and that
nobody reaches what is not his.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.api import httpbody_pb2
from paymesh.payment.v1 import callback_pb2, callback_pb2_grpc, payment_pb2, payment_pb2_grpc

from mesh.errors import Outcome
from mesh.wire_errors import RemoteMoneyError, from_rpc_error
from order_rpc.domain.order import Order
from payment_rpc.tables import ATTEMPT, PAYMENT
from sandbox.signatures import sign_callback, sign_hint
from tests.builders.all_services import Servers, running
from tests.builders.payment import DECLINED, VISA
from tests.support.sandbox_server import CALLBACK_SECRET, MD5_SECRET

P = payment_pb2


@pytest.fixture
async def servers(tmp_path: Path) -> AsyncIterator[Servers]:
    async with running(tmp_path) as servers:
        yield servers


@pytest.fixture
def stub(servers: Servers) -> Any:
    return payment_pb2_grpc.PaymentServiceStub(servers.channels["payment_rpc"])


@pytest.fixture
def channel_stub(servers: Servers) -> Any:
    return callback_pb2_grpc.CallbackServiceStub(servers.channels["payment_rpc"])


def charge(
    order: Order, *, number: str = VISA, cvv: str = "123", **changes: Any
) -> payment_pb2.ChargeRequest:
    card = P.CreditCard(
        credit_card_number=number,
        credit_card_cvv=cvv,
        credit_card_expiration_year=2030,
        credit_card_expiration_month=12,
    )
    return P.ChargeRequest(
        **{
            "amount": order.amount.format(),
            "order_id": order.order_id,
            "credit_card": card,
            **changes,
        }
    )


async def refusal(call: Any) -> Any:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    return from_rpc_error(failed.value)


async def test_a_charge_answers_the_payment_and_a_replay_says_so(
    servers: Servers, stub: Any
) -> None:
    order = await servers.world.order()
    metadata = [servers.tokens.bearer("user"), ("idempotency-key", "k1")]
    first = stub.Charge(charge(order), metadata=metadata, timeout=10)
    answer = await first
    payment = answer.payment
    assert answer.transaction_id == payment.payment_id
    assert (
        payment.state,
        payment.amount,
        payment.currency,
        payment.captured,
        payment.card.last_four,
        payment.order_id,
        payment.merchant_id,
        payment.user_id,
    ) == (P.PAYMENT_STATE_SUCCESS, "100.00", "CNY", "100.00", "4242", order.order_id, "mall", "u1")
    assert payment.paid_at.ToDatetime() == payment.created_at.ToDatetime()
    again = stub.Charge(charge(order), metadata=metadata, timeout=10)
    assert await again == answer
    replayed = [
        dict(await call.trailing_metadata()).get("x-paymesh-idempotent-replayed")
        for call in (first, again)
    ]
    assert replayed == [None, "true"]


async def test_a_decline_is_a_refusal_about_money(servers: Servers, stub: Any) -> None:
    order = await servers.world.order()
    error = await refusal(
        stub.Charge(
            charge(order, number=DECLINED), metadata=[servers.tokens.bearer("user")], timeout=10
        )
    )
    assert isinstance(error, RemoteMoneyError)
    [row] = await servers.world.rows(PAYMENT)
    assert (
        error.grpc_code,
        error.reason,
        error.domain,
        error.outcome,
        error.safe_to_retry,
        error.payment_id,
    ) == (9, "CARD_DECLINED", "paymesh.payment.v1", Outcome.DECLINED, True, row["payment_id"])


async def test_bad_input_names_its_field_and_never_shows_a_card(
    servers: Servers, stub: Any
) -> None:
    order = await servers.world.order()
    metadata = [servers.tokens.bearer("user")]
    bad = {
        "amount": [
            {"amount": text}
            for text in (
                "0",
                "-1",
                "1e3",
                "0.001",
                "NaN",
                "1" * 16,
                "99.990000000000001",
                "",
                "100.01",
            )
        ],
        "currency": [{"currency": text} for text in ("XXX", "cny", "USD")],
        "credit_card.credit_card_number": [
            {"number": number} for number in ("4242424242424241", "abcdefghijklm", "1" * 41)
        ],
        "credit_card.credit_card_cvv": [{"cvv": cvv} for cvv in ("12", "abc", "9" * 9)],
        "order_id": [{"order_id": text} for text in ("", "a b", "x" * 65)],
        "payment_method": [{"payment_method": text} for text in ("cash", "x" * 33)],
    }
    for field, requests in bad.items():
        for changes in requests:
            error = await refusal(
                stub.Charge(charge(order, **changes), metadata=metadata, timeout=10)
            )
            assert (error.grpc_code, list(error.fields)) == (3, [field]), changes
            assert (
                changes.get("number", VISA)
                not in f"{error.message} {error.fields} {error.metadata}"
            )
    error = await refusal(
        stub.Charge(
            P.ChargeRequest(amount="100", order_id=order.order_id), metadata=metadata, timeout=10
        )
    )
    assert error.grpc_code == 3
    assert await servers.world.rows(PAYMENT) == []


async def test_nobody_reaches_what_is_not_his(servers: Servers, stub: Any) -> None:
    order = await servers.world.order()
    owner = [servers.tokens.bearer("user")]
    payment_id = (await stub.Charge(charge(order), metadata=owner, timeout=10)).transaction_id
    by_id, by_order = (
        P.GetPaymentRequest(payment_id=payment_id),
        P.GetPaymentByOrderIdRequest(order_id=order.order_id),
    )
    listed = P.ListPaymentsRequest(order_id=order.order_id)
    for metadata in (
        owner,
        [servers.tokens.bearer("merchant", subject="clerk")],
        [servers.tokens.bearer("admin", subject="root")],
        [servers.tokens.caller("order_rpc", "payment_rpc")],
    ):
        assert (
            await stub.GetPayment(by_id, metadata=metadata, timeout=10)
        ).payment.payment_id == payment_id
        assert (
            await stub.GetPaymentByOrderId(by_order, metadata=metadata, timeout=10)
        ).payment.payment_id == payment_id
        assert [
            payment.payment_id
            for payment in (await stub.ListPayments(listed, metadata=metadata, timeout=10)).payments
        ] == [payment_id]
    for stranger in (
        servers.tokens.bearer("user", subject="u2"),
        servers.tokens.bearer("user", merchant_id="tea_house"),
        servers.tokens.bearer("merchant", merchant_id="tea_house"),
    ):
        for call in (
            stub.GetPayment(by_id, metadata=[stranger], timeout=10),
            stub.GetPaymentByOrderId(by_order, metadata=[stranger], timeout=10),
        ):
            error = await refusal(call)
            assert (error.grpc_code, error.reason) == (5, "PAYMENT_NOT_FOUND")
        assert not (await stub.ListPayments(listed, metadata=[stranger], timeout=10)).payments
    stranger = servers.tokens.bearer("user", subject="u2")
    error = await refusal(stub.Charge(charge(order), metadata=[stranger], timeout=10))
    assert (error.grpc_code, error.reason) == (5, "ORDER_NOT_FOUND")
    error = await refusal(stub.Charge(charge(order, user_id="u1"), metadata=[stranger], timeout=10))
    assert (error.grpc_code, list(error.fields)) == (7, ["user_id"])
    error = await refusal(
        stub.ListPayments(
            P.ListPaymentsRequest(order_id=order.order_id, page_size=10_000),
            metadata=owner,
            timeout=10,
        )
    )
    assert (error.grpc_code, list(error.fields)) == (3, ["page_size"])
    error = await refusal(
        stub.ListPayments(
            P.ListPaymentsRequest(order_id=order.order_id, page_token="forged"),
            metadata=owner,
            timeout=10,
        )
    )
    assert (error.grpc_code, error.reason) == (3, "PAGE_TOKEN_INVALID")


async def test_a_channel_reads_the_bytes_that_it_expects(
    servers: Servers, stub: Any, channel_stub: Any
) -> None:
    order = await servers.world.order()
    opened = await stub.CreatePayment(
        P.CreatePaymentRequest(order_id=order.order_id),
        metadata=[servers.tokens.bearer("user")],
        timeout=10,
    )
    assert opened.payment.next_action.kind == P.NEXT_ACTION_KIND_REDIRECT_URL
    [attempt] = await servers.world.rows(ATTEMPT)
    body = json.dumps(
        {
            "attempt_id": attempt["attempt_id"],
            "trade_no": "SBX1",
            "status": "CAPTURED",
            "amount": "100.00",
            "currency": "CNY",
        }
    ).encode()
    timestamp = str(round(servers.world.clock.now().timestamp() * 1000))

    def deliver(signature: str) -> Any:
        return channel_stub.HandleCallback(
            callback_pb2.HandleCallbackRequest(
                channel="sandbox",
                body=httpbody_pb2.HttpBody(content_type="application/json", data=body),
                timestamp=timestamp,
                signature=signature,
            ),
            timeout=10,
        )

    error = await refusal(deliver("0" * 64))
    assert (error.grpc_code, error.reason) == (16, "SIGNATURE_INVALID")
    for _ in range(2):
        answer = await deliver(sign_callback(CALLBACK_SECRET, timestamp=timestamp, body=body))
        assert (answer.body.data, answer.body.content_type) == (b"success", "text/plain")
    shown = await stub.GetPayment(
        P.GetPaymentRequest(payment_id=opened.payment.payment_id),
        metadata=[servers.tokens.bearer("user")],
        timeout=10,
    )
    assert shown.payment.state == P.PAYMENT_STATE_SUCCESS


async def test_the_mock_callback_of_source_001_and_its_signature(
    servers: Servers, stub: Any, channel_stub: Any
) -> None:
    order = await servers.world.order()
    opened = await stub.CreatePayment(
        P.CreatePaymentRequest(order_id=order.order_id, channel="MOCK"),
        metadata=[servers.tokens.bearer("user")],
        timeout=10,
    )
    now = str(round(servers.world.clock.now().timestamp() * 1000))
    values = {
        "payment_id": opened.payment.payment_id,
        "callback_status": "SUCCESS",
        "timestamp": now,
        "nonce": "abc123",
    }
    signature = (
        await channel_stub.GenerateSignature(
            callback_pb2.GenerateSignatureRequest(**values), timeout=10
        )
    ).signature
    assert signature == sign_hint(MD5_SECRET, **values)
    results = [
        await channel_stub.MockCallback(
            callback_pb2.MockCallbackRequest(**values, signature=signature), timeout=10
        )
        for _ in range(2)
    ]
    assert [(answer.result, answer.current_status, answer.payment_id) for answer in results] == [
        (
            callback_pb2.CALLBACK_RESULT_PROCESSED,
            P.PAYMENT_STATE_SUCCESS,
            opened.payment.payment_id,
        ),
        (callback_pb2.CALLBACK_RESULT_IGNORED, P.PAYMENT_STATE_SUCCESS, opened.payment.payment_id),
    ]
    forged = callback_pb2.MockCallbackRequest(
        **{**values, "callback_status": "FAILED"}, signature=signature
    )
    error = await refusal(channel_stub.MockCallback(forged, timeout=10))
    assert (error.grpc_code, error.reason, isinstance(error, RemoteMoneyError)) == (
        16,
        "SIGNATURE_INVALID",
        True,
    )
