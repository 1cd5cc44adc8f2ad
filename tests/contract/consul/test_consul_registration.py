"""What a real Consul agent does not do on demand, seen by those who register, and what every
request to it has to carry.
"""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest

from mesh.discovery import Endpoint
from mesh.discovery.consul_registrar import ConsulRegistrar
from mesh.discovery.consul_transport import AsyncConsul, ConsulUnavailable
from mesh.errors import Unavailable
from tests.builders.consul import GRPC_SERVICE, META, TOKEN, Registry, announce, until
from tests.support.fake_consul import NO_LEADER, Request, fake_consul

# --- registering ----------------------------------------------------------------------------------

HERE = Endpoint("127.0.0.1", 9)


async def register(registrar: ConsulRegistrar, endpoint: Endpoint = HERE) -> None:
    await registrar.register(
        service="order_rpc", endpoint=endpoint, grpc_services=(GRPC_SERVICE,), meta=META, tls=True
    )


async def test_a_server_starts_while_consul_is_away_and_is_announced_when_it_comes_back(
    fake, stage
):
    await fake.stop()
    made = stage.registrar(fake, backoff_seconds=0.01, backoff_max_seconds=0.05)
    with pytest.raises(Unavailable):
        await made.register(
            service="order_rpc", endpoint=HERE, grpc_services=(), meta=META, tls=False
        )
    await fake.start()
    await fake.received(lambda request: request.is_registration)


async def test_a_consul_that_hangs_holds_no_server_up(fake, stage):
    await fake.change(hangs=True)
    before = asyncio.all_tasks()
    made = stage.registrar(fake, start_seconds=0.1, stop_seconds=0.1)
    with pytest.raises(Unavailable, match=r"within 0\.1 s"):
        await register(made)
    async with asyncio.timeout(2):  # far below the deadline of a request, 5 s
        await made.deregister()
    assert not [
        task for task in asyncio.all_tasks() - before if task.get_name() == "consul-registrar"
    ]


async def test_a_withdrawal_that_fails_raises_nothing(fake, stage):
    made = stage.registrar(fake)
    await made.register(service="order_rpc", endpoint=HERE, grpc_services=(), meta={}, tls=False)
    await fake.change(failure=NO_LEADER)
    await made.deregister()
    assert fake.matching(lambda request: request.is_withdrawal)


async def test_pauses_between_registrations_grow_while_consul_is_away(fake, stage):
    await fake.change(failure=NO_LEADER)
    made = stage.registrar(
        fake, backoff_seconds=60, backoff_max_seconds=200, jitter=lambda: 0.0, reconcile_seconds=30
    )
    with pytest.raises(Unavailable):
        await register(made)
    # the loop's first attempt, after which it waits for half a minute
    await fake.received(lambda request: request.is_registration, count=2)
    assert [await made.run_once() for _ in range(3)] == [60, 100, 100]
    await fake.change(failure=None)


async def test_a_registration_on_its_way_does_not_arrive_after_the_withdrawal(fake, stage):
    made = stage.registrar(fake, reconcile_seconds=0.01, stop_seconds=10)
    await made.register(service="order_rpc", endpoint=HERE, grpc_services=(), meta={}, tls=False)
    await fake.change(holds_registrations=True)
    await fake.forget()
    await fake.received(lambda request: request.is_registration, count=2)
    withdrawal = asyncio.create_task(made.deregister())
    done, _ = await asyncio.wait({withdrawal}, timeout=0.2)
    assert not done
    assert not fake.matching(lambda request: request.is_withdrawal)
    await fake.change(holds_registrations=False)
    await withdrawal
    assert fake.requests[-1].is_withdrawal


async def test_the_registration_says_what_consul_needs(fake, stage):
    made = stage.registrar(fake, check_failures=2)
    await fake.change(failure=(400, "not today"))  # the fake checks no health over TLS
    with pytest.raises(Unavailable, match="not today"):
        await register(made, Endpoint("::1", 9906))
    request = fake.matching(lambda request: request.is_registration)[0]
    assert request.query == {"replace-existing-checks": "true"}
    assert json.loads(request.body) == {
        "ID": "order_rpc-::1-9906",
        "Name": "order_rpc",
        "Address": "::1",
        "Port": 9906,
        "Meta": META,
        "Checks": [
            {
                "Name": f"gRPC health of [::1]:9906/{GRPC_SERVICE}",
                "GRPC": f"[::1]:9906/{GRPC_SERVICE}",
                "GRPCUseTLS": True,
                "Interval": "5s",
                "Timeout": "2s",
                "FailuresBeforeCritical": 2,
                "DeregisterCriticalServiceAfter": "1m",
            }
        ],
    }


async def test_one_registrar_announces_one_server(fake, stage):
    made = stage.registrar(fake)
    await made.register(service="order_rpc", endpoint=HERE, grpc_services=(), meta={}, tls=False)
    with pytest.raises(ValueError, match=r"order_rpc-127\.0\.0\.1-9 is registered already"):
        await made.register(
            service="order_rpc", endpoint=HERE, grpc_services=(), meta={}, tls=False
        )


@pytest.mark.parametrize(
    "name", ["", "order rpc", "../order_rpc", "order_rpc?index=1", "-order", "o" * 64]
)
async def test_a_name_that_is_no_service_is_refused(fake, stage, name):
    with pytest.raises(ValueError, match="not the name of a service"):
        await stage.registrar(fake).register(
            service=name, endpoint=HERE, grpc_services=(), meta={}, tls=False
        )
    with pytest.raises(ValueError, match="not the name of a service"):
        stage.discovery(fake).watch(name)


# --- transport ------------------------------------------------------------------------------------


async def test_every_request_carries_the_token_as_a_header_and_none_in_its_url(stage):
    async with fake_consul(token=TOKEN) as fake:
        registry = Registry(fake.address, check_interval_seconds=0.05, token=TOKEN)
        server = await stage.replica()
        made = stage.registrar(registry)
        await announce(made, "order_rpc", server)
        await until(stage.discovery(registry).watch("order_rpc"), server.endpoint)
        await made.run_once()
        await made.deregister()

        def kind(request: Request) -> str:
            return request.method + " " + "/".join(request.path.split("/")[:5])

        assert {kind(request) for request in fake.requests} == {
            "PUT /v1/agent/service/register",
            "PUT /v1/agent/service/maintenance",
            "GET /v1/agent/service/order_rpc-127.0.0.1-" + str(server.endpoint.port),
            "GET /v1/health/service/order_rpc",
            "PUT /v1/agent/service/deregister",
        }
        assert {request.token for request in fake.requests} == {TOKEN}
        assert not [request for request in fake.requests if "token" in request.query]


async def test_a_client_without_a_token_sends_no_header(fake, stage):
    await stage.operator(fake).knows("order_rpc-127.0.0.1-1")
    assert [request.token for request in fake.requests] == [None]


async def test_variables_of_the_environment_neither_move_nor_stop_the_client(
    fake, stage, monkeypatch
):
    for name, value in {
        "CONSUL_HTTP_ADDR": "http://192.0.2.1:8500",
        "CONSUL_HTTP_TOKEN": "somebody-else",
        "CONSUL_HTTP_SSL": "true",
        "HTTP_PROXY": "http://127.0.0.1:9",
        "ALL_PROXY": "http://127.0.0.1:9",
    }.items():
        monkeypatch.setenv(name, value)
    assert await stage.operator(fake).knows("order_rpc-127.0.0.1-1") is False
    assert [request.token for request in fake.requests] == [None]


async def test_an_agent_that_sends_a_byte_at_a_time_does_not_hold_a_request_beyond_its_deadline():
    given_up = asyncio.Event()

    async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.01)
        given_up.set()

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    consul = AsyncConsul(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", grace_seconds=0.2)
    try:
        with pytest.raises(ConsulUnavailable, match=r"within 0\.2 s"):
            await consul.knows("order_rpc-127.0.0.1-1")
    finally:
        await consul.close()
        server.close()
    await asyncio.wait_for(given_up.wait(), 5)


async def test_a_blocking_query_may_take_its_wait_and_a_sixteenth_and_the_grace(fake):
    await fake.change(hangs=True)
    consul = AsyncConsul(fake.address, grace_seconds=0.1)
    with pytest.raises(ConsulUnavailable, match=r"within 0\.27 s"):
        await consul.passing("order_rpc", index=1, wait_seconds=0.16, stale=True)
    await consul.close()


@pytest.mark.parametrize(
    "address", ["", "localhost", "http://127.0.0.1:8500", "127.0.0.1:0", "127.0.0.1:http"]
)
def test_an_address_that_is_not_host_and_port_is_refused(address):
    with pytest.raises(ValueError, match="expected host:port"):
        AsyncConsul(address)


# --- ending ---------------------------------------------------------------------------------------


async def test_closing_leaves_no_task_behind_and_cancels_whoever_waits(fake, stage):
    before = asyncio.all_tasks()
    found, made = stage.discovery(fake), stage.registrar(fake)
    watch = found.watch("order_rpc")
    waiter = asyncio.ensure_future(watch.changed())
    await made.register(service="order_rpc", endpoint=HERE, grpc_services=(), meta={}, tls=False)
    await fake.received(lambda request: "index" in request.query)
    await found.close()
    await made.deregister()
    await asyncio.wait({waiter}, timeout=5)
    assert waiter.cancelled()
    await fake.destroy()
    assert asyncio.all_tasks() - before == set()


async def test_closing_and_deregistering_twice_changes_nothing(fake, stage):
    found, made = stage.discovery(fake), stage.registrar(fake)
    found.watch("order_rpc")
    await made.register(service="order_rpc", endpoint=HERE, grpc_services=(), meta={}, tls=False)
    for _ in range(2):
        await found.close()
        await made.deregister()
    assert len(fake.matching(lambda request: request.is_withdrawal)) == 1


async def test_a_registrar_that_never_registered_ends_in_silence(fake, stage):
    await stage.registrar(fake).deregister()
    assert fake.requests == []
