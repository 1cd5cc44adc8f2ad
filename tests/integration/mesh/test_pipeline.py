"""A real server and bare gRPC clients: what a peer sees of every step of the pipeline."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import json
from pathlib import Path
from time import monotonic
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from paymesh.order.v1 import order_pb2
from paymesh.payment.v1 import payment_pb2
from prometheus_client import REGISTRY

from mesh import logs
from mesh.auth import UserTokens
from mesh.call import Call, Role, current_call, mark_replayed
from mesh.deadlines import DeadlineQueue
from mesh.errors import Conflict, DeadlineExceeded, RemoteError, Unavailable, UpstreamUnavailable
from mesh.load import Load
from mesh.pipeline import VALIDATED_BYTES_MAX, VALIDATED_REQUESTS_MAX, Pipeline
from mesh.policies import PolicyInvalid, load_policies
from mesh.server import Capture, MeshServer
from mesh.streams import ServedStreams
from mesh.token_issuers import CHECKOUT, MERCHANTS
from mesh.trace import Trace
from mesh.transport import PlaintextRefused
from mesh.validation import NAMED_MAX, broken_rules, violations_of
from mesh.wire_errors import ErrorCatalogue, RemoteMoneyError, from_rpc_error, has_details
from paymesh_cli.certificates import CertificateAuthority
from tests.support.echo import (
    PACKAGE,
    SECRET,
    SERVICE,
    Echo,
    EchoRequest,
    Stub,
    World,
    add_echo,
    echo_file,
    eventually,
    path,
    plain_channel,
)
from tests.support.echo_errors import EchoRefused, EchoUnpaid, Unheard

FOREVER = 3600


async def refusal(call: Any) -> RemoteError:
    """The refusal with which a call ends; other endings fail."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await asyncio.wait_for(call, 10)
    error = from_rpc_error(failed.value)
    assert isinstance(error, RemoteError), error
    return error


@contextlib.asynccontextmanager
async def stub_of(world: World, servicer: Echo | None = None, **changes: Any) -> Any:
    async with world.running(servicer, **changes) as server, plain_channel(server.port) as channel:
        yield Stub(channel)


def raising(error: BaseException) -> Echo:
    async def do(_request: Any, _context: Any) -> None:
        raise error

    return Echo(do)


# Who calls


async def test_a_handler_learns_who_calls(world: World) -> None:
    async with stub_of(world) as stub:
        answer = await stub.Own(
            EchoRequest(text="hi"), metadata=[world.bearer("alice", merchant_id="acme")]
        )
        assert (answer.text, answer.role, answer.subject, answer.user_id, answer.merchant_id) == (
            "hi",
            "user",
            "alice",
            "alice",
            "acme",
        )
        answer = await stub.Own(
            EchoRequest(), metadata=[world.bearer("root", roles=["user", "admin"])]
        )
        assert (answer.role, answer.user_id, answer.merchant_id) == ("admin", "", "mall")
        answer = await stub.Command(
            EchoRequest(), metadata=[world.service("order_rpc", on_behalf_of="mall/alice")]
        )
        assert (answer.role, answer.subject, answer.on_behalf_of) == (
            "service",
            "order_rpc",
            "mall/alice",
        )
        answer = await stub.Browse(EchoRequest())
        assert (answer.role, answer.subject) == ("public", "")


@pytest.mark.parametrize(
    ("method", "metadata", "reason", "code"),
    [
        ("Own", [], "UNAUTHENTICATED", 16),
        ("Own", [("authorization", "")], "TOKEN_INVALID", 16),
        ("Own", [("authorization", "Basic YWxpY2U6cHc=")], "TOKEN_INVALID", 16),
        ("Own", [("authorization", "Bearer")], "TOKEN_INVALID", 16),
        ("Own", [("authorization", "Bearer x.y.z")], "TOKEN_INVALID", 16),
        ("Own", ["bearer", "bearer"], "TOKEN_INVALID", 16),
        (
            "Own",
            ["bearer", "admin", ("x-request-id", "a"), ("x-request-id", "b")],
            "TOKEN_INVALID",
            16,
        ),
        ("Browse", [("authorization", "Bearer x.y.z")], "TOKEN_INVALID", 16),
        ("Browse", [("x-paymesh-caller", "x.y.z")], "TOKEN_INVALID", 16),
        ("Command", [], "UNAUTHENTICATED", 16),
        ("Command", ["admin"], "PERMISSION_DENIED", 7),
        ("Command", ["payment_rpc"], "PERMISSION_DENIED", 7),
        ("Command", ["stranger"], "TOKEN_INVALID", 16),
        ("Command", ["for another"], "TOKEN_INVALID", 16),
        ("Command", ["order_rpc", "order_rpc"], "TOKEN_INVALID", 16),
        ("Command", ["user as caller"], "TOKEN_INVALID", 16),
        ("Own", ["caller as user"], "TOKEN_INVALID", 16),
        ("Write", ["admin"], "PERMISSION_DENIED", 7),
        ("WriteWithKey", ["bearer"], "IDEMPOTENCY_KEY_MISSING", 3),
        (
            "WriteWithKey",
            ["bearer", ("idempotency-key", "a"), ("idempotency-key", "b")],
            "INVALID_ARGUMENT",
            3,
        ),
    ],
)
async def test_a_call_without_the_right_tokens_never_reaches_the_handler(
    world: World, method: str, metadata: list[Any], reason: str, code: int
) -> None:
    made = {
        "bearer": world.bearer(),
        "admin": world.bearer(roles=["admin"]),
        "order_rpc": world.service("order_rpc"),
        "payment_rpc": world.service("payment_rpc"),
        "stranger": world.service("stranger"),
        "for another": world.service("order_rpc", target="payment_rpc"),
        "user as caller": (
            "x-paymesh-caller",
            world.bearer(roles=["admin"])[1].removeprefix("Bearer "),
        ),
        "caller as user": ("authorization", f"Bearer {world.service('order_rpc')[1]}"),
    }
    echo = Echo()
    async with stub_of(world, echo) as stub:
        error = await refusal(
            getattr(stub, method)(
                EchoRequest(), metadata=[made.get(item, item) for item in metadata]
            )
        )
    assert (error.reason, error.grpc_code, echo.calls) == (reason, code, [])


async def test_a_request_for_somebody_else_never_reaches_the_handler(world: World) -> None:
    echo = Echo()
    async with stub_of(world, echo) as stub:
        error = await refusal(
            stub.Own(EchoRequest(user_id="bob"), metadata=[world.bearer("alice")])
        )
        assert (error.reason, list(error.fields)) == ("PERMISSION_DENIED", ["user_id"])
        error = await refusal(
            stub.Find(EchoRequest(merchant_id="acme"), metadata=[world.bearer("alice")])
        )
        assert error.reason == "NOT_FOUND"
    assert echo.calls == []


async def test_a_key_without_a_scope_never_reaches_the_handler_and_hears_which_one_it_lacks(
    world: World,
) -> None:
    echo = Echo()

    def key(*scopes: str) -> tuple[str, str]:
        return world.own_bearer(
            MERCHANTS, "key:AK1", merchant_id="acme", roles=[Role.MERCHANT], scopes=scopes
        )

    async with stub_of(world, echo) as stub:
        error = await refusal(stub.Own(EchoRequest(), metadata=[key("payments:write")]))
        assert (error.reason, error.grpc_code, echo.calls) == ("PERMISSION_DENIED", 7, [])
        assert error.metadata["missing_scope"] == "orders:read"
        answer = await stub.Own(EchoRequest(), metadata=[key("orders:write")])
        assert (answer.role, answer.merchant_id) == ("merchant", "acme")


async def test_a_checkout_token_reaches_its_order_and_nothing_else(world: World) -> None:
    order = "ORD01ARZ3NDEKTSV4RRFFQ69G5FAV"
    token = world.own_bearer(
        CHECKOUT, f"ext:{order}", merchant_id="acme", roles=[Role.USER], order_id=order
    )
    echo = Echo()
    async with stub_of(world, echo) as stub:
        for request in (EchoRequest(), EchoRequest(order_id=order)):
            answer = await stub.Pay(request, metadata=[token])
            assert (answer.subject, answer.order_id) == (f"ext:{order}", order)
        echo.calls.clear()
        error = await refusal(stub.Pay(EchoRequest(order_id="2026-1"), metadata=[token]))
        assert (error.reason, list(error.fields)) == ("PERMISSION_DENIED", ["order_id"])
        error = await refusal(stub.Find(EchoRequest(order_id="2026-1"), metadata=[token]))
        assert error.reason == "NOT_FOUND"
        for method in (stub.Own, stub.Browse, stub.Write):
            error = await refusal(method(EchoRequest(), metadata=[token]))
            assert error.reason == "PERMISSION_DENIED"
    assert echo.calls == []


async def test_a_method_that_wants_it_knows_which_address_a_call_came_from(world: World) -> None:
    told = ("x-paymesh-client-address", "203.0.113.9")
    async with stub_of(world) as stub:
        assert (await stub.Enter(EchoRequest(), metadata=[told])).client_address == "203.0.113.9"
        assert (await stub.Enter(EchoRequest())).client_address == "127.0.0.1"
        twice = await stub.Enter(EchoRequest(), metadata=[told, told])
        assert twice.client_address == "127.0.0.1"
        assert (await stub.Browse(EchoRequest(), metadata=[told])).client_address == ""
    async with stub_of(world, relay_networks=("10.0.0.0/8",)) as stub:
        assert (await stub.Enter(EchoRequest(), metadata=[told])).client_address == "127.0.0.1"


async def test_the_development_only_is_not_found_in_production(world: World) -> None:
    async with stub_of(world) as stub:
        assert (await stub.Toy(EchoRequest(text="hi"))).text == "hi"
    echo = Echo()
    async with stub_of(world, echo, environment="production") as stub:
        assert (await refusal(stub.Toy(EchoRequest()))).reason == "NOT_FOUND"
    assert echo.calls == []


# What is asked


async def test_broken_bytes_are_the_callers_fault_and_only_after_its_token(world: World) -> None:
    async with world.running() as server, plain_channel(server.port) as channel:
        call = channel.unary_unary(path("Own"))
        assert (
            await refusal(call(b"\xff\xff\xff", metadata=[world.bearer()]))
        ).reason == "INVALID_ARGUMENT"
        assert (await refusal(call(b"\xff\xff\xff"))).reason == "UNAUTHENTICATED"


async def test_every_broken_rule_is_named_with_its_field_and_no_value(world: World) -> None:
    async with stub_of(world) as stub:
        error = await refusal(
            stub.Own(EchoRequest(text="S3CR3T", times=99), metadata=[world.bearer()])
        )
    assert error.reason == "INVALID_ARGUMENT"
    assert set(error.fields) == {"text", "times"}
    assert "S3CR3T" not in f"{error.message}{error.fields}"


async def test_a_text_that_is_not_there_is_missing_and_breaks_no_pattern(world: World) -> None:
    assert broken_rules(violations_of(payment_pb2.GetPaymentRequest())).fields == {
        "payment_id": "is required"
    }
    assert broken_rules(violations_of(payment_pb2.GetPaymentRequest(payment_id="a b"))).fields == {
        "payment_id": "is not in the right form"
    }
    async with stub_of(world) as stub:
        await stub.Browse(EchoRequest())  # where nothing is required, nothing is missing


@pytest.mark.parametrize("key", ["", "k ", " k", "a b", "k\n", "k\0", "é", "k😀", "k" * 256])
def test_a_key_that_no_call_can_have_cannot_be_taken_back(key: str) -> None:
    request = payment_pb2.CancelByIdempotencyKeyRequest(method="Charge", idempotency_key=key)
    assert list(broken_rules(violations_of(request)).fields) == ["idempotency_key"]
    assert not violations_of(
        payment_pb2.CancelByIdempotencyKeyRequest(method="Charge", idempotency_key="k" * 255)
    )


def test_a_refusal_names_twenty_broken_fields_and_no_more() -> None:
    request = order_pb2.CreateOrderRequest(items=[order_pb2.NewOrderItem() for _ in range(100)])
    assert len(broken_rules(violations_of(request), {"reason": "is long"}).fields) <= NAMED_MAX


async def test_free_text_is_judged_where_it_enters_and_passed_on_between_siblings(
    world: World,
) -> None:
    async with stub_of(world) as stub:
        for note, problem in (("a\x1b[2Jb", "control"), ("pay 4111 1111 1111 1111", "card number")):
            error = await refusal(
                stub.Own(EchoRequest(inner={"note": note}), metadata=[world.bearer()])
            )
            assert (error.reason, list(error.fields)) == ("INVALID_ARGUMENT", ["inner.note"])
            assert problem in error.fields["inner.note"]
            assert note not in error.message
            answer = await stub.Command(
                EchoRequest(inner={"note": note}), metadata=[world.service("order_rpc")]
            )
            assert answer.note == note


@pytest.mark.parametrize(
    ("request_", "reason", "field"),
    [
        (EchoRequest(inners=[{}] * 140), "INVALID_ARGUMENT", "inners"),
        (EchoRequest(raw=b"a" * 1001), "INVALID_ARGUMENT", "raw"),
        (EchoRequest(counts={f"key {n:015}": n for n in range(20)}), "INVALID_ARGUMENT", "counts"),
    ],
)
async def test_what_is_too_long_is_refused_before_its_rules_are_judged(
    world: World, monkeypatch: pytest.MonkeyPatch, request_: Any, reason: str, field: str
) -> None:
    def judged(message: Any) -> Any:
        raise AssertionError(message)

    async with stub_of(world) as stub:
        await stub.Browse(EchoRequest())
        monkeypatch.setattr("mesh.requests.violations_of", judged)
        error = await refusal(stub.Browse(request_))
        assert (error.reason, list(error.fields)) == (reason, [field])


async def test_a_request_that_is_larger_than_any_good_one_is_not_read(world: World) -> None:
    async with stub_of(world) as stub:
        largest = load_policies(echo_file().services_by_name["EchoService"])[
            path("Browse")
        ].max_request_bytes
        error = await refusal(stub.Browse(EchoRequest(raw=b"a" * (largest - 100)), metadata=[]))
        assert error.reason == "INVALID_ARGUMENT"
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stub.Browse(EchoRequest(raw=b"a" * 1_000_000))
        assert failed.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_an_idempotency_key_is_printable_and_reaches_the_handler_where_it_means_something(
    world: World,
) -> None:
    async with stub_of(world) as stub:
        token = world.bearer()
        assert (
            await stub.Write(EchoRequest(), metadata=[token, ("idempotency-key", "k-1")])
        ).key == "k-1"
        assert (await stub.Write(EchoRequest(), metadata=[token])).key == ""
        assert (
            await stub.Own(EchoRequest(), metadata=[token, ("idempotency-key", "k-1")])
        ).key == ""
        for bad in ("", "a b", "x" * 256):
            error = await refusal(
                stub.Write(EchoRequest(), metadata=[token, ("idempotency-key", bad)])
            )
            assert (error.reason, list(error.fields)) == ("INVALID_ARGUMENT", ["Idempotency-Key"])
        assert (
            await stub.Write(EchoRequest(), metadata=[token, ("idempotency-key", "x" * 255)])
        ).key == "x" * 255


async def test_a_bound_header_fills_its_field_unless_the_request_has_it(world: World) -> None:
    async with stub_of(world) as stub:
        assert (
            await stub.Quick(EchoRequest(), metadata=[("x-echo-note", "from the header")])
        ).note == "from the header"
        assert (
            await stub.Quick(
                EchoRequest(inner={"note": "own"}), metadata=[("x-echo-note", "from the header")]
            )
        ).note == "own"


async def test_a_bound_header_that_comes_twice_fills_nothing(world: World) -> None:
    async with stub_of(world) as stub:
        assert (
            await stub.Quick(
                EchoRequest(), metadata=[("x-echo-note", "one"), ("x-echo-note", "other")]
            )
        ).note == ""


async def test_the_same_bytes_are_everybodys_own_request(world: World) -> None:
    async with stub_of(world) as stub:
        alice, bob, root = (
            world.bearer("alice"),
            world.bearer("bob", merchant_id="acme"),
            world.bearer("root", roles=["admin"]),
        )
        for _ in range(3):
            answers = [
                await stub.Find(EchoRequest(text="hi"), metadata=[token])
                for token in (alice, bob, root)
            ]
            assert [
                (answer.text, answer.role, answer.subject, answer.merchant_id) for answer in answers
            ] == [
                ("hi", "user", "alice", "mall"),
                ("hi", "user", "bob", "acme"),
                ("hi", "admin", "root", "mall"),
            ]
            carried = await stub.Find(
                EchoRequest(text="hi"), metadata=[alice, world.service("order_rpc")]
            )
            assert (carried.role, carried.subject) == ("user", "alice")


async def test_what_a_token_may_ask_is_another_thing_for_each_method_and_each_service_that_carries_it(
    world: World,
) -> None:
    async with stub_of(world) as stub:
        public = world.bearer("nobody", roles=[])
        for _ in range(3):
            assert (await stub.Browse(EchoRequest(), metadata=[public])).role == "public"
            assert (
                await refusal(stub.Find(EchoRequest(), metadata=[public]))
            ).reason == "PERMISSION_DENIED"
            assert (
                await stub.Find(EchoRequest(), metadata=[public, world.service("order_rpc")])
            ).role == "service"


async def test_a_request_that_was_refused_once_is_refused_again(world: World) -> None:
    async with stub_of(world) as stub:
        token = world.bearer("alice")
        for _ in range(3):
            assert (
                await refusal(stub.Own(EchoRequest(times=99), metadata=[token]))
            ).reason == "INVALID_ARGUMENT"
            assert (
                await refusal(stub.Own(EchoRequest(user_id="bob"), metadata=[token]))
            ).reason == "PERMISSION_DENIED"
            assert (await stub.Own(EchoRequest(), metadata=[token])).user_id == "alice"


async def test_a_bound_header_fills_a_request_that_came_without_it_before(world: World) -> None:
    async with stub_of(world) as stub:
        token = world.bearer("alice")
        for note in ("", "one", "", "other"):
            assert (
                await stub.Quick(
                    EchoRequest(), metadata=[token, *([("x-echo-note", note)] if note else [])]
                )
            ).note == note


async def test_few_and_small_requests_are_remembered_with_a_token(world: World) -> None:
    async with world.running() as server, plain_channel(server.port) as channel:
        stub, token = Stub(channel), world.bearer("alice")
        for number in range(3 * VALIDATED_REQUESTS_MAX):
            await stub.Find(EchoRequest(text="a" * number), metadata=[token])
        await stub.Find(
            EchoRequest(text="x", inner={"note": "y" * VALIDATED_BYTES_MAX}), metadata=[token]
        )
        await stub.Write(EchoRequest(text="x"), metadata=[token])
        # what a stranger could fill memory with
        asked = server._user_tokens.verify(token[1].removeprefix("Bearer ")).validated_requests
        last = range(2 * VALIDATED_REQUESTS_MAX, 3 * VALIDATED_REQUESTS_MAX)
        assert [key[1] for key in asked] == [
            EchoRequest(text="a" * number).SerializeToString() for number in last
        ]


async def test_a_replay_is_told_in_trailing_metadata(world: World) -> None:
    async def do(_request: Any, _context: Any) -> None:
        mark_replayed()

    async with stub_of(world, Echo(do)) as stub:
        call = stub.Write(EchoRequest(), metadata=[world.bearer()])
        await call
        assert dict(await call.trailing_metadata())["x-paymesh-idempotent-replayed"] == "true"
    async with stub_of(world) as stub:
        call = stub.Write(EchoRequest(), metadata=[world.bearer()])
        await call
        assert "x-paymesh-idempotent-replayed" not in dict(await call.trailing_metadata())


# What goes wrong


@pytest.mark.parametrize(
    "error",
    [
        ValueError("secret dsn mysql://root:pw@h/"),
        KeyError("pw"),
        Unheard("pw"),
        OSError(2, "pw"),
        RecursionError("pw"),
        TimeoutError("pw"),
        StopAsyncIteration("pw"),
        AssertionError("pw"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_what_we_did_not_expect_is_internal_with_a_trace_id_and_nothing_else(
    world: World, error: Exception
) -> None:
    async with stub_of(world, raising(error)) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stub.Browse(
                EchoRequest(), metadata=[("traceparent", f"00-{'a' * 32}-{'b' * 16}-01")]
            )
    remote = from_rpc_error(failed.value)
    assert isinstance(remote, RemoteError)
    assert (remote.reason, remote.message, remote.metadata, failed.value.details()) == (
        "INTERNAL",
        "internal error",
        {"trace_id": "a" * 32},
        "internal error",
    )
    assert "pw" not in str(failed.value.trailing_metadata())


async def test_a_wrong_answer_of_a_handler_is_internal_too(world: World) -> None:
    class Wrong(Echo):
        async def answer(self, method: str, request: Any, context: Any) -> Any:
            return {"pw": 1}

    async with stub_of(world, Wrong()) as stub:
        assert (await refusal(stub.Browse(EchoRequest()))).reason == "INTERNAL"


async def test_a_refusal_keeps_its_domain_reason_and_facts(world: World) -> None:
    async with stub_of(world, raising(EchoRefused("not now", left=3))) as stub:
        error = await refusal(stub.Browse(EchoRequest()))
    assert (error.reason, error.domain, error.grpc_code, error.message, error.metadata) == (
        "ECHO_REFUSED",
        PACKAGE,
        9,
        "not now",
        {"left": "3"},
    )
    async with stub_of(world, raising(EchoUnpaid(payment_id="PAY1", safe_to_retry=False))) as stub:
        error = await refusal(stub.Browse(EchoRequest()))
    assert isinstance(error, RemoteMoneyError)
    assert (error.payment_id, error.safe_to_retry) == ("PAY1", False)


async def test_a_siblings_refusal_passes_unless_it_refused_us(world: World) -> None:
    passing = RemoteError(
        "sold out", remote_reason="OUT_OF_STOCK", domain="paymesh.order.v1", grpc_code=9
    )
    async with stub_of(world, raising(passing)) as stub:
        error = await refusal(stub.Browse(EchoRequest()))
    assert (error.reason, error.domain, error.grpc_code) == ("OUT_OF_STOCK", "paymesh.order.v1", 9)
    async with stub_of(world, raising(UpstreamUnavailable())) as stub:
        assert (await refusal(stub.Browse(EchoRequest()))).reason == "NEIGHBOUR_UNAVAILABLE"
    for code in (7, 16):
        ours = RemoteError(
            remote_reason="TOKEN_INVALID", domain="paymesh.common.v1", grpc_code=code
        )
        async with stub_of(world, raising(ours)) as stub:
            assert (await refusal(stub.Browse(EchoRequest()))).reason == "INTERNAL"


async def test_a_stray_cancellation_is_aborted_and_never_a_client_that_hangs(world: World) -> None:
    async def do(_request: Any, _context: Any) -> None:
        task = asyncio.create_task(asyncio.sleep(FOREVER))
        asyncio.get_running_loop().call_soon(task.cancel)
        await task

    async with stub_of(world, Echo(do)) as stub:
        error = await refusal(stub.Browse(EchoRequest()))
        assert (error.reason, error.grpc_code) == ("CONFLICT", 10)
        error = await refusal(
            anext(aiter(stub.Count(EchoRequest(times=1), metadata=[world.bearer()])))
        )
        assert error.reason == "CONFLICT"


def handled(method: str, code: str) -> float:
    """How often a method of echo_rpc ended with a code in this process."""
    return (
        REGISTRY.get_sample_value(
            "paymesh_server_handled_total", {"service": SERVICE, "method": method, "code": code}
        )
        or 0
    )


async def test_a_client_that_goes_away_cancels_the_handler(world: World) -> None:
    before = handled("Write", "CANCELLED")
    running, ended = asyncio.Event(), asyncio.Event()

    async def do(_request: Any, _context: Any) -> None:
        running.set()
        try:
            await asyncio.sleep(FOREVER)
        except asyncio.CancelledError:
            ended.set()
            raise

    async with stub_of(world, Echo(do)) as stub:
        call = stub.Write(EchoRequest(), metadata=[world.bearer()])
        async with asyncio.timeout(10):
            waiting = asyncio.ensure_future(call)
            await running.wait()
            call.cancel()
            await ended.wait()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
    assert handled("Write", "CANCELLED") == before + 1


async def test_a_method_without_a_handler_of_its_own_is_unimplemented(world: World) -> None:
    from paymesh.order.v1 import order_pb2, order_pb2_grpc

    server = world.server()
    without_methods: Any = order_pb2_grpc.OrderServiceServicer
    server.add(order_pb2_grpc.add_OrderServiceServicer_to_server, without_methods())
    await server.start()
    async with plain_channel(server.port) as channel:
        call = order_pb2_grpc.OrderServiceStub(channel).GetOrder(
            order_pb2.GetOrderRequest(order_id="o"), metadata=[world.bearer()]
        )
        assert (await refusal(call)).reason == "UNIMPLEMENTED"
    await server.stop(0)


async def test_a_handler_may_abort_by_itself(world: World) -> None:
    async def do(_request: Any, context: Any) -> None:
        await context.abort(grpc.StatusCode.ALREADY_EXISTS, "own words")

    async with stub_of(world, Echo(do)) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stub.Browse(EchoRequest())
    assert (failed.value.code(), failed.value.details()) == (
        grpc.StatusCode.ALREADY_EXISTS,
        "own words",
    )


# Time


async def test_the_deadline_is_the_smaller_of_the_methods_and_the_clients(world: World) -> None:
    async with stub_of(world) as stub:
        for timeout in (None, 60):
            assert 1020 < (await stub.Browse(EchoRequest(), timeout=timeout)).remaining_ms <= 3000
        # grpc-timeout is rounded up
        assert (await stub.Browse(EchoRequest(), timeout=1)).remaining_ms <= 1020


async def test_a_call_whose_time_is_over_starts_no_work(world: World) -> None:
    class Late:
        """A call as grpc.aio hands it over when its deadline passed on the way."""

        async def abort(self, code: grpc.StatusCode, _details: str, _trailing: Any) -> None:
            self.code = code
            raise grpc.aio.AbortError

        def invocation_metadata(self) -> Any:
            return ()

        def time_remaining(self) -> float:
            return 0.0

    echo, late = Echo(), Late()
    pipeline = Pipeline(
        user_tokens=UserTokens.from_secret(SECRET, clock=world.clock),
        caller_tokens=world.caller_tokens("echo_rpc"),
        catalogue=ErrorCatalogue.of_packages({PACKAGE}),
        is_development=True,
        call_log=logs.CallLog("echo_rpc", level="ERROR"),
        streams=ServedStreams(1),
        load=Load(),
    )
    capture = Capture()
    add_echo(echo, capture)
    policy = load_policies(echo_file().services_by_name["EchoService"])[path("Browse")]
    inner = capture.handler(policy)
    assert inner is not None
    handler: Any = pipeline.wrap(policy, inner, EchoRequest)
    with pytest.raises(grpc.aio.AbortError):
        await handler.stream_unary(None, late)
    assert (late.code, echo.calls) == (grpc.StatusCode.DEADLINE_EXCEEDED, [])


async def test_a_slow_read_is_cut_at_the_methods_timeout(world: World) -> None:
    cut = asyncio.Event()

    async def do(_request: Any, _context: Any) -> None:
        try:
            await asyncio.sleep(FOREVER)
        except asyncio.CancelledError:
            cut.set()
            raise

    before = handled("Quick", "DEADLINE_EXCEEDED")
    async with stub_of(world, Echo(do)) as stub:
        for _ in range(2):  # the timer is set again after it went off
            cut.clear()
            calls = [stub.Quick(EchoRequest()), stub.Quick(EchoRequest(), timeout=60)]
            for call in calls:
                with pytest.raises(grpc.aio.AioRpcError) as failed:
                    await asyncio.wait_for(call, 10)
                assert isinstance(from_rpc_error(failed.value), DeadlineExceeded)
                assert has_details(failed.value)
            assert cut.is_set()
    assert handled("Quick", "DEADLINE_EXCEEDED") == before + 4


async def test_a_call_that_ends_in_time_is_not_cut_later(world: World) -> None:
    release = asyncio.Event()

    async def do(request: Any, _context: Any) -> None:
        if request.text == "wait":
            await release.wait()

    async with stub_of(world, Echo(do)) as stub:
        first = asyncio.ensure_future(stub.Quick(EchoRequest(text="wait")))
        for _ in range(5):
            assert (await stub.Quick(EchoRequest(text="now"))).text == "now"
        with pytest.raises(grpc.aio.AioRpcError):
            await asyncio.wait_for(first, 10)
        assert (await stub.Quick(EchoRequest(text="after"))).text == "after"


async def test_the_timer_goes_from_call_to_call() -> None:
    running = DeadlineQueue()

    async def work(call: Call) -> None:
        running.begin(call, call.deadline)
        try:
            await asyncio.sleep(FOREVER)
        finally:
            running.end(call)

    calls = [
        Call(trace=Trace.start(), deadline=monotonic() + seconds) for seconds in (0.01, 0.1, 60)
    ]
    tasks = [asyncio.create_task(work(call)) for call in calls]
    async with asyncio.timeout(10):
        await asyncio.wait(tasks[:2])
    assert [call.cut is not None for call in calls] == [True, True, False]
    tasks[2].cancel()
    await asyncio.wait(tasks)
    assert running._timer is not None
    running._timer.cancel()


async def test_nothing_keeps_a_call_that_has_ended(world: World) -> None:
    def alive() -> int:
        gc.collect()
        return sum(isinstance(thing, Call) for thing in gc.get_objects())

    async with world.running() as server, plain_channel(server.port) as channel:
        await Stub(channel).Quick(EchoRequest())
        server._call_log.flush()
        before = alive()
        for _ in range(10):
            await Stub(channel).Quick(EchoRequest())
        server._call_log.flush()
        await eventually(lambda: alive() <= before)  # the last one may still be on its way out


async def test_calls_that_ended_are_forgotten_by_the_timer() -> None:
    running = DeadlineQueue()
    call = Call(trace=Trace.start(), deadline=monotonic() + 60)
    running.begin(call, call.deadline)
    assert len(running) == 1
    running.end(call)
    running.end(call)
    assert len(running) == 0
    assert running._timer is not None
    running._timer.cancel()


async def test_a_client_that_leaves_while_it_is_cut_is_still_a_client_that_left(
    world: World,
) -> None:
    async def do(_request: Any, _context: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            await asyncio.sleep(FOREVER)
        finally:
            task.cancel()  # the second reason, while the first is under way

    before = handled("Quick", "CANCELLED")
    async with stub_of(world, Echo(do)) as stub:
        with pytest.raises(grpc.aio.AioRpcError):
            await asyncio.wait_for(stub.Quick(EchoRequest(), timeout=0.5), 10)
    assert handled("Quick", "CANCELLED") == before + 1


async def test_a_handler_that_takes_keys_is_not_cut_by_us(world: World) -> None:
    async def do(_request: Any, _context: Any) -> None:
        call = current_call()
        assert call is not None
        # set by the timer that would cut it, had it been given to one: timers go off in their order
        past = asyncio.Event()
        asyncio.get_running_loop().call_at(
            asyncio.get_running_loop().time() + call.remaining_seconds() + 0.01, past.set
        )
        await past.wait()

    async with stub_of(world, Echo(do)) as stub:
        answer = await stub.WriteWithKey(
            EchoRequest(), metadata=[world.bearer(), ("idempotency-key", "k")]
        )
    assert answer.remaining_ms < 0


async def test_a_timeout_of_the_handlers_own_is_not_taken_for_the_deadline(world: World) -> None:
    async def do(_request: Any, _context: Any) -> None:
        async with asyncio.timeout(0.001):
            await asyncio.sleep(FOREVER)

    async with stub_of(world, Echo(do)) as stub:
        assert (await refusal(stub.Browse(EchoRequest()))).reason == "INTERNAL"


# Streams


async def test_a_stream_goes_through_the_same_door(world: World) -> None:
    echo = Echo()
    async with stub_of(world, echo) as stub:
        answers = [
            answer
            async for answer in stub.Count(EchoRequest(times=3), metadata=[world.bearer("alice")])
        ]
        assert [(answer.text, answer.user_id) for answer in answers] == [
            ("0", "alice"),
            ("1", "alice"),
            ("2", "alice"),
        ]
        echo.calls.clear()
        assert (
            await refusal(anext(aiter(stub.Count(EchoRequest(times=1)))))
        ).reason == "UNAUTHENTICATED"
        assert (
            await refusal(
                anext(aiter(stub.Count(EchoRequest(times=99), metadata=[world.bearer()])))
            )
        ).reason == "INVALID_ARGUMENT"
        assert echo.calls == []


async def test_a_stream_that_breaks_ends_with_its_refusal(world: World) -> None:
    async def do(_request: Any, _context: Any) -> None:
        if len(echo.calls) == 2:
            raise Conflict

    echo = Echo(do)
    async with stub_of(world, echo) as stub:
        stream = aiter(stub.Count(EchoRequest(times=3), metadata=[world.bearer()]))
        assert (await anext(stream)).text == "0"
        assert (await refusal(anext(stream))).reason == "CONFLICT"


async def counting(stub: Any, world: World) -> Any:
    """An open stream that has given its first answer."""
    stream = stub.Count(EchoRequest(times=2), metadata=[world.bearer()])
    assert (await asyncio.wait_for(stream.read(), 10)).text == "0"
    return stream


class Stuck:
    """An echo whose streams give one answer and then wait; says when a wait was ended."""

    def __init__(self, *, swallows: bool = False) -> None:
        self.ended = asyncio.Event()
        self.echo = Echo(self._do)
        self._swallows = swallows

    async def _do(self, _request: Any, _context: Any) -> None:
        if len(self.echo.calls) % 2 == 0:
            try:
                await asyncio.sleep(FOREVER)
            except asyncio.CancelledError:
                self.ended.set()
                if not self._swallows:
                    raise


async def test_a_stream_is_counted_as_long_as_it_is_open(world: World) -> None:
    labels = {"service": SERVICE, "method": "Count"}
    before = handled("Count", "CANCELLED")
    stuck = Stuck()
    async with stub_of(world, stuck.echo) as stub:
        stream = await counting(stub, world)
        assert REGISTRY.get_sample_value("paymesh_server_in_flight", labels) == 1
        stream.cancel()
        # the client went away, the handler hears of it
        await asyncio.wait_for(stuck.ended.wait(), 10)
        await eventually(lambda: REGISTRY.get_sample_value("paymesh_server_in_flight", labels) == 0)
        assert handled("Count", "CANCELLED") == before + 1


async def test_a_stream_is_taken_before_its_first_answer(world: World) -> None:
    async def do(_request: Any, _context: Any) -> None:
        await asyncio.sleep(FOREVER)

    async with stub_of(world, Echo(do)) as stub:
        stream = stub.Count(EchoRequest(times=1), metadata=[world.bearer()])
        await asyncio.wait_for(stream.initial_metadata(), 10)
        assert not stream.done()
        stream.cancel()


async def test_a_stream_ends_at_the_deadline_of_its_method(world: World) -> None:
    async with stub_of(world, Stuck().echo) as stub:
        stream = stub.Follow(EchoRequest(times=2))
        assert (await stream.read()).text == "0"
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await asyncio.wait_for(stream.read(), 10)
        assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert has_details(failed.value)


async def test_there_is_room_for_so_many_streams_and_calls_have_their_own(world: World) -> None:
    stuck = Stuck()
    async with stub_of(world, stuck.echo, streams_max=1) as stub:
        stream = await counting(stub, world)
        late = await refusal(stub.Count(EchoRequest(times=1), metadata=[world.bearer()]).read())
        assert (late.reason, late.grpc_code) == ("UNAVAILABLE", 14)  # another replica may take it
        stuck.echo.do = None
        assert (await stub.Browse(EchoRequest(text="hi"))).text == "hi"
        stream.cancel()
        await asyncio.wait_for(stuck.ended.wait(), 10)
        again = [
            answer.text
            async for answer in stub.Count(EchoRequest(times=2), metadata=[world.bearer()])
        ]
        assert again == ["0", "1"]


@pytest.mark.parametrize("swallows", [False, True])
async def test_the_end_of_a_server_is_the_end_of_its_streams(world: World, swallows: bool) -> None:
    stuck = Stuck(swallows=swallows)
    server = world.server(stuck.echo)
    await server.start()
    async with plain_channel(server.port) as channel:
        stream = await counting(Stub(channel), world)
        async with asyncio.timeout(10):  # far less than the grace
            stopping = asyncio.create_task(server.stop(60))
            if swallows:
                assert (await stream.read()).text == "1"
            assert (await refusal(stream.read())).reason == "UNAVAILABLE"
            await stopping
    assert stuck.ended.is_set()


async def test_a_server_that_stops_begins_no_stream(world: World) -> None:
    streams = ServedStreams(2)
    task = asyncio.current_task()
    assert task is not None
    streams.end()
    with pytest.raises(Unavailable), streams.one(task):
        pytest.fail("begun")
    assert len(streams) == 0


async def test_a_client_that_left_before_the_server_stopped_is_not_answered(world: World) -> None:
    streams, begun = ServedStreams(2), asyncio.Event()

    async def serve() -> None:
        task = asyncio.current_task()
        assert task is not None
        with streams.one(task):
            begun.set()
            await asyncio.sleep(FOREVER)

    served = asyncio.create_task(serve())
    await begun.wait()
    served.cancel()
    streams.end()
    with pytest.raises(asyncio.CancelledError):
        await served


# Start


@pytest.mark.parametrize("registered", [True, False])
async def test_a_method_without_a_policy_stops_the_start_and_is_named(
    world: World, registered: bool
) -> None:
    server = world.server()
    server.add(
        lambda servicer, target: add_echo(
            servicer, target, service="BrokenService", registered=registered
        ),
        Echo(),
    )
    with pytest.raises(PolicyInvalid, match=rf"{PACKAGE}\.BrokenService\.Undeclared"):
        await server.start()
    await server.stop(0)


async def test_a_method_without_a_handler_stops_the_start_and_is_named(world: World) -> None:
    server = MeshServer(world.settings(), clock=world.clock, ids=world.ids)
    server.add(lambda servicer, target: add_echo(servicer, target, leave_out=["Find"]), Echo())
    with pytest.raises(PolicyInvalid, match=rf"{SERVICE}\.Find"):
        await server.start()
    await server.stop(0)


async def test_old_stubs_that_register_generic_handlers_only_are_served_alike(world: World) -> None:
    server = MeshServer(world.settings(), clock=world.clock, ids=world.ids)
    server.add(lambda servicer, target: add_echo(servicer, target, registered=False), Echo())
    await server.start()
    async with plain_channel(server.port) as channel:
        assert (await refusal(Stub(channel).Own(EchoRequest()))).reason == "UNAUTHENTICATED"
    await server.stop(0)


async def test_two_servers_do_not_share_a_port(world: World) -> None:
    async with world.running() as server:
        with pytest.raises(OSError, match="cannot listen"):
            await world.server(port=server.port).start()


async def test_a_start_that_fails_gives_back_what_it_opened(world: World) -> None:
    async with world.running() as other:
        half = world.server(port=other.port)
        with pytest.raises(OSError, match="cannot listen"):
            await half.start()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", half.metrics_port)
        with pytest.raises(OSError, match="in use"):
            await world.server(metrics_port=other.metrics_port).start()


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
async def test_plaintext_beyond_loopback_is_refused(world: World, host: str) -> None:
    with pytest.raises(PlaintextRefused, match="allow_plaintext"):
        await world.server(host=host).start()


async def test_plaintext_beyond_loopback_is_possible_and_loud(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("echo_rpc")
    server = world.server(host="0.0.0.0", allow_plaintext=True)
    await server.start()
    await server.stop(0)
    assert '"event":"PLAINTEXT"' in capsys.readouterr().err


# Health, reflection, metrics, logs


async def test_health_follows_the_life_of_the_server(world: World) -> None:
    server = world.server()
    await server.start()
    async with plain_channel(server.port) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ("", SERVICE):
            assert (
                await stub.Check(health_pb2.HealthCheckRequest(service=name))
            ).status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stub.Check(health_pb2.HealthCheckRequest(service="nobody"))
        assert failed.value.code() is grpc.StatusCode.NOT_FOUND
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        # far less than the grace: an open watch does not hold up the end
        async with asyncio.timeout(5):
            stopping = asyncio.create_task(server.stop(60))
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert await watch.read() is grpc.aio.EOF
            await stopping


async def test_the_end_waits_for_running_calls(world: World) -> None:
    running, go_on = asyncio.Event(), asyncio.Event()

    async def do(_request: Any, _context: Any) -> None:
        running.set()
        await go_on.wait()

    server = world.server(Echo(do))
    await server.start()
    async with plain_channel(server.port) as channel:
        call = asyncio.ensure_future(Stub(channel).Browse(EchoRequest(text="late")))
        await running.wait()
        stopping = asyncio.create_task(server.stop(10))
        await asyncio.sleep(0)
        assert not stopping.done()
        go_on.set()
        assert (await call).text == "late"
        await stopping


async def reflected(
    port: int, metadata: list[tuple[str, str]], *, version: str = "v1alpha"
) -> set[str]:
    """The services that a server tells of; the messages of both versions are the same."""
    async with plain_channel(port) as channel:
        call: Any = channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        stream = call(metadata=metadata)
        await stream.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        answer = await stream.read()
        if answer is grpc.aio.EOF:
            await stream  # raises
        stream.cancel()
        return {service.name for service in answer.list_services_response.service}


async def test_reflection_is_open_in_development(world: World) -> None:
    async with world.running(environment="development") as server:
        for version in ("v1", "v1alpha"):
            assert await reflected(server.port, [], version=version) == {
                SERVICE,
                "grpc.health.v1.Health",
                "grpc.reflection.v1.ServerReflection",
                "grpc.reflection.v1alpha.ServerReflection",
            }


async def test_reflection_describes_every_service_that_it_names(world: World) -> None:
    async with (
        world.running(environment="development") as server,
        plain_channel(server.port) as channel,
    ):
        call: Any = channel.stream_stream(
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        stream = call()
        for name in await reflected(server.port, [], version="v1"):
            await stream.write(reflection_pb2.ServerReflectionRequest(file_containing_symbol=name))
            answer = await stream.read()
            files = map(
                descriptor_pb2.FileDescriptorProto.FromString,
                answer.file_descriptor_response.file_descriptor_proto,
            )
            assert name in {
                f"{file.package}.{service.name}" for file in files for service in file.service
            }
        stream.cancel()


async def test_a_new_stream_of_reflection_ends_the_oldest_when_there_are_too_many(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mesh.reflection.STREAMS_MAX", 2)
    async with (
        world.running(environment="development") as server,
        plain_channel(server.port) as channel,
    ):
        streams = []
        for _ in range(3):
            stream: Any = channel.stream_stream(
                "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
            )()
            await stream.write(
                reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()
            )
            assert await stream.read()
            streams.append(stream)
        assert await asyncio.wait_for(streams[0].code(), 10) is grpc.StatusCode.UNAVAILABLE
        assert not streams[1].done()
        assert not streams[2].done()
        for stream in streams[1:]:
            stream.cancel()


async def test_reflection_is_for_admins_in_production(world: World) -> None:
    async with world.running(environment="production") as server:
        assert SERVICE in await reflected(server.port, [world.bearer(roles=["admin"])])
        for metadata, code in (
            ([], "UNAUTHENTICATED"),
            ([world.bearer(roles=["user", "merchant"])], "PERMISSION_DENIED"),
            ([("authorization", "Bearer x")], "UNAUTHENTICATED"),
            ([("authorization", "Basic x")], "UNAUTHENTICATED"),
            ([world.bearer(roles=["admin"])] * 2, "UNAUTHENTICATED"),
            ([world.service("order_rpc")], "UNAUTHENTICATED"),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await reflected(server.port, metadata)
            assert failed.value.code().name == code


async def http_get(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    await writer.wait_closed()
    return answer


async def test_metrics_are_served_on_a_port_of_their_own(world: World) -> None:
    before = handled("Browse", "OK"), handled("Own", "UNAUTHENTICATED")
    async with world.running() as server, plain_channel(server.port) as channel:
        await Stub(channel).Browse(EchoRequest())
        await refusal(Stub(channel).Own(EchoRequest()))
        assert server.metrics_port not in {0, server.port}
        head, _, body = (
            await http_get(server.metrics_port, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        ).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert b"paymesh_server_handled_total" in body
        assert (await http_get(server.metrics_port, b"GET / HTTP/1.1\r\n\r\n")).startswith(
            b"HTTP/1.1 404"
        )
        assert (await http_get(server.metrics_port, b"nonsense\r\n\r\n")).startswith(
            b"HTTP/1.1 404"
        )
    assert (handled("Browse", "OK"), handled("Own", "UNAUTHENTICATED")) == (
        before[0] + 1,
        before[1] + 1,
    )
    assert (
        REGISTRY.get_sample_value(
            "paymesh_server_in_flight", {"service": SERVICE, "method": "Browse"}
        )
        == 0
    )


async def test_a_call_is_one_line_of_json_with_its_trace_and_without_its_content(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    async with stub_of(world) as stub:
        answer = await stub.Own(
            EchoRequest(text="hush"),
            metadata=[world.bearer("alice"), ("traceparent", trace), ("x-request-id", "req-1")],
        )
        labels = [("traceparent", "broken"), ("x-request-id", "req-2"), ("x-request-id", "req-3")]
        await refusal(stub.Own(EchoRequest(text="HUSH"), metadata=[world.bearer("alice"), *labels]))
    assert answer.trace_id == "a" * 32
    err = capsys.readouterr().err
    lines = [json.loads(line) for line in err.splitlines() if '"event":"call"' in line]
    assert [(line["method"], line["code"], line["role"], line["subject"]) for line in lines] == [
        (path("Own"), 0, "user", "alice"),
        (path("Own"), 3, "user", "alice"),
    ]
    assert (lines[0]["trace_id"], lines[0]["request_id"], lines[0]["ms"] < 1000) == (
        "a" * 32,
        "req-1",
        True,
    )
    assert lines[1]["reason"] == "INVALID_ARGUMENT"
    assert "request_id" not in lines[1]
    assert len(lines[1]["trace_id"]) == 32
    assert lines[1]["trace_id"] != "a" * 32
    assert "hush" not in err.lower()
    assert "Bearer" not in err


async def test_a_traceback_is_logged_once_without_secrets(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("echo_rpc")
    error = ValueError(
        "cannot reach mysql://root:hunter2@db/x with Bearer abc.def.ghi for 4111 1111 1111 1111"
    )
    async with stub_of(world, raising(error)) as stub:
        remote = await refusal(stub.Browse(EchoRequest()))
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    [line] = [line for line in lines if line["event"] == "unexpected"]
    assert "ValueError: cannot reach mysql://***@db/x with Bearer *** for ***" in line["exception"]
    assert line["trace_id"] == remote.metadata["trace_id"]
    assert "hunter2" not in json.dumps(lines)


def test_secrets_are_masked_by_name_and_messages_are_never_written_out() -> None:
    out = io.StringIO()
    log = logs.CallLog("x", stream=out)
    assert log is not None
    event = {
        "event": "e",
        "authorization": "a",
        "credit_card": "4111",
        "user_token": "t",
        "page_token_secret_file": "f",
        "order_id": "ORD1",
        "request": EchoRequest(text="hush"),
        "nested": {"password": "p", "list": ["Bearer abc"]},
        "ms": 1.5,
        "n": 20261120101112,
    }
    assert logs._redact(None, "", dict(event)) == {
        "event": "e",
        "authorization": "***",
        "credit_card": "***",
        "user_token": "***",
        "page_token_secret_file": "***",
        "order_id": "ORD1",
        "request": f"<{PACKAGE}.EchoRequest>",
        "nested": {"password": "***", "list": ["Bearer ***"]},
        "ms": 1.5,
        "n": 20261120101112,
    }


# TLS


@pytest.fixture
def tls(world: World) -> dict[str, Any]:
    """Settings of echo_rpc with mTLS."""
    authority = CertificateAuthority(world.folder / "tls", clock=world.clock)
    authority.ensure()
    files = authority.issue("echo_rpc")
    return {"tls_cert_file": files.cert, "tls_key_file": files.key, "tls_ca_file": files.ca}


def credentials(folder: Path, name: str | None, roots: Path) -> grpc.ChannelCredentials:
    key, cert = (
        ((folder / f"{name}.key").read_bytes(), (folder / f"{name}.pem").read_bytes())
        if name
        else (None, None)
    )
    return grpc.ssl_channel_credentials(roots.read_bytes(), key, cert)


async def browse(
    port: int, creds: grpc.ChannelCredentials, name: str = "echo-rpc.paymesh.internal"
) -> str:
    options = [("grpc.ssl_target_name_override", name), ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", creds, options=options) as channel:
        return (await Stub(channel).Browse(EchoRequest(text="tls"), timeout=10)).text


async def test_both_sides_show_certificates_of_the_ca(world: World, tls: dict[str, Any]) -> None:
    folder = world.folder / "tls"
    CertificateAuthority(folder, clock=world.clock).issue("order_rpc")
    foreign = CertificateAuthority(world.folder / "foreign", clock=world.clock)
    foreign.ensure()
    foreign.issue("order_rpc")
    async with world.running(host="127.0.0.1", **tls) as server:
        assert (
            await browse(server.port, credentials(folder, "order_rpc", folder / "ca.pem")) == "tls"
        )
        for name, wrong in {
            "no certificate": credentials(folder, None, folder / "ca.pem"),
            "certificate of another CA": credentials(
                world.folder / "foreign", "order_rpc", folder / "ca.pem"
            ),
            "server of another CA": credentials(
                folder, "order_rpc", world.folder / "foreign" / "ca.pem"
            ),
        }.items():
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await browse(server.port, wrong)
            assert failed.value.code() is grpc.StatusCode.UNAVAILABLE, name
        with pytest.raises(grpc.aio.AioRpcError):
            await browse(
                server.port,
                credentials(folder, "order_rpc", folder / "ca.pem"),
                name="payment-rpc.paymesh.internal",
            )
        async with plain_channel(server.port) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await Stub(channel).Browse(EchoRequest(), timeout=10)
            assert failed.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_renewed_certificate_is_shown_without_a_restart(
    world: World, tls: dict[str, Any]
) -> None:
    folder = world.folder / "tls"
    authority = CertificateAuthority(folder, clock=world.clock)
    authority.issue("order_rpc")
    async with world.running(**tls) as server:
        mine = credentials(folder, "order_rpc", folder / "ca.pem")
        assert await browse(server.port, mine) == "tls"
        (folder / "ca.pem").unlink()
        (folder / "ca.key").unlink()
        authority.ensure()
        authority.issue("echo_rpc")
        with pytest.raises(grpc.aio.AioRpcError):
            await browse(server.port, mine)
        authority.issue("order_rpc")
        assert (
            await browse(server.port, credentials(folder, "order_rpc", folder / "ca.pem")) == "tls"
        )


async def test_private_keys_are_for_their_owner_alone(world: World, tls: dict[str, Any]) -> None:
    assert [
        (file.name, oct(file.stat().st_mode & 0o777))
        for file in sorted((world.folder / "tls").iterdir())
        if file.suffix == ".key"
    ] == [("ca.key", "0o600"), ("echo_rpc.key", "0o600")]
