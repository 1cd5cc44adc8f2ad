"""Several gateways before several replicas of a shop and of merchant_rpc, all real, on one clock
that tests move.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from paymesh.merchant.v1 import api_key_pb2_grpc

from gateway.api_keys import ApiKeys as GatewayKeys
from gateway.app import Gateway
from gateway.merchant_keys import MerchantKeys
from gateway.server import GatewayServer
from gateway.settings import GatewaySettings
from gateway.telemetry import Telemetry
from merchant_rpc.domain.api_key import ApiKey
from merchant_rpc.servicer.api_keys import ApiKeyServicer
from mesh.auth import UserTokens
from mesh.caller_tokens import CallerTokens
from mesh.client import MeshChannel
from mesh.discovery.static import StaticDiscovery
from mesh.jwks import Key, secret_key
from mesh.server import MeshServer
from mesh.settings import MeshSettings
from tests.builders.gateway import SCHEMA, SECRET, Shop
from tests.builders.merchant_keys import SIGNING_KEY, KeyWorld, exchanges_of, key_world
from tests.support.fakes import FakeIds

GATEWAY_KEY = Ed25519PrivateKey.from_private_bytes(b"names the gateways to merchants.")
REPLICAS = 2


@dataclass(slots=True)
class Door:
    """One gateway."""

    client: httpx.AsyncClient
    keys: GatewayKeys

    async def get(self, path: str, key: str, **headers: str) -> httpx.Response:
        """A request with an API key."""
        return await self.client.get(path, headers={"x-api-key": key, **headers})


@dataclass(slots=True)
class Mesh:
    """What a test holds in its hands."""

    world: KeyWorld
    shop: Shop
    doors: list[Door]
    shops: list[MeshServer]
    merchants: list[MeshServer]

    async def create(self, **options: Any) -> tuple[ApiKey, str]:
        """A key of acme_test, and its text."""
        key = await self.world.create(**options)
        return key, self.world.shown[key.key_id]

    async def poll(self) -> None:
        """The next question of each gateway for what was revoked."""
        for door in self.doors:
            await door.keys.poll_once()

    async def call_server(self, server: MeshServer, path: str, request: Any, token: str) -> bytes:
        """A call with a token, past the gateways. Raises grpc.aio.AioRpcError."""
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            call: Any = channel.unary_unary(path)
            answer: bytes = await call(
                request.SerializeToString(),
                metadata=(("authorization", f"Bearer {token}"),),
                timeout=10,
            )
            return answer


@asynccontextmanager
async def merchant_mesh(url: str, folder: Path, **settings: Any) -> AsyncIterator[Mesh]:
    """Two gateways, two replicas of the shop and two of merchant_rpc."""
    async with AsyncExitStack() as stack:
        world = await stack.enter_async_context(key_world(url))
        shop = Shop()
        shops = [await shop_server(stack, world, shop, folder) for _ in range(REPLICAS)]
        merchants = [await merchant_server(stack, world, folder) for _ in range(REPLICAS)]
        discovery = StaticDiscovery(
            {
                service: [
                    f"127.0.0.1:{server.port}"
                    for server in (merchants if service == "merchant_rpc" else shops)
                ]
                for service in SCHEMA.served_by
            }
        )
        stack.push_async_callback(discovery.close)
        doors = [await _door(stack, world, discovery, folder, settings) for _ in range(REPLICAS)]
        yield Mesh(world=world, shop=shop, doors=doors, shops=shops, merchants=merchants)


def user_tokens(world: KeyWorld) -> UserTokens:
    """Of one process: believes the identity provider of the tests, and merchant_rpc."""
    return UserTokens(
        {"": secret_key(SECRET)},
        own_keys={"merchant_rpc": Key("EdDSA", SIGNING_KEY.public_key())},
        clock=world.clock,
        issuer="paymesh",
        monotonic=world.seconds,
    )


async def _serving(stack: AsyncExitStack, server: MeshServer) -> MeshServer:
    await server.start()
    stack.push_async_callback(server.stop, 0)
    return server


async def shop_server(
    stack: AsyncExitStack, world: KeyWorld, shop: Shop, folder: Path
) -> MeshServer:
    """A replica of the shop, until the stack ends."""
    server = MeshServer(
        _settings("payment_rpc", folder),
        clock=world.clock,
        ids=FakeIds(),
        user_tokens=user_tokens(world),
    )
    shop.add_to(server)
    return await _serving(stack, server)


async def merchant_server(stack: AsyncExitStack, world: KeyWorld, folder: Path) -> MeshServer:
    """A replica of merchant_rpc that believes gateways, until the stack ends."""
    server = MeshServer(
        _settings("merchant_rpc", folder),
        clock=world.clock,
        ids=FakeIds(),
        user_tokens=user_tokens(world),
        caller_tokens=CallerTokens(
            "merchant_rpc",
            clock=world.clock,
            ids=FakeIds(),
            public_keys={"gateway": GATEWAY_KEY.public_key()},
            monotonic=world.seconds,
        ),
    )
    server.add(
        api_key_pb2_grpc.add_ApiKeyServiceServicer_to_server,
        ApiKeyServicer(keys=world.keys, exchanges=exchanges_of(world)),
    )
    return await _serving(stack, server)


def _settings(service: str, folder: Path) -> MeshSettings:
    return MeshSettings(
        service=service,
        environment="test",
        var_dir=folder,
        drain_seconds=0,
        log_level="WARNING",
    )


async def _door(
    stack: AsyncExitStack,
    world: KeyWorld,
    discovery: StaticDiscovery,
    folder: Path,
    settings: dict[str, Any],
) -> Door:
    options = GatewaySettings(
        environment="test",
        port=0,
        var_dir=folder,
        drain_seconds=0,
        grace_seconds=5,
        **settings,
    )
    own = CallerTokens(
        "gateway",
        clock=world.clock,
        ids=FakeIds(),
        private_key=GATEWAY_KEY,
        monotonic=world.seconds,
    )
    channels = {
        service: MeshChannel(
            service, settings=options, discovery=discovery, pool=SCHEMA.pool, fail_fast_seconds=0.2
        )
        for service in SCHEMA.served_by
    }
    for_keys = MeshChannel(
        "merchant_rpc",
        settings=options,
        discovery=discovery,
        caller_tokens=own,
        fail_fast_seconds=0.2,
    )
    for channel in (*channels.values(), for_keys):
        stack.push_async_callback(channel.close)
    keys = GatewayKeys(MerchantKeys(for_keys), clock=world.clock, now=world.seconds)
    stack.push_async_callback(keys.close)
    gateway = GatewayServer(
        Gateway(
            SCHEMA,
            settings=options,
            upstreams=channels,
            user_tokens=user_tokens(world),
            telemetry=Telemetry(clock=world.clock, log_level="ERROR"),
            api_keys=keys,
        ),
        options,
    )
    await gateway.start()
    stack.push_async_callback(gateway.stop)
    client = httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{gateway.port}", timeout=10, trust_env=False
    )
    stack.push_async_callback(client.aclose)
    for channel in (*channels.values(), for_keys):
        await channel.channel_ready()
    return Door(client=client, keys=keys)
