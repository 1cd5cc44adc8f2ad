"""API keys from merchant_rpc through gateways to servers, all of them real: two gateways, two
replicas of each service.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import httpx
import pytest
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from paymesh.order.v1 import order_pb2

from gateway.api_keys import POLL_SECONDS, REFRESH_SECONDS
from merchant_rpc.domain.api_key import ApiKey
from merchant_rpc.domain.merchant import MerchantState
from mesh.api_key_format import ApiKeyKind
from tests.builders.gateway import SECRET, Shop, refused
from tests.builders.merchant_gateways import (
    GATEWAY_KEY,
    Mesh,
    merchant_mesh,
    merchant_server,
    shop_server,
)
from tests.builders.merchant_keys import SIGNING_KEY, KeyWorld, key_world
from tests.support.fakes import EPOCH
from tests.support.processes import Process, Processes

ORDERS = "/api/v1/orders"
LIST_ORDERS = "/paymesh.order.v1.OrderService/ListOrders"
# What gateways do with a key does not depend on the database of merchant_rpc.
pytestmark = pytest.mark.one_database

HOME, AWAY = "203.0.113.7", "198.51.100.9"


@pytest.fixture
async def mesh(database_url: str, tmp_path: Path) -> AsyncIterator[Mesh]:
    async with merchant_mesh(database_url, tmp_path, trusted_proxies=["127.0.0.1"]) as mesh:
        yield mesh


async def every_door(mesh: Mesh, key: str, path: str = ORDERS) -> list[httpx.Response]:
    return [await door.get(path, key) for door in mesh.doors]


async def test_a_key_calls_for_its_merchant_through_every_gateway(mesh: Mesh) -> None:
    _, text = await mesh.create()
    for answer in await every_door(mesh, text):
        assert answer.status_code == 200, answer.text
        assert mesh.shop.request.merchant_id == "acme_test"
    assert text not in repr(mesh.shop.metadata)
    assert mesh.shop.metadata["authorization"].startswith("Bearer eyJ")


async def test_a_revoked_key_is_refused_at_gateways_within_two_seconds(mesh: Mesh) -> None:
    key, text = await mesh.create()
    await every_door(mesh, text)
    await mesh.world.revoke(key)
    mesh.world.clock.advance(POLL_SECONDS * 1.2)
    await mesh.poll()
    assert (mesh.world.clock.now() - EPOCH).total_seconds() < 2
    for answer in await every_door(mesh, text):
        refused(answer, 401, "API_KEY_INVALID")


async def test_a_revoked_key_is_refused_at_servers_within_sixty_seconds(mesh: Mesh) -> None:
    key, text = await mesh.create()
    await mesh.doors[0].get(ORDERS, text)
    token = mesh.shop.metadata["authorization"].removeprefix("Bearer ")
    await mesh.world.revoke(key)
    mesh.world.clock.advance(59)
    for server in mesh.shops:
        await mesh.call_server(server, LIST_ORDERS, order_pb2.ListOrdersRequest(), token)
    mesh.world.clock.advance(1)
    for server in mesh.shops:
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await mesh.call_server(server, LIST_ORDERS, order_pb2.ListOrdersRequest(), token)
        assert refusal.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_key_in_use_is_never_cut_off(mesh: Mesh) -> None:
    _, text = await mesh.create()
    for _ in range(10):
        for answer in await every_door(mesh, text):
            assert answer.status_code == 200
        mesh.world.clock.advance(REFRESH_SECONDS / 2 + 1)


async def test_an_expired_key_is_refused(mesh: Mesh) -> None:
    _, text = await mesh.create(expires_at=EPOCH + timedelta(seconds=10))
    assert {answer.status_code for answer in await every_door(mesh, text)} == {200}
    mesh.world.clock.advance(10)
    for answer in await every_door(mesh, text):
        refused(answer, 401, "API_KEY_INVALID")


async def test_an_unknown_key_is_refused(mesh: Mesh) -> None:
    key, text = await mesh.create()
    async with mesh.world.db.engine.begin() as connection:
        await connection.exec_driver_sql("DELETE FROM api_key")
    for answer in await every_door(mesh, text):
        refused(answer, 401, "API_KEY_INVALID")
    assert key.key_id


async def test_a_key_whose_row_says_another_mode_is_refused(mesh: Mesh) -> None:
    _, text = await mesh.create()
    async with mesh.world.db.engine.begin() as connection:
        await connection.exec_driver_sql("UPDATE api_key SET prefix = 'pmsk_live_abcdef'")
    for answer in await every_door(mesh, text):
        refused(answer, 401, "API_KEY_INVALID")


async def test_a_key_with_a_wrong_checksum_reaches_nobody(mesh: Mesh) -> None:
    _, text = await mesh.create()
    for answer in await every_door(mesh, text.replace("test", "live")):
        refused(answer, 401, "API_KEY_INVALID")
    assert not mesh.shop.requests


async def test_a_key_from_a_forbidden_address_is_refused(mesh: Mesh) -> None:
    _, text = await mesh.create(addresses=["203.0.113.0/24"])
    for door in mesh.doors:
        for _ in range(2):
            good = await door.get(ORDERS, text, **{"x-forwarded-for": HOME})
            assert good.status_code == 200, good.text
            bad = await door.get(ORDERS, text, **{"x-forwarded-for": AWAY})
            refused(bad, 401, "API_KEY_INVALID")


async def test_a_restricted_key_does_what_it_names_and_nothing_else(mesh: Mesh) -> None:
    _, text = await mesh.create(kind=ApiKeyKind.RESTRICTED, scopes=["payments:read"])
    for door in mesh.doors:
        assert (await door.get("/payments/PAY1", text)).status_code == 200
        answer = await door.get(ORDERS, text)
        body = refused(answer, 403, "PERMISSION_DENIED")
        assert "orders:read" in body["details"]["explanation"]


async def test_a_publishable_key_does_what_anybody_may(mesh: Mesh) -> None:
    _, text = await mesh.create(kind=ApiKeyKind.PUBLISHABLE)
    for door in mesh.doors:
        assert (await door.get("/api/v1/products", text)).status_code == 200
        refused(await door.get(ORDERS, text), 403, "PERMISSION_DENIED")


@pytest.mark.parametrize("path", ["/api/v1/merchants", "/api/v1/merchants?page_size=1"])
async def test_a_key_is_no_administrator(mesh: Mesh, path: str) -> None:
    _, text = await mesh.create()
    for door in mesh.doors:
        refused(await door.get(path, text), 403, "PERMISSION_DENIED")


async def test_a_key_says_nothing_about_another_merchant(mesh: Mesh) -> None:
    _, text = await mesh.create()
    for door in mesh.doors:
        answer = await door.get(f"{ORDERS}?merchant_id=shop_test", text)
        assert answer.status_code == 403, answer.text


async def test_a_merchant_that_is_closed_has_no_keys_at_gateways(mesh: Mesh) -> None:
    _, text = await mesh.create()
    await every_door(mesh, text)
    await mesh.world.become("acme_test", MerchantState.SUSPENDED)
    mesh.world.clock.advance(1)
    await mesh.poll()
    assert {answer.status_code for answer in await every_door(mesh, text)} == {200}
    await mesh.world.become("acme_test", MerchantState.CLOSED)
    mesh.world.clock.advance(1)
    await mesh.poll()
    for answer in await every_door(mesh, text):
        refused(answer, 401, "API_KEY_INVALID")


async def test_without_merchant_rpc_warm_keys_live_and_cold_ones_moved_nothing(mesh: Mesh) -> None:
    _, warm = await mesh.create()
    _, cold = await mesh.create()
    await every_door(mesh, warm)
    for server in mesh.merchants:
        await server.stop(0)
    mesh.world.clock.advance(29)
    for answer in await every_door(mesh, warm):
        assert answer.status_code == 200
    for door in mesh.doors:
        answer = await door.client.post(
            "/payment/charge",
            headers={"x-api-key": cold},
            json={"order_id": "O", "amount": "1.00"},
        )
        body = refused(answer, 503, "UNAVAILABLE")
        assert body["details"]["outcome"] == "NOT_ATTEMPTED"
    mesh.world.clock.advance(1)
    for answer in await every_door(mesh, warm):
        refused(answer, 503, "UNAVAILABLE")


async def test_one_replica_of_merchant_rpc_is_enough(mesh: Mesh) -> None:
    await mesh.merchants[0].stop(0)
    _, text = await mesh.create()
    for answer in await every_door(mesh, text):
        assert answer.status_code == 200, answer.text


async def test_a_key_makes_and_revokes_keys_over_http_and_shows_them_once(mesh: Mesh) -> None:
    _, text = await mesh.create()
    door = mesh.doors[0]
    made = await door.client.post(
        "/api/v1/api-keys",
        headers={"x-api-key": text},
        json={"kind": "SECRET", "name": "second"},
    )
    assert made.status_code == 201, made.text
    second = made.json()["data"]
    assert (await door.get(ORDERS, second["key"])).status_code == 200
    listed = await door.get("/api/v1/api-keys", text)
    assert second["key"] not in listed.text
    assert second["api_key"]["key_id"] in listed.text
    gone = await door.client.delete(
        f"/api/v1/api-keys/{second['api_key']['key_id']}", headers={"x-api-key": text}
    )
    assert gone.status_code == 200, gone.text
    await mesh.poll()
    refused(await door.get(ORDERS, second["key"]), 401, "API_KEY_INVALID")


async def test_a_program_exchanges_its_key_by_itself(mesh: Mesh) -> None:
    _, text = await mesh.create()
    answer = await mesh.doors[0].client.post("/api/v1/api-keys:exchange", json={"key": text})
    assert answer.status_code == 200, answer.text
    token = answer.json()["data"]["access_token"]
    for server in mesh.shops:
        await mesh.call_server(server, LIST_ORDERS, order_pb2.ListOrdersRequest(), token)


async def test_programs_that_exchange_keys_are_limited_by_their_address(mesh: Mesh) -> None:
    _, text = await mesh.create()
    answers = [
        await door.client.post(
            "/api/v1/api-keys:exchange",
            json={"key": text[:-1] + "!"},
            headers={"x-forwarded-for": HOME},
        )
        for _ in range(6)
        for door in mesh.doors
    ]
    assert {answer.status_code for answer in answers} == {401, 429}
    other = await mesh.doors[0].client.post(
        "/api/v1/api-keys:exchange", json={"key": text}, headers={"x-forwarded-for": AWAY}
    )
    assert other.status_code == 200, other.text


async def test_nobody_but_a_gateway_exchanges_digests(mesh: Mesh) -> None:
    _, text = await mesh.create()
    await mesh.doors[0].get(ORDERS, text)
    token = mesh.shop.metadata["authorization"].removeprefix("Bearer ")
    for method in ("ExchangeApiKeyDigest", "ListRevocations"):
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await mesh.call_server(
                mesh.merchants[0],
                f"/paymesh.merchant.v1.ApiKeyService/{method}",
                order_pb2.ListOrdersRequest(),
                token,
            )
        assert refusal.value.code() is grpc.StatusCode.PERMISSION_DENIED


@asynccontextmanager
async def gateway_process(
    processes: Processes, folder: Path, port: int, **env: str
) -> AsyncIterator[tuple[KeyWorld, ApiKey, Process]]:
    """Keys, one of acme_test, and `python -m gateway` before servers of this process."""
    async with AsyncExitStack() as stack:
        world = await stack.enter_async_context(key_world(f"sqlite+aiosqlite:///{folder}/m.db"))
        world.clock.set(datetime.now(UTC))
        shop = await shop_server(stack, world, Shop(), folder)
        merchants = await merchant_server(stack, world, folder)
        key = await world.create()
        (folder / "secret").write_bytes(SECRET)
        (folder / "public").mkdir()
        (folder / "public" / "merchant_rpc.pub.pem").write_bytes(
            SIGNING_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        )
        targets = {
            "payment_rpc": [f"127.0.0.1:{shop.port}"],
            "order_rpc": [f"127.0.0.1:{shop.port}"],
            "merchant_rpc": [f"127.0.0.1:{merchants.port}"],
        }
        process = processes.module(
            "gateway",
            env={
                "GATEWAY_PORT": str(port),
                "PAYMESH_STATIC_TARGETS": json.dumps(targets),
                "PAYMESH_VAR_DIR": str(folder),
                "PAYMESH_USER_TOKEN_SECRET_FILE": str(folder / "secret"),
                "PAYMESH_CALLER_KEYS_DIR": str(folder / "public"),
                **env,
            },
        )
        await asyncio.to_thread(
            process.wait_for_http, f"http://127.0.0.1:{port}/readyz?service=order_rpc"
        )
        yield world, key, process


async def test_a_gateway_process_exchanges_keys_in_its_own_name(
    processes: Processes, free_ports: Callable[[int], list[int]], tmp_path: Path
) -> None:
    [port] = free_ports(1)
    own = tmp_path / "gateway.pem"
    own.write_bytes(GATEWAY_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    async with (
        gateway_process(processes, tmp_path, port, GATEWAY_CALLER_KEY_FILE=str(own)) as (
            world,
            key,
            process,
        ),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
    ):
        text = world.shown[key.key_id]
        headers = {"authorization": f"Bearer {text}"}
        answer = await client.get(ORDERS, headers=headers)
        assert answer.status_code == 200, answer.text + process.log_text()
        await world.revoke(key)
        # It asks by itself. A token would be believed for longer than this.
        async with asyncio.timeout(15):
            while (await client.get(ORDERS, headers=headers)).status_code == 200:
                pass
        refused(await client.get(ORDERS, headers=headers), 401, "API_KEY_INVALID")
        assert process.terminate() == 0
        assert text[10:40] not in process.log_text()


async def test_a_gateway_process_without_a_key_of_its_own_refuses_api_keys_and_says_so(
    processes: Processes, free_ports: Callable[[int], list[int]], tmp_path: Path
) -> None:
    [port] = free_ports(1)
    async with (
        gateway_process(processes, tmp_path, port) as (world, key, process),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
    ):
        headers = {"x-api-key": world.shown[key.key_id]}
        refused(await client.get(ORDERS, headers=headers), 401, "API_KEY_INVALID")
        assert (await client.get("/api/v1/products")).status_code == 200
        assert process.terminate() == 0
        assert '"missing":"caller_key_file"' in process.log_text()
