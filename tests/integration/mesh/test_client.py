"""`MeshChannel` against real servers in this process: balancing, retries, deadlines, and what a
failure looks like to the caller.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from math import ceil
from time import monotonic
from typing import Any, NoReturn

import grpc
import pytest
from google.protobuf import descriptor_pool
from paymesh.payment.v1 import payment_pb2, payment_pb2_grpc

from mesh.call import Caller, Role, calling, current_call
from mesh.client import MeshChannel
from mesh.connections import CALLS_MAX
from mesh.discovery import Endpoint
from mesh.discovery.static import StaticDiscovery
from mesh.errors import (
    DeadlineExceeded,
    InvalidArgument,
    RemoteError,
    Unavailable,
    UpstreamUnavailable,
)
from mesh.policies import PolicyInvalid
from mesh.retries import RetryBudget
from mesh.server import MeshServer
from mesh.trace import Trace
from mesh.transport import STREAMS_PER_CONNECTION_MAX
from mesh.wire_errors import never_sent
from paymesh_cli.certificates import CertificateAuthority
from tests.support.echo import Echo, EchoRequest, EchoResponse, Stub, World, eventually, path

FOREVER = 3600


def address(server: MeshServer) -> str:
    return f"127.0.0.1:{server.port}"


class Mesh:
    """Servers, and a channel of order_rpc to them."""

    def __init__(
        self,
        world: World,
        servers: list[MeshServer],
        channel: MeshChannel,
        discovery: StaticDiscovery,
    ) -> None:
        self.world = world
        self.servers = servers
        self.channel = channel
        self.discovery = discovery
        self.stub: Any = Stub(channel)

    async def all_ready(self) -> None:
        await eventually(
            lambda: len(self.channel._replicas._ready) == len(self.channel._replicas._all) > 0
        )


@asynccontextmanager
async def mesh_of(
    world: World, *servicers: Echo, server_settings: dict[str, Any] | None = None, **options: Any
) -> Any:
    async with AsyncExitStack() as stack:
        servers = [
            await stack.enter_async_context(world.running(servicer, **(server_settings or {})))
            for servicer in servicers
        ]
        discovery = StaticDiscovery({"echo_rpc": [address(server) for server in servers]})
        channel = MeshChannel(
            "echo_rpc",
            settings=options.pop("settings", world.settings(service="order_rpc")),
            discovery=discovery,
            caller_tokens=options.pop("caller_tokens", world.caller_tokens("order_rpc")),
            rng=random.Random(1),
            **options,
        )
        mesh = Mesh(world, servers, channel, discovery)
        try:
            yield mesh
        finally:
            await channel.close()


async def die(server: MeshServer) -> None:
    """Ends a server as kill -9 would: no NOT_SERVING, connections cut."""
    assert server._server is not None
    await server._server.stop(None)


# One call


async def test_a_generated_stub_calls_through_the_channel(world: World) -> None:
    class Payments(payment_pb2_grpc.PaymentServiceServicer):
        async def GetPayment(self, request: Any, context: Any) -> Any:
            return payment_pb2.GetPaymentResponse(
                payment=payment_pb2.Payment(payment_id=request.payment_id)
            )

    server = MeshServer(
        world.settings(service="payment_rpc"),
        clock=world.clock,
        ids=world.ids,
        caller_tokens=world.caller_tokens("payment_rpc"),
    )
    partly: Any = Payments
    server.add(payment_pb2_grpc.add_PaymentServiceServicer_to_server, partly())
    await server.start()
    discovery = StaticDiscovery({"payment_rpc": [address(server)]})
    async with MeshChannel(
        "payment_rpc",
        settings=world.settings(),
        discovery=discovery,
        caller_tokens=world.caller_tokens("order_rpc"),
    ) as channel:
        answer = await payment_pb2_grpc.PaymentServiceStub(channel).GetPayment(
            payment_pb2.GetPaymentRequest(payment_id="PAY1")
        )
    assert answer.payment.payment_id == "PAY1"
    await server.stop(0)


async def test_more_calls_than_a_connection_takes_go_on_further_connections(world: World) -> None:
    count = STREAMS_PER_CONNECTION_MAX * 5 // 2
    begun, everybody = 0, asyncio.Event()

    async def do(_request: Any, _context: Any) -> None:
        nonlocal begun
        begun += 1
        if begun == count:
            everybody.set()
        await everybody.wait()

    async with mesh_of(world, Echo(do)) as mesh:
        answers = await asyncio.gather(
            *(mesh.stub.Command(EchoRequest(text="hi")) for _ in range(count))
        )
        assert {answer.text for answer in answers} == {"hi"}
        [replica] = mesh.channel._replicas._all.values()
        assert len(replica.channel) == ceil(count / CALLS_MAX)
        assert 2 * CALLS_MAX < STREAMS_PER_CONNECTION_MAX, (
            "a wave of calls fits beside the one whose answers have just left"
        )
        await eventually(lambda: all(connection.calls == 0 for connection in replica.channel._open))


async def test_a_call_names_this_process_and_the_person_behind_it(world: World) -> None:
    async with mesh_of(world, Echo()) as mesh:
        answer = await mesh.stub.Command(EchoRequest())
        assert (answer.role, answer.subject, answer.on_behalf_of) == ("service", "order_rpc", "")
        with calling(
            caller=Caller(role=Role.USER, subject="alice", merchant_id="acme"), timeout_seconds=5
        ):
            assert (await mesh.stub.Command(EchoRequest())).on_behalf_of == "acme/alice"
        with calling(
            caller=Caller(role=Role.SERVICE, subject="payment_rpc", on_behalf_of="acme/bob"),
            timeout_seconds=5,
        ):
            assert (await mesh.stub.Command(EchoRequest())).on_behalf_of == "acme/bob"


async def test_a_process_without_a_key_calls_as_nobody(world: World) -> None:
    async with mesh_of(world, Echo(), caller_tokens=None) as mesh:
        assert (await mesh.stub.Browse(EchoRequest())).role == "public"
        with pytest.raises(RemoteError) as refused:
            await mesh.stub.Command(EchoRequest())
        assert refused.value.reason == "UNAUTHENTICATED"


async def test_the_gateway_calls_with_bytes_and_gets_trailing_metadata(world: World) -> None:
    async def do(_request: Any, context: Any) -> None:
        call = current_call()
        assert call is not None
        call.trailing = (("x-test", "1"),)

    async with mesh_of(world, Echo(do)) as mesh:
        raw, trailing = await mesh.channel.call(
            path("Own"),
            EchoRequest(text="hi").SerializeToString(),
            metadata=[world.bearer("alice")],
        )
        assert EchoResponse.FromString(raw).subject == "alice"
        assert dict(trailing)["x-test"] == "1"
        answers = [
            EchoResponse.FromString(answer).text
            async for answer in mesh.channel.stream(
                path("Count"),
                EchoRequest(times=2).SerializeToString(),
                metadata=[world.bearer("alice")],
            )
        ]
        assert answers == ["0", "1"]


async def test_a_refusal_is_a_remote_error_with_everything_it_said(world: World) -> None:
    async with mesh_of(world, Echo()) as mesh:
        with pytest.raises(RemoteError) as refused:
            await mesh.stub.Own(EchoRequest(text="S3CR3T"))
        assert (refused.value.reason, refused.value.grpc_code, list(refused.value.fields)) == (
            "INVALID_ARGUMENT",
            3,
            ["text"],
        )
        assert refused.value.is_definite
        with pytest.raises(RemoteError):
            async for _ in mesh.stub.Count(EchoRequest(times=1)):
                pass


async def test_metadata_that_cannot_travel_is_refused_before_it_breaks_the_transport(
    world: World,
) -> None:
    async with mesh_of(world, Echo()) as mesh:
        for bad in ("a\tb", "a\nb", "ä", "\x00"):
            with pytest.raises(InvalidArgument):
                await mesh.channel.call(path("Browse"), b"", metadata=[("idempotency-key", bad)])


async def test_a_method_that_the_contract_does_not_describe_is_refused(world: World) -> None:
    async with mesh_of(world, Echo()) as mesh:
        with pytest.raises(KeyError):
            await mesh.channel.call("/paymesh.nowhere.v1.Nothing/Do", b"")
        with pytest.raises(PolicyInvalid):
            await mesh.channel.call("/paymesh.testing.v1.BrokenService/Undeclared", b"")


async def test_methods_are_read_from_a_pool_of_its_own(world: World) -> None:
    pool = descriptor_pool.DescriptorPool()

    def add(file: Any, seen: set[str]) -> None:
        if file.name not in seen:
            seen.add(file.name)
            for dependency in file.dependencies:
                add(dependency, seen)
            pool.AddSerializedFile(file.serialized_pb)

    add(descriptor_pool.Default().FindFileByName("echo.proto"), set())
    async with mesh_of(world, Echo(), pool=pool) as mesh:
        raw, _ = await mesh.channel.call(path("Browse"), EchoRequest(text="hi").SerializeToString())
        assert EchoResponse.FromString(raw).text == "hi"


async def test_a_trace_goes_on_in_the_next_service(world: World) -> None:
    async with mesh_of(world, Echo()) as mesh:
        trace = Trace.start(f"00-{'a' * 32}-{'b' * 16}-01")
        with calling(timeout_seconds=5, trace=trace):
            assert (await mesh.stub.Browse(EchoRequest())).trace_id == "a" * 32
        first, second = (
            (await mesh.stub.Browse(EchoRequest())).trace_id,
            (await mesh.stub.Browse(EchoRequest())).trace_id,
        )
        assert first != second
        raw, _ = await mesh.channel.call(
            path("Browse"), b"", metadata=[("traceparent", f"00-{'c' * 32}-{'b' * 16}-00")]
        )
        assert EchoResponse.FromString(raw).trace_id == "c" * 32


# Deadlines


async def test_a_call_gets_the_methods_timeout_or_less_and_what_is_left_of_our_own_minus_a_hop(
    world: World,
) -> None:
    async with mesh_of(world, Echo()) as mesh:
        assert 1500 < (await mesh.stub.Browse(EchoRequest())).remaining_ms <= 3000
        assert (await mesh.stub.Browse(EchoRequest(), timeout=0.5)).remaining_ms <= 500
        with calling(timeout_seconds=0.5):
            assert (await mesh.stub.Browse(EchoRequest())).remaining_ms <= 481


async def test_no_caller_makes_a_deadline_longer_than_its_methods(world: World) -> None:
    """Told by the transport: the server would cut the call by itself."""
    left: list[float] = []

    async def look(_request: Any, context: Any) -> None:
        left.append(context.time_remaining())

    async with mesh_of(world, Echo(look)) as mesh:
        await mesh.stub.Browse(EchoRequest(), timeout=60)
    assert 1.5 < left[0] < 4


async def test_without_time_for_an_answer_nothing_is_sent(world: World) -> None:
    echo = Echo()
    async with mesh_of(world, echo) as mesh:
        await mesh.all_ready()
        for seconds in (0.021, 0.0, -1.0):
            with calling(timeout_seconds=seconds), pytest.raises(DeadlineExceeded) as refused:
                await mesh.stub.Browse(EchoRequest())
            assert refused.value.__cause__ is None, "the transport was not asked"
    assert echo.calls == []


async def test_an_answer_that_does_not_come_is_a_deadline_and_is_not_repeated(world: World) -> None:
    async def do(_request: Any, _context: Any) -> None:
        await asyncio.sleep(FOREVER)

    echo = Echo(do)
    async with mesh_of(world, echo) as mesh:
        with pytest.raises(DeadlineExceeded):
            await mesh.stub.Browse(EchoRequest(), timeout=1)  # it has to arrive before
        with pytest.raises(DeadlineExceeded):
            await mesh.stub.Quick(EchoRequest())
    assert echo.calls == ["Browse", "Quick"]


async def test_a_cancelled_caller_cancels_the_call(world: World) -> None:
    running, ended = asyncio.Event(), asyncio.Event()

    async def do(_request: Any, _context: Any) -> None:
        running.set()
        try:
            await asyncio.sleep(FOREVER)
        finally:
            ended.set()

    async with mesh_of(world, Echo(do)) as mesh:
        task = asyncio.create_task(mesh.stub.Browse(EchoRequest()))
        async with asyncio.timeout(10):
            await running.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await ended.wait()
        assert all(replica.in_flight == 0 for replica in mesh.channel._replicas._all.values())


# Replicas


async def test_calls_spread_over_the_replicas(world: World) -> None:
    full = asyncio.Event()

    async def hold(_request: Any, _context: Any) -> None:
        if sum(len(echo.calls) for echo in echoes) == 60:
            full.set()
        await full.wait()  # nobody is faster than another: what is under way alone decides

    echoes = [Echo(hold), Echo(hold), Echo(hold)]
    async with mesh_of(world, *echoes) as mesh:
        await mesh.all_ready()
        await asyncio.gather(*(mesh.stub.Browse(EchoRequest()) for _ in range(60)))
    counts = [len(echo.calls) for echo in echoes]
    assert sum(counts) == 60
    assert min(counts) >= 10


async def test_a_killed_replica_fails_no_repeatable_call(world: World) -> None:
    async with mesh_of(world, Echo(), Echo()) as mesh:
        await mesh.all_ready()
        done: Counter[str] = Counter()
        stop = asyncio.Event()

        async def client(number: int) -> None:
            while not stop.is_set():
                if number % 2:
                    await mesh.stub.Browse(EchoRequest())
                else:
                    await mesh.channel.call(
                        path("Write"), b"", metadata=[world.bearer(), ("idempotency-key", "k")]
                    )
                done["calls"] += 1

        clients = [asyncio.create_task(client(number)) for number in range(8)]
        await eventually(lambda: done["calls"] > 50)
        await die(mesh.servers[0])
        after = done["calls"]
        await eventually(lambda: done["calls"] > after + 200)
        stop.set()
        await asyncio.gather(*clients)  # a single failure fails here


async def test_a_call_that_may_have_had_its_effect_is_not_repeated(world: World) -> None:
    reached = asyncio.Event()

    async def do(_request: Any, _context: Any) -> None:
        reached.set()
        await asyncio.sleep(FOREVER)

    for method, metadata in (
        ("Once", []),
        ("Write", [world.bearer()]),
        ("Once", [("idempotency-key", "ignored there")]),
    ):
        first, second = Echo(do), Echo(do)
        reached.clear()
        async with mesh_of(world, first, second) as mesh:
            await mesh.all_ready()
            call = asyncio.create_task(mesh.channel.call(path(method), b"", metadata=metadata))
            await reached.wait()
            await die(mesh.servers[0] if first.calls else mesh.servers[1])
            with pytest.raises(UpstreamUnavailable):
                await asyncio.wait_for(call, 10)
        assert len(first.calls) + len(second.calls) == 1


async def test_a_repeatable_call_goes_to_another_replica(world: World) -> None:
    async def do(_request: Any, _context: Any) -> None:
        if len(first.calls) + len(second.calls) == 1:
            raise Unavailable

    first, second = Echo(do), Echo(do)
    async with mesh_of(world, first, second) as mesh:
        await mesh.all_ready()
        assert (await mesh.stub.Browse(EchoRequest(text="hi"))).text == "hi"
    assert (len(first.calls), len(second.calls)) == (1, 1)


async def test_there_are_three_attempts_at_most(world: World) -> None:
    async def do(_request: Any, _context: Any) -> None:
        raise Unavailable

    echo = Echo(do)
    async with mesh_of(world, echo) as mesh:
        with pytest.raises(RemoteError) as refused:
            await mesh.stub.Browse(EchoRequest())
        assert refused.value.reason == "UNAVAILABLE"
        assert len(echo.calls) == 3
        echo.calls.clear()
        with pytest.raises(RemoteError):
            await mesh.stub.Once(EchoRequest())
        assert len(echo.calls) == 1


async def test_what_a_sibling_says_about_its_own_neighbours_is_not_repeated(world: World) -> None:
    async def do(_request: Any, _context: Any) -> None:
        raise UpstreamUnavailable

    echo = Echo(do)
    async with mesh_of(world, echo) as mesh:
        with pytest.raises(RemoteError) as refused:
            await mesh.stub.Browse(EchoRequest())
    assert (refused.value.reason, len(echo.calls)) == ("NEIGHBOUR_UNAVAILABLE", 1)


async def test_retries_stay_within_a_budget(world: World) -> None:
    async def do(_request: Any, _context: Any) -> None:
        raise Unavailable

    first, second, third = Echo(do), Echo(do), Echo(do)
    async with mesh_of(world, first, second, third) as mesh:
        await mesh.all_ready()
        mesh.channel._attempts._budget = RetryBudget(
            now=lambda: 0.0
        )  # nothing comes back with time
        for _ in range(30):
            with pytest.raises(RemoteError):
                await mesh.stub.Browse(EchoRequest())
    attempts = len(first.calls) + len(second.calls) + len(third.calls)
    assert attempts == 30 + 10 + 3  # ten at once, a tenth of thirty


async def test_replicas_come_and_go_at_run_time(world: World) -> None:
    echoes = [Echo(), Echo()]
    async with mesh_of(world, *echoes) as mesh:
        one, two = (address(server) for server in mesh.servers)
        mesh.discovery.replace("echo_rpc", [one])
        await eventually(lambda: set(mesh.channel._replicas._all) == {Endpoint.parse(one)})
        for _ in range(10):
            await mesh.stub.Browse(EchoRequest())
        assert (len(echoes[0].calls), len(echoes[1].calls)) == (10, 0)
        mesh.discovery.replace("echo_rpc", [two])
        await eventually(lambda: set(mesh.channel._replicas._all) == {Endpoint.parse(two)})
        for _ in range(10):
            await mesh.stub.Browse(EchoRequest())
        assert (len(echoes[0].calls), len(echoes[1].calls)) == (10, 10)


async def test_an_empty_set_changes_nothing(world: World) -> None:
    async with mesh_of(world, Echo()) as mesh:
        await mesh.stub.Browse(EchoRequest())
        mesh.discovery.replace("echo_rpc", [])
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert (await mesh.stub.Browse(EchoRequest(text="still"))).text == "still"


async def test_a_removed_replica_finishes_its_calls(world: World) -> None:
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def do(_request: Any, _context: Any) -> None:
        reached.set()
        await go_on.wait()

    async with mesh_of(world, Echo(do), Echo()) as mesh:
        mesh.discovery.replace("echo_rpc", [address(mesh.servers[0])])
        call = asyncio.create_task(mesh.stub.Once(EchoRequest(text="late")))
        await reached.wait()
        mesh.discovery.replace("echo_rpc", [address(mesh.servers[1])])
        await eventually(
            lambda: set(mesh.channel._replicas._all) == {Endpoint.parse(address(mesh.servers[1]))}
        )
        go_on.set()
        assert (await call).text == "late"


async def test_a_channel_that_is_closed_under_a_call_ends_it(world: World) -> None:
    reached = asyncio.Event()

    async def do(_request: Any, _context: Any) -> None:
        reached.set()
        await asyncio.sleep(FOREVER)

    async with mesh_of(world, Echo(do)) as mesh:
        call = asyncio.create_task(mesh.stub.Once(EchoRequest()))
        await reached.wait()
        await mesh.channel.close()
        with pytest.raises(UpstreamUnavailable):
            await asyncio.wait_for(call, 10)


async def test_a_replica_that_says_not_serving_gets_no_calls(world: World) -> None:
    echoes = [Echo(), Echo()]
    async with mesh_of(world, *echoes) as mesh:
        await mesh.all_ready()
        mesh.servers[0]._health.stop_serving()
        await eventually(lambda: len(mesh.channel._replicas._ready) == 1)
        for _ in range(10):
            await mesh.stub.Browse(EchoRequest())
        assert (len(echoes[0].calls), len(echoes[1].calls)) == (0, 10)
        mesh.servers[0]._health.serve()
        await mesh.all_ready()


async def test_a_draining_server_fails_no_call(world: World) -> None:
    async with mesh_of(world, Echo(), Echo(), server_settings={"drain_seconds": 0.1}) as mesh:
        await mesh.all_ready()
        done: Counter[str] = Counter()
        stop = asyncio.Event()

        async def client() -> None:
            while not stop.is_set():
                await mesh.stub.Once(EchoRequest())  # not even calls that cannot be repeated
                done["calls"] += 1

        clients = [asyncio.create_task(client()) for _ in range(8)]
        await eventually(lambda: done["calls"] > 50)
        await mesh.servers[0].stop(5)
        after = done["calls"]
        await eventually(lambda: done["calls"] > after + 100)
        stop.set()
        await asyncio.gather(*clients)


async def test_a_call_that_never_left_is_told_from_one_that_may_have_arrived(world: World) -> None:
    reached = asyncio.Event()

    async def do(_request: Any, _context: Any) -> None:
        reached.set()
        await asyncio.sleep(FOREVER)

    async with mesh_of(world, Echo(do)) as mesh:
        await mesh.all_ready()
        [replica] = mesh.channel._replicas._all.values()
        call = replica.channel.unary_unary(path("Once"))(b"", timeout=10)
        await reached.wait()
        await die(mesh.servers[0])
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await call
        assert not never_sent(failed.value)
        await eventually(
            lambda: replica.channel.get_state() is grpc.ChannelConnectivity.TRANSIENT_FAILURE
        )
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await replica.channel.unary_unary(path("Once"))(b"", timeout=10)
        assert never_sent(failed.value)


async def test_a_call_that_never_left_goes_elsewhere_even_when_it_may_not_be_repeated(
    world: World,
) -> None:
    first, second = Echo(), Echo()
    async with mesh_of(world, first, second) as mesh:
        await mesh.all_ready()
        broken = next(iter(mesh.channel._replicas._all.values()))
        nowhere = grpc.aio.insecure_channel("127.0.0.1:1")
        # its connection broke after it was chosen
        broken.calls[path("Once")] = nowhere.unary_unary(path("Once"))
        for _ in range(10):
            await mesh.stub.Once(EchoRequest())
        await nowhere.close()
    assert len(first.calls) + len(second.calls) == 10


async def test_a_failing_replica_is_left_out_but_never_more_than_half(world: World) -> None:
    async def do(_request: Any, _context: Any) -> None:
        await asyncio.sleep(FOREVER)

    bad, good = Echo(do), Echo()
    async with mesh_of(world, bad, good) as mesh:
        await mesh.all_ready()
        replicas = mesh.channel._replicas

        async def probe() -> None:
            with suppress(DeadlineExceeded):
                await mesh.stub.Browse(EchoRequest(), timeout=0.03)

        async with asyncio.timeout(20):
            while not any(replica.ejections for replica in replicas._all.values()):
                await asyncio.gather(*(probe() for _ in range(8)))
        bad.calls.clear()
        for _ in range(20):
            await mesh.stub.Browse(EchoRequest())
        assert bad.calls == []
        last = next(replica for replica in replicas._all.values() if not replica.ejections)
        for _ in range(50):
            replicas.ended(last, 1.0, healthy=False)
        assert not last.ejections


# Nobody there


async def test_a_call_waits_for_a_mesh_that_just_starts(world: World) -> None:
    server = world.server()
    discovery = StaticDiscovery({})
    async with MeshChannel("echo_rpc", settings=world.settings(), discovery=discovery) as channel:
        call = asyncio.create_task(Stub(channel).Browse(EchoRequest(text="first")))
        await asyncio.sleep(0)
        await server.start()
        discovery.replace("echo_rpc", [address(server)])
        assert (await asyncio.wait_for(call, 10)).text == "first"
        assert channel.is_ready
        await channel.channel_ready()
    await server.stop(0)


@pytest.mark.parametrize(
    "targets",
    [[], ["127.0.0.1:1"], ["127.0.0.1:1", "127.0.0.1:2"]],
    ids=["no endpoint", "nobody listens", "two dead ones"],
)
async def test_a_call_fails_soon_when_nobody_is_reachable(world: World, targets: list[str]) -> None:
    discovery = StaticDiscovery({"echo_rpc": targets})
    async with MeshChannel(
        "echo_rpc", settings=world.settings(), discovery=discovery, fail_fast_seconds=0.1
    ) as channel:
        # a call that waits for its deadline ends in DeadlineExceeded
        with pytest.raises(UpstreamUnavailable) as refused:
            await Stub(channel).Browse(EchoRequest(), timeout=FOREVER)
        assert "127.0.0.1" not in refused.value.message

        class Waited(asyncio.Event):
            async def wait(self) -> NoReturn:
                raise AssertionError(
                    "a call waits although nobody has been reachable for longer than it may"
                )

        channel._replicas._changed = Waited()
        with pytest.raises(UpstreamUnavailable):
            await Stub(channel).Browse(EchoRequest())
        assert channel.get_state() is grpc.ChannelConnectivity.TRANSIENT_FAILURE


async def test_a_silent_peer_costs_the_deadline_and_not_more(world: World) -> None:
    hold = asyncio.Event()

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await hold.wait()
        writer.close()

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with MeshChannel(
        "echo_rpc",
        settings=world.settings(),
        discovery=StaticDiscovery({"echo_rpc": [f"127.0.0.1:{port}"]}),
    ) as channel:
        with pytest.raises(UpstreamUnavailable):
            await asyncio.wait_for(Stub(channel).Browse(EchoRequest(), timeout=0.3), 5)
    hold.set()
    server.close()
    await server.wait_closed()


async def test_a_server_that_comes_back_is_found_again(world: World) -> None:
    async with mesh_of(world, Echo()) as mesh:
        await mesh.stub.Browse(EchoRequest())
        port = mesh.servers[0].port
        await mesh.servers[0].stop(0)
        await eventually(lambda: not mesh.channel.is_ready)
        again = world.server(port=port)
        await again.start()
        assert (
            await asyncio.wait_for(mesh.stub.Browse(EchoRequest(text="back")), 10)
        ).text == "back"
        await again.stop(0)


async def test_a_proxy_in_the_environment_is_not_asked(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with mesh_of(world, Echo()) as mesh:
        assert (await mesh.stub.Browse(EchoRequest(text="direct"))).text == "direct"


# TLS


def tls(world: World, service: str, folder: str = "tls") -> dict[str, Any]:
    authority = CertificateAuthority(world.folder / folder, clock=world.clock)
    authority.ensure()
    files = authority.issue(service)
    return {"tls_cert_file": files.cert, "tls_key_file": files.key, "tls_ca_file": files.ca}


async def test_a_channel_shows_its_certificate_and_checks_the_name_of_the_service(
    world: World,
) -> None:
    settings = world.settings(service="order_rpc", **tls(world, "order_rpc"))
    async with mesh_of(
        world, Echo(), server_settings=tls(world, "echo_rpc"), settings=settings
    ) as mesh:
        assert (await mesh.stub.Browse(EchoRequest(text="safe"))).text == "safe"
    async with mesh_of(
        world,
        Echo(),
        server_settings=tls(world, "payment_rpc"),
        settings=settings,
        fail_fast_seconds=0.1,
    ) as mesh:
        with pytest.raises(UpstreamUnavailable):  # a certificate of our CA, of another service
            await mesh.stub.Browse(EchoRequest())
    stranger = world.settings(service="order_rpc", **tls(world, "order_rpc", "foreign"))
    async with mesh_of(
        world,
        Echo(),
        server_settings=tls(world, "echo_rpc"),
        settings=stranger,
        fail_fast_seconds=0.1,
    ) as mesh:
        with pytest.raises(UpstreamUnavailable):
            await mesh.stub.Browse(EchoRequest())


async def test_nothing_is_sent_in_plaintext_beyond_loopback(world: World) -> None:
    discovery = StaticDiscovery({"echo_rpc": ["192.0.2.1:9906"]})
    async with MeshChannel(
        "echo_rpc", settings=world.settings(), discovery=discovery, fail_fast_seconds=0.05
    ) as channel:
        with pytest.raises(UpstreamUnavailable):
            await Stub(channel).Browse(EchoRequest())
        assert channel._replicas._all == {}
    async with MeshChannel(
        "echo_rpc", settings=world.settings(allow_plaintext=True), discovery=discovery
    ) as channel:
        await eventually(lambda: len(channel._replicas._all) == 1)


# Static discovery


async def test_a_static_watch_waits_for_another_set() -> None:
    discovery = StaticDiscovery({"order_rpc": ["127.0.0.1:1", "[::1]:2"]})
    watch = discovery.watch("order_rpc")
    assert watch.current() == {Endpoint("127.0.0.1", 1), Endpoint("::1", 2)}
    waiting = asyncio.create_task(watch.changed())
    await asyncio.sleep(0)
    discovery.replace("order_rpc", ["127.0.0.1:1", "[::1]:2"])
    await asyncio.sleep(0)
    assert not waiting.done()
    discovery.replace("order_rpc", ["127.0.0.1:3"])
    assert await waiting == {Endpoint("127.0.0.1", 3)}
    assert discovery.watch("nobody").current() == frozenset()
    waiting = asyncio.create_task(watch.changed())
    await asyncio.sleep(0)
    await discovery.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting


@pytest.mark.parametrize(
    "text", ["", "host", ":1", "host:", "host:0", "host:65536", "host:x", "host:-1", "host:１"]
)
def test_an_address_without_host_or_port_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        Endpoint.parse(text)


def test_an_endpoint_is_written_as_it_is_read() -> None:
    for text in ("127.0.0.1:9906", "order.internal:80", "[::1]:9906"):
        assert str(Endpoint.parse(text)) == text


# Streams


async def texts(stream: Any) -> list[str]:
    return [answer.text async for answer in stream]


async def test_a_stub_iterates_over_the_answers_as_whoever_it_calls_for(world: World) -> None:
    async with mesh_of(world, Echo()) as mesh:
        with calling(
            caller=Caller(role=Role.USER, subject="alice", merchant_id="acme"),
            timeout_seconds=5,
            trace=Trace.start(),
        ) as call:
            answers = [answer async for answer in mesh.stub.Follow(EchoRequest(times=2))]
        assert [answer.text for answer in answers] == ["0", "1"]
        assert {
            (answer.role, answer.subject, answer.on_behalf_of, answer.trace_id)
            for answer in answers
        } == {("service", "order_rpc", "acme/alice", call.trace.trace_id)}
        assert await texts(mesh.stub.Count(EchoRequest(times=3), metadata=[world.bearer()])) == [
            "0",
            "1",
            "2",
        ]


async def test_a_stream_has_the_deadline_of_its_method_shortened_on_each_hop(world: World) -> None:
    async def do(_request: Any, _context: Any) -> None:
        if echo.calls.count("Follow") > 1:
            await asyncio.sleep(FOREVER)

    echo = Echo(do)
    async with mesh_of(world, echo) as mesh:
        started = monotonic()
        with pytest.raises(DeadlineExceeded):
            await asyncio.wait_for(texts(mesh.stub.Follow(EchoRequest(times=2))), 10)
        assert monotonic() - started < 2
        echo.calls.clear()
        with calling(timeout_seconds=0.2):
            first = await anext(mesh.stub.Follow(EchoRequest(times=1)))
        assert 0 < first.remaining_ms <= 180
        with calling(timeout_seconds=0.01), pytest.raises(DeadlineExceeded):
            await anext(mesh.stub.Follow(EchoRequest(times=1)))


@pytest.mark.parametrize(("method", "served"), [("Follow", [1, 1]), ("Run", [1, 0])])
async def test_a_stream_goes_elsewhere_before_its_first_answer_when_that_does_no_harm(
    world: World, method: str, served: list[int]
) -> None:
    async def away(_request: Any, _context: Any) -> None:
        if len(bad.calls) + len(good.calls) == 1:
            raise Unavailable

    bad, good = Echo(away), Echo(away)
    async with mesh_of(world, bad, good) as mesh:
        await mesh.all_ready()
        stream = getattr(mesh.stub, method)(EchoRequest(times=1))
        if method == "Follow":
            assert await texts(stream) == ["0"]
        else:
            with pytest.raises(RemoteError, match="unavailable"):
                await texts(stream)
        assert sorted((len(bad.calls), len(good.calls)), reverse=True) == served


async def test_a_stream_is_never_repeated_after_its_first_answer(world: World) -> None:
    async def do(_request: Any, _context: Any) -> None:
        if len(one.calls) + len(two.calls) == 2:
            raise Unavailable

    one, two = Echo(do), Echo(do)
    async with mesh_of(world, one, two) as mesh:
        await mesh.all_ready()
        stream = mesh.stub.Follow(EchoRequest(times=3))
        assert (await anext(stream)).text == "0"
        with pytest.raises(RemoteError) as refused:
            await anext(stream)
        assert refused.value.reason == "UNAVAILABLE"
        assert len(one.calls) + len(two.calls) == 2


async def test_streams_of_a_server_that_has_no_room_go_to_another(world: World) -> None:
    async with AsyncExitStack() as stack:
        full = await stack.enter_async_context(world.running(Echo(), streams_max=0))
        free = await stack.enter_async_context(world.running(Echo()))
        channel = MeshChannel(
            "echo_rpc",
            settings=world.settings(service="order_rpc"),
            discovery=StaticDiscovery({"echo_rpc": [address(full), address(free)]}),
            rng=random.Random(1),
        )
        stack.push_async_callback(channel.close)
        await eventually(lambda: len(channel._replicas._ready) == 2)
        stub: Any = Stub(channel)
        assert [await texts(stub.Follow(EchoRequest(times=1))) for _ in range(10)] == [["0"]] * 10


async def test_whoever_stops_reading_cancels_the_stream(world: World) -> None:
    ended = asyncio.Event()

    async def do(_request: Any, _context: Any) -> None:
        if len(echo.calls) == 2:
            try:
                await asyncio.sleep(FOREVER)
            finally:
                ended.set()

    echo = Echo(do)
    async with mesh_of(world, echo) as mesh:
        async with aclosing(
            mesh.stub.Count(EchoRequest(times=2), metadata=[world.bearer()])
        ) as stream:
            assert (await anext(stream)).text == "0"
            await eventually(lambda: len(echo.calls) == 2)
        await asyncio.wait_for(ended.wait(), 10)


async def test_an_open_stream_does_not_make_its_replica_look_busy(world: World) -> None:
    async def do(_request: Any, _context: Any) -> None:
        await asyncio.sleep(FOREVER)

    echo = Echo(do)
    async with mesh_of(world, echo) as mesh:
        async with aclosing(mesh.stub.Run(EchoRequest(times=1))) as stream:
            waiting = asyncio.create_task(anext(stream))
            await eventually(lambda: len(echo.calls) == 1)
            [replica] = mesh.channel._replicas._all.values()
            await eventually(lambda: replica.in_flight == 0)
            waiting.cancel()
            with suppress(asyncio.CancelledError):
                await waiting
        assert replica.in_flight == 0


async def test_a_channel_that_is_closed_under_a_stream_ends_it(world: World) -> None:
    async def do(_request: Any, _context: Any) -> None:
        if len(echo.calls) == 2:
            await asyncio.sleep(FOREVER)

    echo = Echo(do)
    async with mesh_of(world, echo) as mesh:
        stream = mesh.stub.Run(EchoRequest(times=2))
        assert (await anext(stream)).text == "0"
        await mesh.channel.close()
        with pytest.raises(UpstreamUnavailable):
            await asyncio.wait_for(anext(stream), 10)


async def test_a_stream_that_a_dead_server_sent_is_unavailable(world: World) -> None:
    async def do(_request: Any, _context: Any) -> None:
        if len(echo.calls) == 2:
            await asyncio.sleep(FOREVER)

    echo = Echo(do)
    async with mesh_of(world, echo) as mesh:
        stream = mesh.stub.Count(EchoRequest(times=2), metadata=[world.bearer()])
        assert (await anext(stream)).text == "0"
        await die(mesh.servers[0])
        with pytest.raises(UpstreamUnavailable):
            await asyncio.wait_for(anext(stream), 10)
