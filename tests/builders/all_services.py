"""Every servicer behind one port, and requests of every kind of caller."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import MethodDescriptor
from paymesh.merchant.v1 import api_key_pb2, member_pb2, merchant_pb2, session_pb2
from paymesh.options.v1 import options_pb2
from paymesh.order.v1 import allocation_pb2, catalog_pb2, order_pb2, order_pb2_grpc, statistics_pb2
from paymesh.payment.v1 import (
    callback_pb2,
    channel_account_pb2,
    ledger_pb2,
    payment_pb2,
    reconciliation_pb2,
    refund_pb2,
)
from paymesh.seckill.v1 import activity_pb2, seckill_pb2

import order_rpc.app
from merchant_rpc.domain.member import MemberRole
from mesh.auth import CallerTokens, OwnTokenSigner, TokenIssuer, UserTokenIssuer, UserTokens
from mesh.call import Role
from mesh.client import MeshChannel
from mesh.discovery.static import StaticDiscovery
from mesh.jwks import Key, secret_key
from mesh.paging import PageTokens
from mesh.scopes import SCOPES
from mesh.server import MeshServer
from mesh.settings import MeshSettings
from mesh.token_issuers import CHECKOUT, ISSUERS, MERCHANTS, OPERATORS
from mesh.wire_errors import from_rpc_error
from order_rpc.app import OrderConfig
from order_rpc.clients import Payments
from tests.builders.holding_channel import HoldingChannel, holding
from tests.builders.merchant_rows import MerchantRows, merchant_rows
from tests.builders.order import PAYMENT_WINDOW
from tests.builders.payment import PaymentWorld, payment_world
from tests.builders.seckill_order import seckill_order_world
from tests.support.echo import plain_channel
from tests.support.fakes import EPOCH, FakeClock, FakeIds
from tests.support.sources import ROOT

SERVICES = ("payment_rpc", "order_rpc", "seckill_rpc")
MERCHANT_RPC = "merchant_rpc"


MODULES = (
    payment_pb2,
    callback_pb2,
    channel_account_pb2,
    refund_pb2,
    ledger_pb2,
    reconciliation_pb2,
    # importing them fills the pool
    order_pb2,
    catalog_pb2,
    allocation_pb2,
    statistics_pb2,
    activity_pb2,
    seckill_pb2,
    merchant_pb2,
    member_pb2,
    session_pb2,
    api_key_pb2,
)


SECRET, FOREIGN_SECRET = b"user tokens of the access matrix", b"user tokens of somebody else ..."


NAMES = ("payment_rpc", "order_rpc", "seckill_rpc", "merchant_rpc", "gateway")
MERCHANT, OTHER_MERCHANT = "acme", "globex"
ORDER, OTHER_ORDER = "ORD01ARZ3NDEKTSV4RRFFQ69G5FAV", "ORD01ARZ3NDEKTSV4RRFFQ69G5FAW"


ROLES = {
    options_pb2.ROLE_USER: "user",
    options_pb2.ROLE_MERCHANT: "merchant",
    options_pb2.ROLE_ADMIN: "admin",
}


UNAUTHENTICATED, PERMISSION_DENIED, NOT_FOUND = 16, 7, 5
# Reasons of refusals for want of rights; others with these codes come from use cases.
OF_TOKENS = frozenset({"UNAUTHENTICATED", "TOKEN_EXPIRED", "TOKEN_INVALID", "PERMISSION_DENIED"})


Metadata = list[tuple[str, str]]


@dataclass(frozen=True)
class Kind:
    """One kind of caller: what it shows, and as what it is known."""

    name: str
    metadata: Metadata
    roles: frozenset[str] = frozenset()  # of a person
    service: str = ""  # of a caller token for this server
    is_known: bool = False  # somebody, whoever it is
    scopes: frozenset[str] | None = None  # as the token has them; None: it is not limited
    order_id: str = ""  # of a checkout token
    is_broken: bool = False  # shows something that no server takes


def contract(*served: str) -> list[MethodDescriptor]:
    """Every method that the contract gives to these processes, to all in SERVICES by default."""
    files = descriptor_pb2.FileDescriptorSet.FromString(
        (ROOT / "generated/paymesh/descriptors.binpb").read_bytes()
    )
    assert MODULES
    names = [
        f"{file.package}.{service.name}"
        for file in files.file
        if file.package.startswith("paymesh.")
        for service in file.service
    ]
    services = [descriptor_pool.Default().FindServiceByName(name) for name in names]
    assert {served_by(service) for service in services} == {*SERVICES, MERCHANT_RPC}
    return [
        method
        for service in services
        if served_by(service) in (served or SERVICES)
        for method in service.methods
    ]


def served_by(service: Any) -> str:
    return str(service.GetOptions().Extensions[options_pb2.served_by])


def policy(method: MethodDescriptor) -> Any:
    return method.GetOptions().Extensions[options_pb2.policy]


class Tokens:
    """Everybody's keys."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock, self.ids = clock, FakeIds()
        self.keys = {name: Ed25519PrivateKey.generate() for name in NAMES}
        issuers = {name: self.keys.get(name) or Ed25519PrivateKey.generate() for name in ISSUERS}
        self.users = UserTokens(
            {"": secret_key(SECRET)},
            clock=clock,
            issuer="paymesh",
            own_keys={name: Key("EdDSA", key.public_key()) for name, key in issuers.items()},
        )
        self._signers = {
            name: OwnTokenSigner(ISSUERS[name], key, clock=clock, ids=self.ids)
            for name, key in issuers.items()
        }

    def of(self, service: str, *, key: Ed25519PrivateKey | None = None) -> CallerTokens:
        return CallerTokens(
            service,
            clock=self.clock,
            ids=self.ids,
            private_key=key or self.keys[service],
            public_keys={name: known.public_key() for name, known in self.keys.items()},
        )

    def bearer(
        self,
        *roles: str,
        secret: bytes = SECRET,
        clock: FakeClock | None = None,
        subject: str = "u1",
        merchant_id: str = "mall",
    ) -> tuple[str, str]:
        issuer = UserTokenIssuer(secret, clock=clock or self.clock, ids=self.ids)
        return (
            "authorization",
            f"Bearer {issuer.issue(subject, roles=roles, merchant_id=merchant_id)}",
        )

    def caller(
        self, service: str, target: str, *, key: Ed25519PrivateKey | None = None
    ) -> tuple[str, str]:
        return "x-paymesh-caller", self.of(service, key=key).sign(target)

    def _own(self, issuer: TokenIssuer, subject: str, **claims: Any) -> tuple[str, str]:
        token = self._signers[issuer.key_id].sign(subject, lifetime_seconds=60, **claims)
        return "authorization", f"Bearer {token}"

    def key(
        self,
        *scopes: str,
        name: str = "a key",
        subject: str = "key:",
        publishable: bool = False,
        merchant_id: str = MERCHANT,
        session_id: str = "",
    ) -> Kind:
        """A key or member of a merchant, another one in each call: none meets the limit of one
        before it. A subject with an id is that one.
        """
        roles = [] if publishable else [Role.MERCHANT]
        bearer = self._own(
            MERCHANTS,
            self.ids.new(subject) if subject.endswith(":") else subject,
            merchant_id=merchant_id,
            session_id=session_id,
            roles=roles,
            scopes=scopes,
        )
        return Kind(
            f"{name} with {' '.join(scopes) or 'no scope'}",
            [bearer],
            roles=frozenset(role.value for role in roles),
            is_known=True,
            scopes=frozenset(scopes),
        )

    def checkout(self) -> Kind:
        """The buyer of ORDER."""
        bearer = self._own(
            CHECKOUT, f"ext:{ORDER}", merchant_id=MERCHANT, roles=[Role.USER], order_id=ORDER
        )
        return Kind(
            "a checkout token",
            [bearer],
            roles=frozenset({"user"}),
            is_known=True,
            order_id=ORDER,
        )

    def operator(self) -> Kind:
        """One of our staff, by a token of our own."""
        bearer = self._own(OPERATORS, "operator:M1", merchant_id="", roles=[Role.ADMIN])
        return Kind("an operator", [bearer], roles=frozenset({"admin"}), is_known=True)

    def limited_kinds(self, target: str, scopes: Collection[str]) -> list[Kind]:
        """Callers whose token may do less than its role, for a method that needs some scopes."""
        everything = sorted(SCOPES)
        checkout = self.checkout()
        forwarded = replace(
            checkout,
            name="order_rpc with a checkout token",
            metadata=[*checkout.metadata, self.caller("order_rpc", target)],
            service="order_rpc",
        )
        nothing = self.key()
        return [
            self.key(*everything),
            self.key(*everything, name="a member", subject="member:"),
            *(
                self.key(*role.scopes, name=f"a member who is {role}", subject="member:")
                for role in MemberRole
            ),
            self.key(*scopes),
            self.key(*(scope.replace(":read", ":write") for scope in scopes)),
            nothing,
            replace(
                nothing,
                name="order_rpc with a key without scopes",
                metadata=[*nothing.metadata, self.caller("order_rpc", target)],
                service="order_rpc",
            ),
            *(
                self.key(*(scope for scope in everything if not _grants(scope, missing)))
                for missing in scopes
            ),
            *(
                self.key(*(scope.replace(":write", ":read") for scope in scopes))
                for _ in range(any(scope.endswith(":write") for scope in scopes))
            ),
            self.key(name="a publishable key", publishable=True),
            checkout,
            forwarded,
            self.operator(),
        ]

    def kinds(self, target: str) -> list[Kind]:
        """Every kind of caller of one server."""
        past = FakeClock(EPOCH - timedelta(hours=2))
        everybody = frozenset({"user", "merchant", "admin"})
        user = self.bearer("user")
        return [
            Kind("nobody", []),
            *(
                Kind(role, [self.bearer(role)], roles=frozenset({role}), is_known=True)
                for role in sorted(everybody)
            ),
            Kind("everything at once", [self.bearer(*everybody)], roles=everybody, is_known=True),
            Kind("no role", [self.bearer()], is_known=True),
            Kind(
                "claims to be a service",
                [
                    self.bearer(
                        "service", "order_rpc", "payment_rpc", "public", "root", "ADMIN", "*"
                    )
                ],
                is_known=True,
            ),
            *(
                Kind(name, [self.caller(name, target)], service=name, is_known=True)
                for name in NAMES
            ),
            *(
                Kind(
                    f"{name} for a user",
                    [user, self.caller(name, target)],
                    roles=frozenset({"user"}),
                    service=name,
                    is_known=True,
                )
                for name in NAMES
            ),
            *(
                Kind(
                    f"{name} with a token for another service",
                    [self.caller(name, other)],
                    is_broken=True,
                )
                for name in SERVICES
                for other in NAMES
                if other != target
            ),
            Kind(
                "a stranger's key under a known name",
                [self.caller("order_rpc", target, key=Ed25519PrivateKey.generate())],
                is_broken=True,
            ),
            Kind(
                "a forged user token", [self.bearer("admin", secret=FOREIGN_SECRET)], is_broken=True
            ),
            Kind("an expired user token", [self.bearer("admin", clock=past)], is_broken=True),
            Kind(
                "a caller token as a user",
                [("authorization", f"Bearer {self.caller('order_rpc', target)[1]}")],
                is_broken=True,
            ),
            Kind(
                "a user token as a caller",
                [("x-paymesh-caller", self.bearer("admin")[1].removeprefix("Bearer "))],
                is_broken=True,
            ),
            Kind(
                "a good user with a bad caller token",
                [user, ("x-paymesh-caller", "x.y.z")],
                is_broken=True,
            ),
            Kind("not a token", [("authorization", "Bearer null")], is_broken=True),
        ]


def _grants(scope: str, wanted: str) -> bool:
    return scope == wanted or scope == wanted.replace(":read", ":write")


async def code_of(
    channel: grpc.aio.Channel, method: MethodDescriptor, kind: Kind, /, **fields: Any
) -> int:
    """The code with which a call with an empty request, or with these fields alone, ends; 0 for a
    stream that has begun, and for a caller whom the use case refuses by a reason of its own
    (PERSON_REQUIRED, LOGIN_FAILED): his token let him in.
    """
    make: Any = channel.unary_stream if method.server_streaming else channel.unary_unary
    request, answer = (
        message_factory.GetMessageClass(method.input_type),
        message_factory.GetMessageClass(method.output_type),
    )
    stub = make(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=request.SerializeToString,
        response_deserializer=answer.FromString,
    )
    call = stub(request(**fields), metadata=kind.metadata, timeout=10)
    try:
        await (call.read() if method.server_streaming else call)
    except grpc.aio.AioRpcError as refusal:
        if method.server_streaming and refusal.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return 0  # nobody refused it: it waits for something to tell
        error: Any = from_rpc_error(refusal)
        if (
            error.grpc_code in (UNAUTHENTICATED, PERMISSION_DENIED)
            and error.reason not in OF_TOKENS
        ):
            return 0
        return int(error.grpc_code)
    finally:
        call.cancel()
    return 0


@dataclass
class Servers:
    """The servers with their real servicers."""

    world: PaymentWorld
    rows: MerchantRows
    tokens: Tokens
    running: dict[str, MeshServer]
    channels: dict[str, grpc.aio.Channel]
    holding: HoldingChannel | None = None

    async def call(self, method: MethodDescriptor, kind: Kind, /, **fields: Any) -> int:
        """The code with which a call with an empty request, or with these fields alone, ends."""
        channel = self.channels[served_by(method.containing_service)]
        return await code_of(channel, method, kind, **fields)


@asynccontextmanager
async def running(
    folder: Path, redis_url: str = "", *, environment: str = "test", holds: bool = False
) -> AsyncIterator[Servers]:
    """Every server on databases of its own; seckill_rpc only with a Redis. `holds`: the channel of
    every shop can hold money.
    """
    async with AsyncExitStack() as stack:
        world = await stack.enter_async_context(
            payment_world(
                f"sqlite+aiosqlite:///{folder / 'payment.db'}",
                f"sqlite+aiosqlite:///{folder / 'order.db'}",
                folder,
            )
        )
        channel = holding(world) if holds else None
        apps: dict[str, Any] = {"payment_rpc": world.app, "order_rpc": world.order_side.real}
        if redis_url:
            seckill = await stack.enter_async_context(
                seckill_order_world(
                    f"sqlite+aiosqlite:///{folder / 'seckill.db'}",
                    f"sqlite+aiosqlite:///{folder / 'shelf.db'}",
                    redis_url,
                )
            )
            apps["seckill_rpc"] = seckill.app
        rows = await stack.enter_async_context(merchant_rows(folder, world.clock))
        apps[MERCHANT_RPC] = rows.world.app
        tokens = Tokens(world.clock)
        servers = Servers(
            world=world, rows=rows, tokens=tokens, running={}, channels={}, holding=channel
        )
        for service, app in apps.items():
            settings = MeshSettings(
                service=service, environment=environment, port=0, var_dir=folder
            )
            server = MeshServer(
                settings,
                clock=world.clock,
                ids=world.ids,
                user_tokens=tokens.users,
                caller_tokens=tokens.of(service),
            )
            app.add_to(server)
            await server.start()
            stack.push_async_callback(server.stop, 0)
            servers.running[service] = server
            servers.channels[service] = await stack.enter_async_context(plain_channel(server.port))
        yield servers


@asynccontextmanager
async def order_rpc_before(servers: Servers) -> AsyncIterator[Any]:
    """A stub of an order_rpc that reaches the running payment_rpc over the wire."""
    side, tokens = servers.world.order_side, servers.tokens
    settings = MeshSettings(
        service="order_rpc", environment="test", port=0, var_dir=servers.world.folder
    )
    discovery = StaticDiscovery(
        {"payment_rpc": [f"127.0.0.1:{servers.running['payment_rpc'].port}"]}
    )
    server = MeshServer(
        settings,
        clock=side.clock,
        ids=side.ids,
        user_tokens=tokens.users,
        caller_tokens=tokens.of("order_rpc"),
    )
    async with MeshChannel(
        "payment_rpc", settings=settings, discovery=discovery, caller_tokens=tokens.of("order_rpc")
    ) as payments:
        order_rpc.app.OrderApp(
            db=side.db,
            clock=side.clock,
            ids=side.ids,
            page_tokens=PageTokens(b"p" * 32),
            redis=None,
            payments=Payments(payments),
            seckill=side.seckill_rpc,
            config=OrderConfig(payment_window=PAYMENT_WINDOW, scan_interval_seconds=1),
        ).add_to(server)
        await server.start()
        try:
            async with plain_channel(server.port) as channel:
                yield order_pb2_grpc.OrderServiceStub(channel)
        finally:
            await server.stop(0)
