"""Discovery through Consul: one suite on the real agent and on the fake, so that the fake may be
believed in test_consul_failures.py, and what only the real one can show."""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mesh.discovery.consul_transport import ConsulUnavailable
from tests.builders.consul import (
    GRPC_SERVICE,
    META,
    NOT_SERVING,
    SERVING,
    TOKEN,
    Registry,
    announce,
    until,
)
from tests.support.consul_agent import Agent, AgentTls, start_agent
from tests.support.fake_consul import fake_consul
from tests.support.fakes import EPOCH

_numbers = itertools.count(1)


@pytest.fixture
def service() -> str:
    """The name of a service that nobody else uses: the real agent outlives a test."""
    return f"test{next(_numbers)}_rpc"


@pytest.fixture(params=["fake", "agent"])
async def registry(request: pytest.FixtureRequest) -> AsyncIterator[Registry]:
    """Runs the test on the fake and on the real agent."""
    if request.param == "agent":
        # its minimum
        yield Registry(request.getfixturevalue("consul_agent").address, check_interval_seconds=1)
    else:
        async with fake_consul() as running:
            yield Registry(running.address, check_interval_seconds=0.05)


# --- one suite for both ---------------------------------------------------------------------------


async def test_a_replica_is_found_only_once_its_health_check_passes(registry, service, stage):
    server = await stage.replica()
    await server.health.set(GRPC_SERVICE, NOT_SERVING)
    watch = stage.discovery(registry).watch(service)
    await announce(stage.registrar(registry), service, server)
    # the second check proves that the answer to the first was taken
    await server.health.asked(times=2)
    assert watch.current() == frozenset()
    await server.health.set(GRPC_SERVICE, SERVING)
    await until(watch, server.endpoint)
    assert not watch.degraded


async def test_the_health_of_the_whole_process_is_checked_when_no_service_is_named(
    registry, service, stage
):
    server = await stage.replica()
    await server.health.set(GRPC_SERVICE, NOT_SERVING)
    await stage.registrar(registry).register(
        service=service, endpoint=server.endpoint, grpc_services=(), meta=META, tls=False
    )
    await until(stage.discovery(registry).watch(service), server.endpoint)


async def test_every_named_service_has_to_serve(registry, service, stage):
    server = await stage.replica()
    await server.health.set("paymesh.test.v1.OtherService", NOT_SERVING)
    watch = stage.discovery(registry).watch(service)
    await announce(
        stage.registrar(registry), service, server, GRPC_SERVICE, "paymesh.test.v1.OtherService"
    )
    await server.health.asked(times=4)
    assert watch.current() == frozenset()
    await server.health.set("paymesh.test.v1.OtherService", SERVING)
    await until(watch, server.endpoint)


async def test_two_replicas_are_found_and_the_one_that_deregisters_is_left_out(
    registry, service, stage
):
    first, second = await stage.replica(), await stage.replica()
    watch = stage.discovery(registry).watch(service)
    leaving = stage.registrar(registry)
    await announce(leaving, service, first)
    await announce(stage.registrar(registry), service, second)
    await until(watch, first.endpoint, second.endpoint)
    await leaving.deregister()
    await until(watch, second.endpoint)


async def test_a_replica_that_stops_serving_is_left_out(registry, service, stage):
    first, second = await stage.replica(), await stage.replica()
    watch = stage.discovery(registry).watch(service)
    for server in (first, second):
        await announce(stage.registrar(registry), service, server)
    await until(watch, first.endpoint, second.endpoint)
    await first.health.set(GRPC_SERVICE, NOT_SERVING)
    await until(watch, second.endpoint)


async def test_a_replica_that_the_agent_forgot_is_announced_again(registry, service, stage):
    server = await stage.replica()
    announced = stage.registrar(registry)
    await announce(announced, service, server)
    operator, service_id = stage.operator(registry), f"{service}-127.0.0.1-{server.endpoint.port}"
    assert await operator.knows(service_id)
    await operator.deregister(service_id)
    assert not await operator.knows(service_id)
    await announced.run_once()
    assert await operator.knows(service_id)


async def test_the_background_loop_announces_again_without_being_asked(registry, service, stage):
    first, second = await stage.replica(), await stage.replica()
    watch = stage.discovery(registry).watch(service)
    await announce(stage.registrar(registry, reconcile_seconds=3600), service, first)
    await until(watch, first.endpoint)
    await announce(stage.registrar(registry, reconcile_seconds=0.05), service, second)
    await until(watch, first.endpoint, second.endpoint)
    await stage.operator(registry).deregister(f"{service}-127.0.0.1-{second.endpoint.port}")
    await until(watch, first.endpoint)
    await until(watch, first.endpoint, second.endpoint)


async def test_a_process_that_starts_again_leaves_no_check_of_its_predecessor(
    registry, service, stage
):
    server = await stage.replica()
    await announce(
        stage.registrar(registry), service, server, GRPC_SERVICE, "paymesh.test.v1.GoneService"
    )
    await announce(stage.registrar(registry), service, server, GRPC_SERVICE)
    await until(stage.discovery(registry).watch(service), server.endpoint)


async def test_a_process_that_starts_again_ends_the_maintenance_of_its_predecessor(
    registry, service, stage
):
    server = await stage.replica()
    await announce(stage.registrar(registry), service, server)
    operator = stage.operator(registry)
    await operator.agent.service.maintenance(f"{service}-127.0.0.1-{server.endpoint.port}", "true")
    await announce(stage.registrar(registry), service, server)
    await until(stage.discovery(registry).watch(service), server.endpoint)


async def test_a_maintenance_that_an_operator_sets_on_a_running_process_stays(
    registry, service, stage
):
    first, second = await stage.replica(), await stage.replica()
    watch = stage.discovery(registry).watch(service)
    maintained = stage.registrar(registry)
    await announce(maintained, service, first)
    await announce(stage.registrar(registry), service, second)
    await until(watch, first.endpoint, second.endpoint)
    await stage.operator(registry).agent.service.maintenance(
        f"{service}-127.0.0.1-{first.endpoint.port}", "true"
    )
    await until(watch, second.endpoint)
    await maintained.run_once()
    await second.health.asked(times=2)
    assert watch.current() == {second.endpoint}


async def test_withdrawing_what_the_agent_does_not_know_is_no_error(registry, service, stage):
    await stage.operator(registry).deregister(f"{service}-127.0.0.1-1")


async def test_meta_reaches_whoever_reads_the_agent(registry, service, stage):
    server = await stage.replica()
    await announce(stage.registrar(registry), service, server)
    operator = stage.operator(registry)
    seen = await operator.http.get(
        lambda response: response.body,
        f"/v1/agent/service/{service}-127.0.0.1-{server.endpoint.port}",
    )
    assert '"1.2.3"' in seen
    assert '"9100"' in seen


@pytest.fixture(params=["fake", "agent"])
async def guarded_registry(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[Registry]:
    """A registry that wants a token."""
    if request.param == "agent":
        with start_agent(tmp_path / "agent", token=TOKEN) as agent:
            yield Registry(agent.address, check_interval_seconds=1, token=TOKEN)
    else:
        async with fake_consul(token=TOKEN) as running:
            yield Registry(running.address, check_interval_seconds=0.05, token=TOKEN)


async def test_a_registry_with_access_control_takes_the_token_for_everything(
    guarded_registry, service, stage
):
    first, second = await stage.replica(), await stage.replica()
    watch = stage.discovery(guarded_registry).watch(service)
    leaving = stage.registrar(guarded_registry)
    await announce(leaving, service, first)
    await announce(stage.registrar(guarded_registry), service, second)
    await until(watch, first.endpoint, second.endpoint)
    await leaving.deregister()
    await until(watch, second.endpoint)


async def test_a_registry_with_access_control_refuses_whoever_has_no_token(
    guarded_registry, service, stage
):
    stranger = Registry(guarded_registry.address, guarded_registry.check_interval_seconds)
    server = await stage.replica()
    with pytest.raises(ConsulUnavailable, match="refused"):
        await announce(stage.registrar(stranger), service, server)
    assert not await stage.operator(guarded_registry).knows(
        f"{service}-127.0.0.1-{server.endpoint.port}"
    )


# --- the real agent alone -------------------------------------------------------------------------


@pytest.fixture
def own_agent(tmp_path: Path) -> Iterator[Agent]:
    """An agent to be killed."""
    with start_agent(tmp_path / "agent") as agent:
        yield agent


async def test_an_agent_that_lost_everything_is_told_again_and_followed_from_its_new_index(
    own_agent, service, stage
):
    first, second = await stage.replica(), await stage.replica()
    registry = Registry(own_agent.address, check_interval_seconds=1)
    # a query that was sent after the restart waits beyond its index
    watch = stage.discovery(registry, wait_seconds=1).watch(service)
    rhythm = {"reconcile_seconds": 0.1, "backoff_seconds": 0.05, "backoff_max_seconds": 0.1}
    await announce(stage.registrar(registry, **rhythm), service, first)
    leaving = stage.registrar(registry, **rhythm)
    await announce(leaving, service, second)
    await until(watch, first.endpoint, second.endpoint)

    own_agent.kill()
    assert watch.current() == {first.endpoint, second.endpoint}
    own_agent.start()
    await asyncio.gather(first.health.asked(times=2), second.health.asked(times=2))
    await until(watch, first.endpoint, second.endpoint)
    await leaving.deregister()
    await until(watch, first.endpoint)


@dataclass(frozen=True, slots=True)
class Party:
    """Files of one certificate."""

    cert_file: Path
    key_file: Path


def issue(folder: Path, name: str, *, issuer: Party | None = None) -> Party:
    """Makes a certificate for the DNS name `name`; without an issuer an authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    signer: Any = key
    signed_by = subject
    if issuer is not None:
        signer = serialization.load_pem_private_key(issuer.key_file.read_bytes(), None)
        signed_by = x509.load_pem_x509_certificate(issuer.cert_file.read_bytes()).subject
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signed_by)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(EPOCH.replace(year=2020))
        .not_valid_after(EPOCH + timedelta(days=36500))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            ),
            critical=False,
        )
    )
    party = Party(folder / f"{name}.pem", folder / f"{name}.key")
    party.cert_file.write_bytes(
        builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    )
    party.key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return party


async def test_the_agent_checks_a_server_that_asks_for_certificates(tmp_path, service, stage):
    authority = issue(tmp_path, "authority")
    server_party, agent_party = (
        issue(tmp_path, "server.paymesh", issuer=authority),
        issue(tmp_path, "agent.paymesh", issuer=authority),
    )
    credentials = grpc.ssl_server_credentials(
        [(server_party.key_file.read_bytes(), server_party.cert_file.read_bytes())],
        authority.cert_file.read_bytes(),
        require_client_auth=True,
    )
    tls = AgentTls(
        ca_file=authority.cert_file,
        cert_file=agent_party.cert_file,
        key_file=agent_party.key_file,
        server_name="server.paymesh",
    )
    with start_agent(tmp_path / "agent", tls=tls) as agent:
        registry = Registry(agent.address, check_interval_seconds=1)
        secure, plain = await stage.replica(credentials), await stage.replica()
        watch = stage.discovery(registry).watch(service)
        await announce(stage.registrar(registry), service, secure, tls=True)
        await announce(stage.registrar(registry), service, plain, tls=False)
        await until(watch, secure.endpoint, plain.endpoint)
