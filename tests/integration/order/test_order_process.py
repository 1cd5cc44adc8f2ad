"""order_rpc as a process: started, killed at each of its crash points, started again; what it had
promised holds, and nothing is done twice.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from paymesh.order.v1 import catalog_pb2, catalog_pb2_grpc, order_pb2, order_pb2_grpc

from mesh import migrations
from mesh.auth import CallerTokens, UserTokenIssuer
from mesh.client import MeshChannel
from mesh.clock import SystemClock
from mesh.discovery.static import StaticDiscovery
from mesh.errors import RemoteError, UpstreamUnavailable
from mesh.ids import UlidIds
from mesh.settings import MeshSettings
from tests.support.processes import Processes
from tools.processes import Process, free_port

SECRET = b"user tokens of a process in tests"


class Installation:
    """The files and variables of one order_rpc, and its clients' keys."""

    def __init__(self, folder: Path, database_url: str, processes: Processes) -> None:
        self._processes = processes
        clock = SystemClock()
        ids = UlidIds(clock)
        self.users = UserTokenIssuer(SECRET, clock=clock, ids=ids)
        key = Ed25519PrivateKey.generate()
        self.payment_rpc = CallerTokens("payment_rpc", clock=clock, ids=ids, private_key=key)
        (folder / "keys").mkdir()
        (folder / "keys" / "payment_rpc.pub.pem").write_bytes(
            key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        )
        (folder / "user.secret").write_bytes(SECRET)
        (folder / "page.secret").write_bytes(b"p" * 32)
        self._env = {
            "PAYMESH_ENVIRONMENT": "test",
            "PAYMESH_VAR_DIR": str(folder),
            "PAYMESH_USER_TOKEN_SECRET_FILE": str(folder / "user.secret"),
            "PAYMESH_CALLER_KEYS_DIR": str(folder / "keys"),
            "PAYMESH_PAGE_TOKEN_SECRET_FILE": str(folder / "page.secret"),
            "ORDER_RPC_DATABASE_URL": database_url,
        }

    @asynccontextmanager
    async def running(
        self, failpoint: str = ""
    ) -> AsyncIterator[tuple[Process, MeshChannel, MeshChannel]]:
        """The process, a channel for people and one of payment_rpc."""
        port = free_port()
        process = self._processes.module(
            "order_rpc",
            env={**self._env, "ORDER_RPC_PORT": str(port), "ORDER_RPC_FAILPOINTS": failpoint},
        )
        await asyncio.to_thread(process.wait_for_log, '"serving"')
        discovery = StaticDiscovery({"order_rpc": [f"127.0.0.1:{port}"]})
        settings = MeshSettings(service="payment_rpc", environment="test")
        channels = [
            MeshChannel("order_rpc", settings=settings, discovery=discovery, caller_tokens=tokens)
            for tokens in (None, self.payment_rpc)
        ]
        try:
            for channel in channels:
                await channel.channel_ready()
            yield process, channels[0], channels[1]
        finally:
            for channel in channels:
                await channel.close()
            await discovery.close()

    def bearer(self, subject: str, role: str = "user") -> tuple[str, str]:
        return "authorization", f"Bearer {self.users.issue(subject, roles=[role])}"


@pytest.fixture
def migrated_url(database_url: str) -> str:
    migrations.upgrade("order_rpc", database_url)
    return database_url


@pytest.fixture
def installation(tmp_path: Path, migrated_url: str, processes: Processes) -> Installation:
    return Installation(tmp_path, migrated_url, processes)


async def dies(process: Process, call: Any) -> None:
    """The call ends without an answer because the process was killed."""
    with pytest.raises((UpstreamUnavailable, RemoteError)):
        await call
    assert await asyncio.to_thread(process.wait) == -signal.SIGKILL


async def test_kill_9_at_each_crash_point_loses_and_doubles_nothing(
    installation: Installation,
) -> None:
    def order_request(channel: MeshChannel) -> Any:
        stub: Any = order_pb2_grpc.OrderServiceStub(channel)
        return stub.CreateOrder(
            order_pb2.CreateOrderRequest(items=[order_pb2.NewOrderItem(sku_id="mug", quantity=2)]),
            metadata=[installation.bearer("u1"), ("idempotency-key", "k")],
        )

    def paid_request(channel: MeshChannel, order_id: str) -> Any:
        stub: Any = order_pb2_grpc.OrderServiceStub(channel)
        payment = order_pb2.PaymentSnapshot(
            payment_id="PAY1",
            version=3,
            state="SUCCESS",
            captured="20.00",
            refunded="0",
            refund_reserved="0",
            currency="CNY",
        )
        return stub.UpdateOrderStatus(
            order_pb2.UpdateOrderStatusRequest(
                merchant_id="mall",
                order_id=order_id,
                status=order_pb2.ORDER_STATE_PAID,
                event_id="EVT-1",
                payment=payment,
            )
        )

    async def stock(channel: MeshChannel) -> tuple[int, int, int]:
        stub: Any = catalog_pb2_grpc.CatalogServiceStub(channel)
        clerk = [installation.bearer("clerk", "merchant")]
        found = (
            await stub.GetProduct(catalog_pb2.GetProductRequest(sku_id="mug"), metadata=clerk)
        ).product.stock
        return found.available, found.reserved, found.sold

    async def orders(channel: MeshChannel) -> list[Any]:
        stub: Any = order_pb2_grpc.OrderServiceStub(channel)
        return list(
            (
                await stub.ListOrders(
                    order_pb2.ListOrdersRequest(), metadata=[installation.bearer("u1")]
                )
            ).orders
        )

    async with installation.running("order.create.before_commit=kill") as (process, people, _):
        catalog: Any = catalog_pb2_grpc.CatalogServiceStub(people)
        await catalog.CreateProduct(
            catalog_pb2.CreateProductRequest(sku_id="mug", name="A mug", price="10", available=10),
            metadata=[installation.bearer("clerk", "merchant")],
        )
        await dies(process, order_request(people))

    async with installation.running("order.create.after_commit=kill") as (process, people, _):
        assert (await stock(people), await orders(people)) == ((10, 0, 0), [])
        await dies(process, order_request(people))

    async with installation.running("order.update_status.before_commit=kill") as (
        process,
        people,
        payment_rpc,
    ):
        [order] = await orders(people)
        assert await stock(people) == (8, 2, 0)
        # the same key finds what the dead process had made
        assert (await order_request(people)).order == order
        assert await stock(people) == (8, 2, 0)
        await dies(process, paid_request(payment_rpc, order.order_id))

    async with installation.running("order.update_status.after_commit=kill") as (
        process,
        people,
        payment_rpc,
    ):
        assert (await orders(people), await stock(people)) == ([order], (8, 2, 0))
        await dies(process, paid_request(payment_rpc, order.order_id))

    async with installation.running() as (process, people, payment_rpc):
        answer = await paid_request(payment_rpc, order.order_id)
        assert (answer.disposition, answer.state) == (
            order_pb2.DISPOSITION_APPLIED,
            order_pb2.ORDER_STATE_PAID,
        )
        [paid] = await orders(people)
        assert (paid.state, paid.paid_payment_id, paid.version, await stock(people)) == (
            order_pb2.ORDER_STATE_PAID,
            "PAY1",
            2,
            (8, 0, 2),
        )
        assert (await order_request(people)).order == order  # the first answer, for ever
        assert await asyncio.to_thread(process.terminate) == 0
