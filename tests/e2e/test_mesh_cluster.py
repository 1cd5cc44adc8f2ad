"""The mesh as a cluster: MariaDB, Redis, Consul, two replicas of each server, mTLS. A replica that
dies or leaves costs no call that may be repeated."""

from __future__ import annotations

import functools
import itertools
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import grpc
import httpx
import pytest
from click.testing import CliRunner
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mesh.relay import LEASE
from paymesh_cli import paymesh
from tests.e2e.mesh_processes import (
    DEADLINE_SECONDS,
    Answer,
    MeshProcesses,
    Person,
    wait_until,
)
from tests.support.consul_agent import Agent, AgentTls, start_agent
from tests.support.processes import Processes
from tools.servers import MariaDB, Redis

SERVERS = ("payment_rpc", "order_rpc", "seckill_rpc", "merchant_rpc")
PAUSE_SECONDS = 0.05  # between purchases: a machine that starts replicas has other things to do
WORKERS = 3
CALLS_MIN = 25  # of every worker after each disturbance
# What a relay that died had claimed is free after its lease; then it is delivered as any other.
PAID_SECONDS = LEASE.total_seconds() + DEADLINE_SECONDS


@pytest.fixture(scope="module")
def module_processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    processes = Processes(tmp_path_factory.mktemp("logs"))
    yield processes
    processes.destroy()
    processes.check_refusals()


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The settings that `paymesh certs` prints; the agent has a certificate of its own."""
    folder = tmp_path_factory.mktemp("tls")
    services = [
        part for service in (*SERVERS, "gateway", "consul") for part in ("--service", service)
    ]
    result = CliRunner().invoke(paymesh, ["certs", "--out", str(folder), *services])
    assert result.exit_code == 0, result.output
    return dict(line.split("=", 1) for line in result.output.split())


@pytest.fixture(scope="module")
def agent(tls: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    shown = AgentTls(
        ca_file=Path(tls["CONSUL_TLS_CA_FILE"]),
        cert_file=Path(tls["CONSUL_TLS_CERT_FILE"]),
        key_file=Path(tls["CONSUL_TLS_KEY_FILE"]),
        server_name="localhost",
    )
    with start_agent(tmp_path_factory.mktemp("consul"), tls=shown) as agent:
        yield agent


@dataclass
class Cluster:
    """A running cluster and its registry."""

    mesh: MeshProcesses
    agent: Agent

    def passing(self, service: str) -> set[str]:
        """Addresses that Consul's health checks find well."""
        answer = httpx.get(
            f"http://{self.agent.address}/v1/health/service/{service}",
            params={"passing": "1"},
            trust_env=False,
        )
        return {
            f"{entry['Service']['Address']}:{entry['Service']['Port']}" for entry in answer.json()
        }

    def registered(self, service: str) -> set[str]:
        """Addresses that are registered, well or not."""
        answer = httpx.get(
            f"http://{self.agent.address}/v1/catalog/service/{service}", trust_env=False
        )
        return {f"{entry['ServiceAddress']}:{entry['ServicePort']}" for entry in answer.json()}

    def passes(self, service: str, expected: set[str]) -> bool:
        return self.passing(service) == expected

    def wait_passing(self) -> None:
        for service in SERVERS:
            expected = set(self.mesh.plan.running.grpc[service])
            wait_until(
                partial(self.passes, service, expected),
                f"replicas of {service} passing in Consul",
            )


@pytest.fixture(scope="module")
def database_urls(mariadb_server: MariaDB) -> Iterator[dict[str, str]]:
    urls = {service: mariadb_server.create_database() for service in SERVERS}
    yield urls
    for url in urls.values():
        mariadb_server.drop_database(url)


@pytest.fixture(scope="module")
def settings(
    database_urls: dict[str, str], redis_server: Redis, agent: Agent, tls: dict[str, str]
) -> dict[str, str]:
    """What the user of this cluster has set."""
    return {
        **{name: value for name, value in tls.items() if not name.startswith("CONSUL_")},
        **{f"{service.upper()}_DATABASE_URL": url for service, url in database_urls.items()},
        "PAYMESH_REDIS_URL": redis_server.url,
        "PAYMESH_CONSUL_ADDRESS": agent.address,
        "PAYMESH_CONSUL_CHECK_INTERVAL_SECONDS": "1",
    }


@pytest.fixture(scope="module")
def cluster(
    tmp_path_factory: pytest.TempPathFactory,
    module_processes: Processes,
    agent: Agent,
    settings: dict[str, str],
) -> Iterator[Cluster]:
    mesh = MeshProcesses(
        tmp_path_factory.mktemp("mesh"),
        module_processes,
        discovery="consul",
        replicas=dict.fromkeys(SERVERS, 2),
        env=settings,
    )
    mesh.migrate()
    mesh.start()
    mesh.wait_ready()
    cluster = Cluster(mesh, agent)
    cluster.wait_passing()
    yield cluster
    mesh.close()
    module_processes.destroy()


class Traffic:
    """Buyers who repeat nothing: what fails for them has failed."""

    def __init__(self, mesh: MeshProcesses) -> None:
        self._mesh = mesh
        self._sku_id = mesh.product(available=100_000)
        self._calls: Counter[int] = Counter()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=(number,)) for number in range(WORKERS)
        ]
        self.failures: list[str] = []
        self.charged: list[tuple[Person, str]] = []
        # charges that were accepted and not decided: their replica died while it asked the channel
        self.undecided: list[tuple[Person, dict[str, Any], str]] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()

    def flow(self) -> None:
        """Waits until every buyer made a number of calls from now on."""
        before = Counter(self._calls)
        wait_until(
            lambda: (
                self.failures
                or all(
                    self._calls[number] - before[number] >= CALLS_MIN for number in range(WORKERS)
                )
            ),
            "traffic",
        )
        assert self.failures == []

    def decide(self) -> None:
        """What buyers do about charges that are not decided: they ask again with the same key. One
        that never reached the channel has failed, and they pay anew.
        """

        def decided(person: Person, order: dict[str, Any], key: str) -> bool:
            answer = person.charge(order, key=key)
            payments = person.get("/api/v1/payments", order_id=order["order_id"]).data["payments"]
            if [payment["state"] for payment in payments] == ["FAILED"]:
                answer = person.charge(order, key=f"{key}-anew")
            return answer.status == 200

        for charge in self.undecided:
            wait_until(
                functools.partial(decided, *charge),
                f"decision about {charge[2]}",
                timeout_seconds=PAID_SECONDS,
            )

    def _work(self, number: int) -> None:
        buyers = self._buyers(number)
        try:
            while not self._stop.wait(PAUSE_SECONDS):
                self._buy(number, next(buyers))
        except Exception as problem:  # noqa: BLE001  # the thread's end is the test's failure
            self.failures.append(repr(problem))

    def _buyers(self, number: int) -> Iterator[Person]:
        """A new person every few purchases: each may only make some calls a second."""
        for index in itertools.count():
            person = self._mesh.person(f"buyer-{id(self)}-{number}-{index}")
            yield from itertools.repeat(person, 20)

    def _buy(self, number: int, person: Person) -> None:
        purchase = f"{number}-{self._calls[number]}"
        order = self._see(
            number,
            "order",
            201,
            person.post(
                "/api/v1/orders",
                {"items": [{"sku_id": self._sku_id, "quantity": 1}]},
                idempotency_key=f"order-{purchase}",
            ),
        )
        key = f"charge-{purchase}"
        answer = person.charge(order, key=key)
        if answer.status == 202:
            self.undecided.append((person, order, key))
        self._see(number, "charge", 200, answer)
        self.charged.append((person, order["order_id"]))
        self._see(number, "order read", 200, person.get(f"/api/v1/orders/{order['order_id']}"))
        self._see(
            number, "payment read", 200, person.get(f"/api/v1/payments/order/{order['order_id']}")
        )

    def _see(self, number: int, what: str, status: int, answer: Answer) -> Any:
        self._calls[number] += 1
        # 202: see `undecided`
        if answer.status not in {status, 202}:
            self.failures.append(f"{what}: {answer.text}")
        return answer.data


@pytest.fixture
def traffic(cluster: Cluster) -> Traffic:
    return Traffic(cluster.mesh)


def health(address: str, tls: dict[str, str], *, shown: str | None) -> str:
    """What the health service answers to somebody who trusts our CA and shows the certificate of
    `shown`, or none.
    """
    cert, key = (
        (Path(tls[f"{shown.upper()}_TLS_{part}_FILE"]).read_bytes() for part in ("CERT", "KEY"))
        if shown
        else (None, None)
    )
    credentials = grpc.ssl_channel_credentials(
        Path(tls["GATEWAY_TLS_CA_FILE"]).read_bytes(), key, cert
    )
    with grpc.secure_channel(address, credentials) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=5
            )
        except grpc.RpcError as refusal:
            return refusal.code().name
    return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


def test_both_replicas_of_each_server_pass_their_checks_and_let_nobody_in_without_a_certificate(
    cluster: Cluster, tls: dict[str, str]
) -> None:
    for service in SERVERS:
        assert cluster.passing(service) == set(cluster.mesh.plan.running.grpc[service])
        for address in cluster.passing(service):
            assert health(address, tls, shown="gateway") == "SERVING"
            assert health(address, tls, shown=None) == "UNAVAILABLE"


def test_kill_9_of_one_replica_of_each_fails_no_call_that_may_be_repeated(
    cluster: Cluster, traffic: Traffic
) -> None:
    mesh = cluster.mesh
    with traffic:
        traffic.flow()
        for service in SERVERS:
            mesh.running[f"{service}-2"].kill()
            traffic.flow()
        for service in SERVERS:
            mesh.start(f"{service}-2")
        mesh.wait_ready()
        traffic.flow()
    cluster.wait_passing()
    traffic.decide()
    for person, order_id in traffic.charged:
        person.wait_paid(order_id, timeout_seconds=PAID_SECONDS)
    captured = [
        transaction
        for transaction in mesh.books.transactions()
        if transaction["status"] == "CAPTURED"
    ]
    assert len(captured) == len(traffic.charged)  # nobody paid twice


def test_sigterm_withdraws_a_replica_before_it_ends_and_fails_no_call(
    cluster: Cluster, traffic: Traffic
) -> None:
    mesh = cluster.mesh
    with traffic:
        traffic.flow()
        for service in SERVERS:
            left, leaving = mesh.plan.running.grpc[service]
            assert mesh.running[f"{service}-2"].terminate() == 0
            assert cluster.registered(service) == {left} != {leaving}
            traffic.flow()
    assert traffic.failures == []


def test_the_last_sigterm_leaves_nothing_in_the_registry(cluster: Cluster) -> None:
    cluster.mesh.stop()
    for service in SERVERS:
        assert cluster.registered(service) == set()
