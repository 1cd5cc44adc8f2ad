"""A gateway on a real port before a real server of the mesh, whose servicers do what a test
says.
"""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import jwt
from google.api import httpbody_pb2
from google.protobuf import descriptor_pool
from paymesh.order.v1 import catalog_pb2, catalog_pb2_grpc, order_pb2, order_pb2_grpc
from paymesh.payment.v1 import callback_pb2, callback_pb2_grpc, payment_pb2, payment_pb2_grpc

from gateway.api_keys import ApiKeys, KeyService
from gateway.app import Gateway
from gateway.schema import Schema, load_schema
from gateway.server import GatewayServer
from gateway.settings import GatewaySettings
from gateway.telemetry import Telemetry
from mesh.auth import UserTokenIssuer, UserTokens
from mesh.client import MeshChannel
from mesh.discovery.static import StaticDiscovery
from mesh.server import MeshServer
from mesh.settings import MeshSettings
from tests.support.fakes import FakeClock, FakeIds

SECRET = b"a secret of the tests with enough bytes"
PAYMENT = payment_pb2.Payment(
    payment_id="PAY1",
    order_id="ORD1",
    user_id="alice",
    merchant_id="mall",
    amount="100.00",
    currency="CNY",
    state=payment_pb2.PAYMENT_STATE_SUCCESS,
    version=3,
)
SCHEMA = load_schema()
FIELD_RULES: Any = descriptor_pool.Default().FindExtensionByName("buf.validate.field")

Behaviour = Callable[[Any, Any], Awaitable[Any]]


class Shop:
    """Every servicer behind the gateway. Keeps what arrived; answers what is set in `does`, else
    something sensible.
    """

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.metadata: dict[str, str] = {}
        self.does: dict[str, Behaviour] = {}

    async def serve(self, method: str, request: Any, context: Any, answer: Any) -> Any:
        self.requests.append(request)
        self.metadata = dict(context.invocation_metadata())
        return await self.does[method](request, context) if method in self.does else answer

    @property
    def request(self) -> Any:
        """The last one."""
        return self.requests[-1]

    def add_to(self, server: MeshServer) -> None:
        # what a servicer here lacks answers UNIMPLEMENTED
        server.add(payment_pb2_grpc.add_PaymentServiceServicer_to_server, _Payments(self))  # type: ignore[abstract]
        server.add(callback_pb2_grpc.add_CallbackServiceServicer_to_server, _Callbacks(self))
        server.add(order_pb2_grpc.add_OrderServiceServicer_to_server, _Orders(self))  # type: ignore[abstract]
        server.add(catalog_pb2_grpc.add_CatalogServiceServicer_to_server, _Catalog(self))  # type: ignore[abstract]


class _Payments(payment_pb2_grpc.PaymentServiceServicer):
    def __init__(self, shop: Shop) -> None:
        self._shop = shop

    async def Charge(self, request: Any, context: Any) -> Any:
        return await self._shop.serve(
            "Charge",
            request,
            context,
            payment_pb2.ChargeResponse(transaction_id="PAY1", payment=PAYMENT),
        )

    async def CreatePayment(self, request: Any, context: Any) -> Any:
        return await self._shop.serve(
            "CreatePayment", request, context, payment_pb2.CreatePaymentResponse(payment=PAYMENT)
        )

    async def GetPayment(self, request: Any, context: Any) -> Any:
        return await self._shop.serve(
            "GetPayment", request, context, payment_pb2.GetPaymentResponse(payment=PAYMENT)
        )

    async def GetPaymentByOrderId(self, request: Any, context: Any) -> Any:
        return await self._shop.serve(
            "GetPaymentByOrderId",
            request,
            context,
            payment_pb2.GetPaymentByOrderIdResponse(payment=PAYMENT),
        )

    async def ListPayments(self, request: Any, context: Any) -> Any:
        return await self._shop.serve(
            "ListPayments", request, context, payment_pb2.ListPaymentsResponse(payments=[PAYMENT])
        )


class _Callbacks(callback_pb2_grpc.CallbackServiceServicer):
    def __init__(self, shop: Shop) -> None:
        self._shop = shop

    async def HandleCallback(self, request: Any, context: Any) -> Any:
        body = httpbody_pb2.HttpBody(content_type="text/plain", data=b"success")
        return await self._shop.serve(
            "HandleCallback", request, context, callback_pb2.HandleCallbackResponse(body=body)
        )

    async def MockCallback(self, request: Any, context: Any) -> Any:
        answer = callback_pb2.MockCallbackResponse(
            result=callback_pb2.CALLBACK_RESULT_PROCESSED, payment_id=request.payment_id
        )
        return await self._shop.serve("MockCallback", request, context, answer)

    async def GenerateSignature(self, request: Any, context: Any) -> Any:
        return await self._shop.serve(
            "GenerateSignature",
            request,
            context,
            callback_pb2.GenerateSignatureResponse(signature="ABC"),
        )


class _Orders(order_pb2_grpc.OrderServiceServicer):
    def __init__(self, shop: Shop) -> None:
        self._shop = shop

    async def CreateOrder(self, request: Any, context: Any) -> Any:
        return await self._shop.serve(
            "CreateOrder",
            request,
            context,
            order_pb2.CreateOrderResponse(order=order_pb2.Order(order_id="ORD1")),
        )

    async def GetOrder(self, request: Any, context: Any) -> Any:
        return await self._shop.serve(
            "GetOrder",
            request,
            context,
            order_pb2.GetOrderResponse(order=order_pb2.Order(order_id=request.order_id)),
        )

    async def ListOrders(self, request: Any, context: Any) -> Any:
        return await self._shop.serve(
            "ListOrders", request, context, order_pb2.ListOrdersResponse()
        )

    async def UpdateOrderStatus(self, request: Any, context: Any) -> Any:
        return await self._shop.serve(
            "UpdateOrderStatus", request, context, order_pb2.UpdateOrderStatusResponse()
        )


class _Catalog(catalog_pb2_grpc.CatalogServiceServicer):
    def __init__(self, shop: Shop) -> None:
        self._shop = shop

    async def CreateProduct(self, request: Any, context: Any) -> Any:
        return await self._shop.serve(
            "CreateProduct", request, context, catalog_pb2.CreateProductResponse()
        )

    async def ListProducts(self, request: Any, context: Any) -> Any:
        return await self._shop.serve(
            "ListProducts", request, context, catalog_pb2.ListProductsResponse()
        )

    async def GetProduct(self, request: Any, context: Any) -> Any:
        product = catalog_pb2.Product(sku_id=request.sku_id, name="马克杯")
        return await self._shop.serve(
            "GetProduct", request, context, catalog_pb2.GetProductResponse(product=product)
        )

    async def SetStock(self, request: Any, context: Any) -> Any:
        return await self._shop.serve("SetStock", request, context, catalog_pb2.SetStockResponse())


class World:
    """What a test holds in its hands."""

    def __init__(
        self,
        *,
        clock: FakeClock,
        shop: Shop,
        server: MeshServer,
        discovery: StaticDiscovery,
        gateway: GatewayServer,
        telemetry: Telemetry,
        log: io.StringIO,
        client: httpx.AsyncClient,
    ) -> None:
        self.clock = clock
        self.shop = shop
        self.server = server
        self.discovery = discovery
        self.gateway = gateway
        self.telemetry = telemetry
        self.client = client
        self._log = log

    @property
    def port(self) -> int:
        """Where the gateway listens."""
        return self.gateway.port

    def clients(self) -> set[Any]:
        """Addresses of the open connections."""
        connections: set[Any] = self.gateway._server.server_state.connections
        return {connection.client for connection in connections}

    def lines(self) -> list[dict[str, Any]]:
        """The request log."""
        self.telemetry.flush()
        return [json.loads(line) for line in self._log.getvalue().splitlines()]

    def token(
        self,
        subject: str = "alice",
        *,
        roles: tuple[str, ...] = ("user",),
        merchant_id: str = "mall",
        lifetime_seconds: int = 3600,
    ) -> str:
        issuer = UserTokenIssuer(SECRET, clock=self.clock, ids=FakeIds())
        return issuer.issue(
            subject, roles=roles, merchant_id=merchant_id, lifetime_seconds=lifetime_seconds
        )

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Claims of a good token with some changed; None takes one away."""
        now = int(self.clock.now().timestamp())
        claims = {
            "iss": "paymesh",
            "aud": "paymesh",
            "iat": now,
            "nbf": now,
            "exp": now + 60,
            "sub": "alice",
            "jti": "T1",
            "roles": ["user"],
            "merchant_id": "mall",
        } | changes
        return {name: value for name, value in claims.items() if value is not None}

    @staticmethod
    def signed(
        claims: dict[str, Any], *, key: bytes = SECRET, algorithm: str = "HS256", **header: Any
    ) -> str:
        return jwt.encode(
            claims,
            key if algorithm != "none" else "",
            algorithm=algorithm,
            headers={"typ": "at+jwt", **header},
        )

    def bearer(self, **options: Any) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token(**options)}"}

    async def call(
        self, method: str, path: str, *, token: str | None = "", **options: Any
    ) -> httpx.Response:
        """A request as alice, as the bearer of `token`, or as nobody (None)."""
        headers = dict(options.pop("headers", {}))
        if token is not None:
            headers.setdefault("authorization", f"Bearer {token or self.token()}")
        return await self.client.request(method, path, headers=headers, **options)

    async def raw(self, *parts: bytes, seconds_max: float = 10) -> bytes:
        """Everything that the gateway answers to these bytes until it closes the connection. Each
        part arrives by itself.
        """
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            for number, part in enumerate(parts):
                if number:
                    # what was sent before this has been read when it is answered
                    await self.client.get("/healthz")
                writer.write(part)
                await writer.drain()
            async with asyncio.timeout(seconds_max):
                return await reader.read()
        finally:
            writer.close()


@asynccontextmanager
async def gateway_world(
    folder: Path,
    *,
    schema: Schema = SCHEMA,
    serve: Callable[[MeshServer], None] | None = None,
    key_service: KeyService | None = None,
    **settings: Any,
) -> AsyncIterator[World]:
    """A running gateway before a running server of the shop (or of what `serve` adds to it); ends
    both. Without `key_service` there is no merchant_rpc.
    """
    clock, ids, shop, log = FakeClock(), FakeIds(), Shop(), io.StringIO()
    tokens = UserTokens.from_secret(SECRET, clock=clock)
    behind = MeshSettings(
        service=schema.served_by[0],
        environment="test",
        var_dir=folder,
        drain_seconds=0,
        log_level="WARNING",
    )
    server = MeshServer(behind, clock=clock, ids=ids, user_tokens=tokens)
    (serve or shop.add_to)(server)
    await server.start()
    options = GatewaySettings(
        **{
            "environment": "test",
            "port": 0,
            "var_dir": folder,
            "drain_seconds": 0,
            "grace_seconds": 5,
            **settings,
        }
    )
    address = f"127.0.0.1:{server.port}"
    discovery = StaticDiscovery({service: [address] for service in schema.served_by})
    channels = {
        service: MeshChannel(
            service, settings=options, discovery=discovery, pool=schema.pool, fail_fast_seconds=0.2
        )
        for service in schema.served_by
    }
    telemetry = Telemetry(clock=clock, stream=log)
    start = clock.now()

    def seconds() -> float:
        return (clock.now() - start).total_seconds()

    api_keys = None if key_service is None else ApiKeys(key_service, clock=clock, now=seconds)
    application = Gateway(
        schema,
        settings=options,
        upstreams=channels,
        user_tokens=UserTokens.from_secret(SECRET, clock=clock),
        telemetry=telemetry,
        api_keys=api_keys,
    )
    gateway = GatewayServer(application, options)
    await gateway.start()
    client = httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{gateway.port}", timeout=10, trust_env=False
    )
    try:
        for channel in channels.values():
            await channel.channel_ready()
        yield World(
            clock=clock,
            shop=shop,
            server=server,
            discovery=discovery,
            gateway=gateway,
            telemetry=telemetry,
            log=log,
            client=client,
        )
    finally:
        await client.aclose()
        await gateway.stop()
        for channel in channels.values():
            await channel.close()
        await discovery.close()
        await server.stop(0)


def statuses(answers: bytes) -> list[int]:
    """The statuses of every answer on a connection."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answers)]


def refused(answer: httpx.Response, status: int, reason: str, *fields: str) -> dict[str, Any]:
    """The body of a refusal, which has to be one with these facts."""
    body: dict[str, Any] = answer.json()
    assert (answer.status_code, body["details"]["reason"]) == (status, reason), answer.text
    assert body["data"] is None
    assert body["code"] != "00000"
    assert len(body["trace_id"]) == 32
    assert [entry["field"] for entry in body["details"].get("fields", [])] == list(fields), (
        answer.text
    )
    assert all(field in body["details"]["explanation"] for field in fields)
    return body
