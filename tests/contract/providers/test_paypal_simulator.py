"""The simulated PayPal, driven by PayPal's own client over a real connection: it judges the form of
every answer. Notices are judged by the certificate that the simulator serves.
"""

from __future__ import annotations

import asyncio
import base64
import zlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from paypalserversdk.configuration import Configuration, Environment, Server
from paypalserversdk.exceptions.error_exception import ErrorException
from paypalserversdk.http.auth.o_auth_2 import ClientCredentialsAuthCredentials
from paypalserversdk.models.amount_with_breakdown import AmountWithBreakdown
from paypalserversdk.models.capture_request import CaptureRequest
from paypalserversdk.models.money import Money
from paypalserversdk.models.order_request import OrderRequest
from paypalserversdk.models.payment_source import PaymentSource
from paypalserversdk.models.paypal_wallet import PaypalWallet
from paypalserversdk.models.paypal_wallet_experience_context import PaypalWalletExperienceContext
from paypalserversdk.models.purchase_unit_request import PurchaseUnitRequest
from paypalserversdk.models.reauthorize_request import ReauthorizeRequest
from paypalserversdk.models.refund_request import RefundRequest
from paypalserversdk.paypal_serversdk_client import PaypalServersdkClient
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandbox.providers.paypal import PROVIDER
from sandbox.providers.paypal.config import PayPalConfig
from sandbox.providers.server import RunningProvider, running_provider
from sandbox.server import listen, make_server
from tests.support.fakes import FakeClock

DAY = 86_400
FULL = "return=representation"


@pytest.fixture
async def running(clock: FakeClock) -> AsyncIterator[RunningProvider[PayPalConfig]]:
    async with running_provider(PROVIDER, clock=clock) as provider:
        yield provider


class Shop:
    """The official client, each call in a thread of its own."""

    def __init__(self, provider: RunningProvider[PayPalConfig], sdk: PaypalServersdkClient) -> None:
        self.provider = provider
        self.sdk = sdk

    async def __call__(self, call: Callable[[Any], Any], **sent: Any) -> Any:
        """The body that the client read."""
        return (await asyncio.to_thread(call, sent)).body

    async def approved(self, intent: str = "CAPTURE", value: str = "99.99") -> str:
        body = OrderRequest(
            intent=intent,
            purchase_units=[
                PurchaseUnitRequest(
                    amount=AmountWithBreakdown("USD", value),
                    custom_id="ATT0001",
                    invoice_id="ATT0001",
                    description="Two mugs",
                )
            ],
            payment_source=PaymentSource(
                paypal=PaypalWallet(
                    experience_context=PaypalWalletExperienceContext(
                        return_url="https://shop.test/done",
                        cancel_url="https://shop.test/cancelled",
                        user_action="PAY_NOW",
                        shipping_preference="NO_SHIPPING",
                        brand_name="paymesh mall",
                        locale="en-US",
                    )
                )
            ),
        )
        order = await self(
            self.sdk.orders.create_order,
            body=body,
            paypal_request_id=f"create-{intent}-{value}",
            prefer=FULL,
        )
        assert order.status == "PAYER_ACTION_REQUIRED"
        assert [link.rel for link in order.links][:2] == ["self", "payer-action"]
        await self.control("buyer", ref=order.id, does="approve")
        return str(order.id)

    async def captured(self, value: str = "99.99") -> Any:
        order = await self(
            self.sdk.orders.capture_order,
            id=await self.approved(value=value),
            paypal_request_id=f"capture-{value}",
            prefer=FULL,
        )
        return order.purchase_units[0].payments.captures[0]

    async def control(self, what: str, **sent: Any) -> None:
        async with httpx.AsyncClient(base_url=self.provider.url, trust_env=False) as client:
            assert (await client.post(f"/_sim/{what}", json=sent)).is_success

    @property
    def moved(self) -> list[tuple[str, str]]:
        return [
            (one.kind.value, one.money.format()) for one in self.provider.simulation.money.movements
        ]


@pytest.fixture
def shop(running: RunningProvider[PayPalConfig], monkeypatch: pytest.MonkeyPatch) -> Shop:
    servers = {Environment.SANDBOX: {Server.DEFAULT: running.url}}
    monkeypatch.setattr(Configuration, "environments", servers)
    config = running.simulation.config
    credentials = ClientCredentialsAuthCredentials(config.client_id, config.client_secret)
    sdk = PaypalServersdkClient(
        environment=Environment.SANDBOX, client_credentials_auth_credentials=credentials
    )
    return Shop(running, sdk)


async def test_the_official_client_buys_and_refunds(shop: Shop) -> None:
    capture = await shop.captured()
    assert (capture.status, capture.amount.value) == ("COMPLETED", "99.99")
    assert capture.seller_receivable_breakdown.net_amount.value == "96.79"
    read = await shop(shop.sdk.payments.get_captured_payment, capture_id=capture.id)
    assert (read.status, read.custom_id) == ("COMPLETED", "ATT0001")
    refund = await shop(
        shop.sdk.payments.refund_captured_payment,
        capture_id=capture.id,
        paypal_request_id="refund-1",
        prefer=FULL,
        body=RefundRequest(amount=Money("USD", "10.00"), custom_id="RF1", note_to_payer="sorry"),
    )
    assert (refund.status, refund.amount.value) == ("COMPLETED", "10.00")
    again = await shop(shop.sdk.payments.get_refund, refund_id=refund.id)
    assert again.seller_payable_breakdown.total_refunded_amount.value == "10.00"
    order_id = read.supplementary_data.related_ids.order_id
    order = await shop(shop.sdk.orders.get_order, id=order_id)
    assert order.purchase_units[0].payments.captures[0].status == "PARTIALLY_REFUNDED"
    assert order.purchase_units[0].payments.refunds[0].id == refund.id
    assert shop.moved == [("capture", "99.99"), ("refund", "10.00")]


async def test_the_official_client_authorizes_captures_and_lets_go(shop: Shop) -> None:
    order = await shop(
        shop.sdk.orders.authorize_order,
        id=await shop.approved("AUTHORIZE", "100.00"),
        paypal_request_id="authorize-1",
        prefer=FULL,
    )
    held = order.purchase_units[0].payments.authorizations[0]
    assert held.status == "CREATED"
    await shop.control("clock", advance_seconds=4 * DAY)
    shop.sdk.oauth_2._o_auth_token = None  # the client's own clock did not move
    second = await shop(
        shop.sdk.payments.reauthorize_payment,
        authorization_id=held.id,
        paypal_request_id="reauthorize-1",
        prefer=FULL,
        body=ReauthorizeRequest(amount=Money("USD", "110.00")),
    )
    part = await shop(
        shop.sdk.payments.capture_authorized_payment,
        authorization_id=second.id,
        paypal_request_id="capture-1",
        prefer=FULL,
        body=CaptureRequest(amount=Money("USD", "40.00"), final_capture=False),
    )
    assert (part.status, part.final_capture) == ("COMPLETED", False)
    read = await shop(shop.sdk.payments.get_authorized_payment, authorization_id=second.id)
    assert read.status == "PARTIALLY_CAPTURED"
    await shop(
        shop.sdk.payments.void_payment, authorization_id=second.id, paypal_request_id="void-1"
    )
    assert shop.moved[2:] == [("authorize", "110.00"), ("capture", "40.00"), ("void", "70.00")]


async def test_the_official_client_reads_a_refusal(shop: Shop) -> None:
    order_id = await shop.approved(value="10.33")
    with pytest.raises(ErrorException) as caught:
        await shop(shop.sdk.orders.capture_order, id=order_id, paypal_request_id="capture-2")
    assert caught.value.name == "UNPROCESSABLE_ENTITY"
    assert caught.value.details[0].issue == "INSTRUMENT_DECLINED"
    assert caught.value.debug_id


@pytest.mark.parametrize(
    ("value", "status", "reason"),
    [("10.12", "PENDING", "ECHECK"), ("10.31", "DECLINED", None), ("10.32", "FAILED", None)],
)
async def test_the_official_client_knows_every_status(
    shop: Shop, value: str, status: str, reason: str | None
) -> None:
    capture = await shop.captured(value)
    assert capture.status == status
    details = getattr(capture, "status_details", None)
    assert (details.reason if details else None) == reason


async def test_the_official_client_searches_transactions(shop: Shop) -> None:
    capture = await shop.captured()
    found = await shop(
        shop.sdk.transaction_search.search_transactions,
        start_date="2026-11-20T00:00:00Z",
        end_date="2026-11-21T00:00:00Z",
        fields="all",
        page_size=500,
        page=1,
    )
    [row] = found.transaction_details
    assert row.transaction_info.transaction_id == capture.id
    assert row.transaction_info.fee_amount.value == "-3.20"
    assert (found.page, found.total_pages, found.total_items) == (1, 1, 1)


async def test_a_lost_answer_and_a_repetition_make_one_refund(shop: Shop) -> None:
    capture = await shop.captured()
    await shop.control("faults", kind="lost_answer", path="/v2/payments/captures", method="POST")
    body = RefundRequest(amount=Money("USD", "10.00"))
    with pytest.raises(OSError, match=r"closed|aborted|reset"):
        await shop(
            shop.sdk.payments.refund_captured_payment,
            capture_id=capture.id,
            paypal_request_id="refund-1",
            body=body,
        )
    refund = await shop(
        shop.sdk.payments.refund_captured_payment,
        capture_id=capture.id,
        paypal_request_id="refund-1",
        body=body,
    )
    assert refund.status == "COMPLETED"
    assert shop.moved == [("capture", "99.99"), ("refund", "10.00")]


async def test_notices_are_signed_by_the_certificate_that_is_served(shop: Shop) -> None:
    taken: asyncio.Queue[tuple[dict[str, str], bytes]] = asyncio.Queue()

    async def take(request: Request) -> Response:
        await taken.put((dict(request.headers), await request.body()))
        return Response()

    listener = listen("127.0.0.1", 0)
    server = make_server(Starlette(routes=[Route("/hook", take, methods=["POST"])]))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/hook"
    await shop.control("webhooks", url=url)
    await shop.approved()
    headers, body = await taken.get()
    server.stop()
    await serving
    async with httpx.AsyncClient(trust_env=False) as client:
        pem = (await client.get(headers["paypal-cert-url"])).content
        authority = (await client.get(f"{shop.provider.url}/_sim/authority.pem")).content
    certificate = x509.load_pem_x509_certificate(pem)
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(authority))
    signed = "|".join(
        (
            headers["paypal-transmission-id"],
            headers["paypal-transmission-time"],
            shop.provider.simulation.config.webhook_id,
            str(zlib.crc32(body)),
        )
    )
    public_key = certificate.public_key()
    assert isinstance(public_key, rsa.RSAPublicKey)
    public_key.verify(
        base64.b64decode(headers["paypal-transmission-sig"]),
        signed.encode(),
        padding.PKCS1v15(),
        hashes.SHA256(),
    )
    assert headers["paypal-auth-algo"] == "SHA256withRSA"
    assert b'"event_type":"CHECKOUT.ORDER.APPROVED"' in body
