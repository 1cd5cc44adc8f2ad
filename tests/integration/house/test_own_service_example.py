"""The runnable caller in examples/: a service that the contract does not know, let in by a setting
for one method.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from paymesh.payment.v1 import payment_pb2, payment_pb2_grpc

from examples.own_service import CallerToken
from mesh.clock import SystemClock
from mesh.ids import UlidIds
from mesh.policies import PolicyInvalid
from mesh.server import MeshServer
from mesh.settings import MeshSettings
from tests.builders.payment import PaymentWorld
from tests.support.echo import Echo, World
from tests.support.processes import Processes

METHOD = "paymesh.payment.v1.PaymentService/GetPaymentByOrderId"


def make_key(folder: Path, name: str) -> Path:
    key = Ed25519PrivateKey.generate()
    (folder / "public").mkdir(exist_ok=True)
    (folder / f"{name}.pem").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    (folder / "public" / f"{name}.pub.pem").write_bytes(
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    return folder / f"{name}.pem"


@asynccontextmanager
async def payment_rpc(
    world: PaymentWorld, folder: Path, extra_callers: dict[str, list[str]]
) -> AsyncIterator[MeshServer]:
    settings = MeshSettings(
        service="payment_rpc",
        environment="test",
        drain_seconds=0,
        caller_keys_dir=folder / "public",
        extra_callers=extra_callers,
    )
    clock = SystemClock()
    server = MeshServer(settings, clock=clock, ids=UlidIds(clock))
    world.app.add_to(server)
    await server.start()
    try:
        yield server
    finally:
        await server.stop(0)


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
async def test_a_service_of_ones_own_reads_a_payment(
    world: PaymentWorld, tmp_path: Path, processes: Processes
) -> None:
    key = make_key(tmp_path, "billing")
    order = await world.order("99.99")
    payment = await world.charge(order)
    async with payment_rpc(world, tmp_path, {"billing": [METHOD]}) as server:
        process = processes.module(
            "examples.own_service",
            "--key",
            str(key),
            "--target",
            f"127.0.0.1:{server.port}",
            order.order_id,
        )
        await asyncio.to_thread(
            process.wait_for_log,
            f"{order.order_id} {payment.payment_id} PAYMENT_STATE_SUCCESS 99.99 CNY",
        )


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("extra", "code"),
    [
        ({}, "PERMISSION_DENIED"),
        ({"billing": ["paymesh.payment.v1.PaymentService/ListPayments"]}, "PERMISSION_DENIED"),
        ({"other": [METHOD]}, "PERMISSION_DENIED"),
        ({"billing": ["paymesh.order.v1.OrderService/GetOrder"]}, "PERMISSION_DENIED"),
    ],
    ids=["nobody", "another method", "another caller", "another service"],
)
async def test_it_may_call_what_the_setting_names_and_nothing_else(
    world: PaymentWorld, tmp_path: Path, extra: dict[str, list[str]], code: str
) -> None:
    key = make_key(tmp_path, "billing")
    async with (
        payment_rpc(world, tmp_path, extra) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        token = CallerToken("billing", "payment_rpc", key.read_bytes())
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await payment_pb2_grpc.PaymentServiceStub(channel).GetPaymentByOrderId(
                payment_pb2.GetPaymentByOrderIdRequest(order_id="ORD1"), metadata=token.metadata()
            )
        assert refused.value.code().name == code


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
async def test_a_service_whose_key_is_not_there_is_nobody(
    world: PaymentWorld, tmp_path: Path
) -> None:
    key = make_key(tmp_path, "billing")
    (tmp_path / "public" / "billing.pub.pem").unlink()
    async with (
        payment_rpc(world, tmp_path, {"billing": [METHOD]}) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await payment_pb2_grpc.PaymentServiceStub(channel).GetPaymentByOrderId(
                payment_pb2.GetPaymentByOrderIdRequest(order_id="ORD1"),
                metadata=CallerToken("billing", "payment_rpc", key.read_bytes()).metadata(),
            )
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize(
    ("extra", "problem"),
    [
        ({"billing": ["paymesh.testing.v1.EchoService/Nothing"]}, "no method"),
        ({"billing": ["paymesh.testing.v1.EchoService/Write"]}, "no service"),
        ({"billing": ["EchoService"]}, "is not <package>"),
        ({"Billing!": ["paymesh.testing.v1.EchoService/Command"]}, "no name"),
        ({"billing": ["paymesh.testing.v1.EchoService/*"]}, "is not <package>"),
    ],
)
async def test_a_setting_that_names_nothing_real_stops_the_start(
    tmp_path: Path, extra: dict[str, Any], problem: str
) -> None:
    server = World(tmp_path).server(Echo(), extra_callers=extra)
    try:
        with pytest.raises(PolicyInvalid, match=problem):
            await server.start()
    finally:
        await server.stop(0)
