"""The service of tests/protos/echo.proto: its messages, a servicer that says what the pipeline told
it, and a server around it.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_tools import protoc
from paymesh.options.v1 import options_pb2  # noqa: F401 - puts what echo.proto imports into the pool

from mesh.auth import CallerTokens, OwnTokenSigner, TokenIssuer, UserTokenIssuer, UserTokens
from mesh.call import current_call, current_caller, current_idempotency_key, current_trace_id
from mesh.clock import SystemClock
from mesh.ids import UlidIds
from mesh.jwks import Key, secret_key
from mesh.server import MeshServer
from mesh.settings import MeshSettings
from mesh.token_issuers import ISSUERS

PACKAGE = "paymesh.testing.v1"
SERVICE = f"{PACKAGE}.EchoService"
SECRET = b"s" * 32
_PROTOS = Path(__file__).parents[1] / "protos"
_DESCRIPTORS = _PROTOS.parents[1] / "generated" / "paymesh" / "descriptors.binpb"


@cache
def compiled(proto: str) -> descriptor_pb2.FileDescriptorProto:
    """A file of tests/protos, compiled against the committed contract."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.binpb"
        arguments = [
            "protoc",
            f"--descriptor_set_in={_DESCRIPTORS}",
            f"-I{_PROTOS}",
            f"--descriptor_set_out={out}",
            proto,
        ]
        assert protoc.main(arguments) == 0
        [file] = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
    return file


@cache
def echo_file() -> Any:
    """Compiles echo.proto into the default pool, as a generated module would."""
    import paymesh.validate_rules  # noqa: F401 - as above

    pool = descriptor_pool.Default()
    pool.AddSerializedFile(compiled("echo.proto").SerializeToString())
    # mesh.wire_errors imports <package>.errors_pb2 to find its reasons, as for every service.
    sys.modules.setdefault(f"{PACKAGE}.errors_pb2", ModuleType("errors_pb2"))
    for name in ("paymesh.testing", PACKAGE):
        package = sys.modules.setdefault(name, ModuleType(name))
        package.__path__ = []
    return pool.FindFileByName("echo.proto")


def message(name: str) -> Any:
    """A message class of echo.proto."""
    return message_factory.GetMessageClass(echo_file().message_types_by_name[name])


EchoRequest = message("EchoRequest")
EchoResponse = message("EchoResponse")
Inner = message("Inner")


def path(method: str) -> str:
    return f"/{SERVICE}/{method}"


class Stub:
    """What protoc would generate: `await Stub(channel).Own(EchoRequest(...))`."""

    def __init__(self, channel: Any) -> None:
        for method in echo_file().services_by_name["EchoService"].methods:
            make = channel.unary_stream if method.server_streaming else channel.unary_unary
            setattr(
                self,
                method.name,
                make(
                    f"/{SERVICE}/{method.name}",
                    request_serializer=EchoRequest.SerializeToString,
                    response_deserializer=EchoResponse.FromString,
                    _registered_method=True,
                ),
            )

    if TYPE_CHECKING:

        def __getattr__(self, method: str) -> Any:
            """Each method of the service; a type checker cannot know their names."""


class Echo:
    """Answers every method with what it sees; `do` runs inside, to raise or to wait."""

    def __init__(self, do: Callable[[Any, Any], Awaitable[None]] | None = None) -> None:
        self.do = do
        self.calls: list[str] = []

    async def answer(self, method: str, request: Any, context: Any) -> Any:
        self.calls.append(method)
        if self.do is not None:
            await self.do(request, context)
        caller, call = current_caller(), current_call()
        assert call is not None
        return EchoResponse(
            text=request.text,
            user_id=request.user_id,
            merchant_id=request.merchant_id,
            role=caller.role.value,
            subject=caller.subject,
            key=current_idempotency_key(),
            trace_id=current_trace_id(),
            remaining_ms=int(call.remaining_seconds() * 1000),
            on_behalf_of=caller.on_behalf_of,
            note=request.inner.note,
            order_id=request.order_id,
            client_address=call.client_address,
        )


def add_echo(
    servicer: Echo,
    server: Any,
    *,
    service: str = "EchoService",
    leave_out: Sequence[str] = (),
    registered: bool = True,
) -> None:
    """What protoc generates as add_EchoServiceServicer_to_server."""
    handlers = {}
    for method in echo_file().services_by_name[service].methods:
        if method.name in leave_out:
            continue
        make = (
            grpc.unary_stream_rpc_method_handler
            if method.server_streaming
            else grpc.unary_unary_rpc_method_handler
        )
        handlers[method.name] = make(
            _behaviour(servicer, method),
            request_deserializer=EchoRequest.FromString,
            response_serializer=EchoResponse.SerializeToString,
        )
    full_name = f"{PACKAGE}.{service}"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(full_name, handlers),))
    if registered:
        server.add_registered_method_handlers(full_name, handlers)


def _behaviour(servicer: Echo, method: Any) -> Any:
    name = method.name

    async def unary(request: Any, context: Any) -> Any:
        return await servicer.answer(name, request, context)

    async def stream(request: Any, context: Any) -> Any:
        for number in range(request.times):
            answer = await servicer.answer(name, request, context)
            answer.text = str(number)
            yield answer

    return stream if method.server_streaming else unary


class World:
    """Keys, tokens and settings of a small mesh."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = SystemClock()
        self.ids = UlidIds(self.clock)
        self.issuer = UserTokenIssuer(SECRET, clock=self.clock, ids=self.ids)
        self.keys = {
            name: Ed25519PrivateKey.generate()
            for name in ("order_rpc", "payment_rpc", "echo_rpc", "stranger")
        }
        self.own_keys = {name: Ed25519PrivateKey.generate() for name in ISSUERS}
        self.user_tokens = UserTokens(
            {"": secret_key(SECRET)},
            clock=self.clock,
            issuer="paymesh",
            own_keys={name: Key("EdDSA", key.public_key()) for name, key in self.own_keys.items()},
        )

    def settings(self, **changes: Any) -> MeshSettings:
        return MeshSettings(
            **{
                "service": "echo_rpc",
                "environment": "test",
                "var_dir": self.folder,
                "drain_seconds": 0,
                **changes,
            }
        )

    def caller_tokens(
        self, service: str, *, known: Sequence[str] = ("order_rpc", "payment_rpc")
    ) -> CallerTokens:
        return CallerTokens(
            service,
            clock=self.clock,
            ids=self.ids,
            private_key=self.keys[service],
            public_keys={name: self.keys[name].public_key() for name in known},
        )

    def bearer(
        self, subject: str = "alice", *, roles: Sequence[str] = ("user",), merchant_id: str = "mall"
    ) -> tuple[str, str]:
        return (
            "authorization",
            f"Bearer {self.issuer.issue(subject, roles=roles, merchant_id=merchant_id)}",
        )

    def own_bearer(self, issuer: TokenIssuer, subject: str, **claims: Any) -> tuple[str, str]:
        """A token of one of our own issuers, e.g. of a merchant's key."""
        signer = OwnTokenSigner(
            issuer, self.own_keys[issuer.key_id], clock=self.clock, ids=self.ids
        )
        return "authorization", f"Bearer {signer.sign(subject, lifetime_seconds=60, **claims)}"

    def service(
        self, name: str, *, target: str = "echo_rpc", on_behalf_of: str = ""
    ) -> tuple[str, str]:
        return (
            "x-paymesh-caller",
            self.caller_tokens(name).sign(target, on_behalf_of=on_behalf_of),
        )

    def server(self, servicer: Echo | None = None, **changes: Any) -> MeshServer:
        settings = self.settings(**changes)
        server = MeshServer(
            settings,
            clock=self.clock,
            ids=self.ids,
            user_tokens=self.user_tokens,
            caller_tokens=self.caller_tokens("echo_rpc"),
        )
        server.add(add_echo, servicer or Echo())
        return server

    @asynccontextmanager
    async def running(self, servicer: Echo | None = None, **changes: Any) -> Any:
        """A started server."""
        server = self.server(servicer, **changes)
        await server.start()
        try:
            yield server
        finally:
            await server.stop(0.5)


@asynccontextmanager
async def plain_channel(port: int) -> Any:
    """A bare channel: what grpcurl would be."""
    async with grpc.aio.insecure_channel(
        f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)]
    ) as channel:
        yield channel


async def eventually(condition: Callable[[], bool], *, seconds: float = 10) -> None:
    """Waits for something that another process or the transport does; fails after `seconds`."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - nobody signals a change of a connection
            await asyncio.sleep(0.005)
