"""`paymesh demo`: two purchases from the running mesh, one by card and one at the cashier, and an
order of a merchant that signs up for it, with every call shown.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urljoin

import click
import grpc
import httpx
from paymesh.payment.v1 import payment_pb2, payment_pb2_grpc

from mesh.clock import SystemClock
from mesh.ids import UlidIds
from mesh.transport import client_credentials
from paymesh_cli.demo_client import Conversation, DemoFailed, forms_of
from paymesh_cli.demo_merchant import MerchantDemo
from paymesh_cli.options import installation_option, load_settings, need_running
from paymesh_cli.supervisor.health import CHANNEL_OPTIONS
from paymesh_cli.supervisor.installation import Installation
from paymesh_cli.terminal import Terminal
from paymesh_cli.token import open_issuer

PAID_SECONDS_MAX = 20.0
GRPC_SECONDS_MAX = 5.0
_PRICE = "100.00"
# one of Stripe's public test numbers; the sandbox knows it as good
_CARD_NUMBER = "4242424242424242"


@click.command()
@installation_option
@click.option(
    "--gateway",
    "gateway_url",
    help="URL of the gateway.  [default: that of the mesh that runs on --var-dir]",
)
@click.option("--grpc", "grpc_address", help="host:port of payment_rpc.  [default: as above]")
def demo(installation: Installation, gateway_url: str | None, grpc_address: str | None) -> None:
    """Buys something from the running mesh, by card and at the cashier, and prints each call. Exits
    0 when all three orders are PAID.
    """
    if gateway_url is None or grpc_address is None:
        running = need_running(installation)
        gateway_url = gateway_url or running.urls["gateway"]
        grpc_address = grpc_address or running.grpc["payment_rpc"][0]
    issuer = open_issuer(installation)
    clock = SystemClock()
    console = Terminal()
    # trust_env: a proxy is not about us
    with httpx.Client(base_url=gateway_url, timeout=15, trust_env=False) as client:
        conversation = Conversation(client, console)
        run_id = UlidIds(clock).new("")
        shop = _Purchases(
            conversation,
            merchant=issuer.issue("demo-merchant", roles=["merchant"]),
            user=issuer.issue("alice"),
            run_id=run_id,
            expiration_year=clock.now().year + 2,
        )
        try:
            sku_id = shop.put_on_sale()
            order_id = shop.pay_by_card(sku_id)
            shop.pay_at_cashier(sku_id)
            shop.ask_by_grpc(order_id, address=grpc_address)
            MerchantDemo(
                conversation, run_id=run_id, log_file=installation.log_dir / "merchant_rpc.log"
            ).run()
        except DemoFailed as failure:
            raise click.ClickException(str(failure)) from None
        except httpx.HTTPError as problem:
            raise click.ClickException(f"{gateway_url}: {problem!r}") from None
        except grpc.RpcError as problem:
            raise click.ClickException(f"gRPC {grpc_address}: {problem}") from None
    console.print("\n[bold green]all three orders are PAID[/]")


class _Purchases:
    """What a merchant and a buyer do one after the other. Raises DemoFailed, httpx.HTTPError or
    grpc.RpcError at the first thing that goes wrong.
    """

    def __init__(
        self,
        conversation: Conversation,
        *,
        merchant: str,
        user: str,
        run_id: str,
        expiration_year: int,
    ) -> None:
        self._conversation = conversation
        self._merchant = merchant
        self._user = user
        self._run_id = run_id
        self._expiration_year = expiration_year

    def put_on_sale(self) -> str:
        """A new product; returns its SKU."""
        self._conversation.heading("Tokens")
        self._conversation.note(
            f"merchant  {self._merchant[:40]}…   (paymesh token --sub demo-merchant --role "
            f"merchant)"
        )
        self._conversation.note(f"buyer     {self._user[:40]}…   (paymesh token --sub alice)")
        self._conversation.heading("The merchant puts a product on sale")
        product = self._conversation.call(
            "POST",
            "/api/v1/products",
            token=self._merchant,
            expect=201,
            body={
                "sku_id": f"DEMO-{self._run_id}",
                "name": "A mug",
                "price": _PRICE,
                "available": 10,
            },
        )
        return str(product["sku_id"])

    def pay_by_card(self, sku_id: str) -> str:
        """An order paid by card, with the field names of source 002; returns its id."""
        order = self._order(sku_id)
        self._conversation.heading("She pays by card")
        body = {
            "order_id": order["order_id"],
            "amount": 100.0,
            "user_id": "alice",
            "credit_card": {
                "credit_card_number": _CARD_NUMBER,
                "credit_card_cvv": 123,
                "credit_card_expiration_year": self._expiration_year,
                "credit_card_expiration_month": 12,
            },
        }
        charge = self._conversation.call(
            "POST",
            "/payment/charge",
            token=self._user,
            expect=200,
            body=body,
            headers={"idempotency-key": f"demo-{self._run_id}"},
        )
        payment = self._see_paid(order["order_id"])
        if payment["payment_id"] != charge["transaction_id"]:
            raise DemoFailed(
                f"the order was paid by {payment['payment_id']}, the card by "
                f"{charge['transaction_id']}"
            )
        return str(order["order_id"])

    def pay_at_cashier(self, sku_id: str) -> None:
        """An order paid on the sandbox's page."""
        order = self._order(sku_id)
        self._conversation.heading("She pays at the cashier")
        payment = self._conversation.call(
            "POST",
            "/api/v1/payments",
            token=self._user,
            expect=200,
            body={"order_id": order["order_id"]},
        )
        action = payment.get("next_action") or {}
        if action.get("kind") != "REDIRECT_URL":
            raise DemoFailed(f"CreatePayment: expected a next_action with a URL, got {action}")
        page = self._conversation.page("GET", action["value"])
        form = forms_of(page.text).get("Pay")
        if form is None:
            raise DemoFailed(f"{action['value']}: the page has no button Pay")
        method, target = form
        self._conversation.note("presses Pay")
        self._conversation.page(method, urljoin(str(page.url), target))
        self._see_paid(order["order_id"])

    def ask_by_grpc(self, order_id: str, *, address: str) -> None:
        """The same payment through a gRPC stub."""
        self._conversation.heading("The same payment by gRPC")
        credentials = client_credentials(load_settings("payment_rpc"))
        with (
            grpc.secure_channel(address, credentials, CHANNEL_OPTIONS)
            if credentials
            else grpc.insecure_channel(address, CHANNEL_OPTIONS)
        ) as channel:
            answer = payment_pb2_grpc.PaymentServiceStub(channel).GetPaymentByOrderId(
                payment_pb2.GetPaymentByOrderIdRequest(order_id=order_id),
                timeout=GRPC_SECONDS_MAX,
                metadata=(("authorization", f"Bearer {self._user}"),),
            )
        payment = answer.payment
        state = payment_pb2.PaymentState.Name(payment.state)
        self._conversation.note(
            f"{address} paymesh.payment.v1.PaymentService/GetPaymentByOrderId {order_id}"
        )
        self._conversation.note(
            f"→ {payment.payment_id} {state} {payment.amount} {payment.currency} "
            f"{payment.card.brand} …{payment.card.last_four}"
        )
        if payment.state != payment_pb2.PAYMENT_STATE_SUCCESS:
            raise DemoFailed(f"GetPaymentByOrderId of {order_id}: {state}")

    def _order(self, sku_id: str) -> dict[str, Any]:
        self._conversation.heading("Alice orders one")
        return self._conversation.call(
            "POST",
            "/api/v1/orders",
            token=self._user,
            expect=201,
            body={"items": [{"sku_id": sku_id, "quantity": 1}]},
        )

    def _see_paid(self, order_id: str) -> dict[str, Any]:
        """The payment of an order, as soon as the order is PAID."""
        path = f"/api/v1/orders/{order_id}"
        self._conversation.poll(
            path, token=self._user, state="PAID", timeout_seconds=PAID_SECONDS_MAX
        )
        payment = self._conversation.call(
            "GET", f"/api/v1/payments/order/{order_id}", token=self._user, expect=200
        )
        if payment.get("state") != "SUCCESS":
            raise DemoFailed(f"the payment of {order_id} is {payment.get('state')}")
        return payment
