"""Certificates and authorities are replaced while a mesh runs, on both sides, and no call is lost
for it. On uvloop, as in production.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from gateway.acceptor import Acceptor
from mesh import connector, files
from mesh.certificate_files import (
    CertificatePaths,
    expires_at,
    https_context,
    problems_of_certificates,
)
from mesh.client import MeshChannel
from mesh.clock import SystemClock
from mesh.discovery.static import StaticDiscovery
from mesh.errors import UpstreamUnavailable
from paymesh_cli.certificates import CertificateAuthority
from tests.support.echo import Echo, EchoRequest, Stub, World, eventually
from tests.support.fakes import EPOCH, FakeClock
from tests.support.fault_proxy import FaultProxy, fault_proxy

ON_UVLOOP = pytest.mark.asyncio(loop_factories=["uvloop"])


@pytest.fixture(autouse=True)
def look_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(connector, "LOOK_SECONDS", 0.01)


class Files:
    """The certificates of a caller and of a server; each reads its own CA file, as on two
    machines.
    """

    def __init__(self, folder: Path, *, clock: Any = None) -> None:
        self.folder = folder
        self.clock = clock or SystemClock()
        self.paths = {
            service: CertificatePaths(
                cert=folder / f"{service}.pem",
                key=folder / f"{service}.key",
                ca=folder / f"{service}.ca",
            )
            for service in ("order_rpc", "echo_rpc")
        }

    def authority(self, name: str) -> CertificateAuthority:
        authority = CertificateAuthority(self.folder / name, clock=self.clock)
        authority.ensure()
        return authority

    def roots(self, *names: str) -> bytes:
        return b"".join((self.folder / name / "ca.pem").read_bytes() for name in names)

    def trust(self, service: str, *names: str) -> None:
        self._replace(self.folder / f"{service}.ca", self.roots(*names))

    def issue(self, service: str, name: str) -> None:
        made = self.authority(name).issue(service)
        self._replace(self.folder / f"{service}.key", made.key.read_bytes())
        self._replace(self.folder / f"{service}.pem", made.cert.read_bytes())

    def settings(self, service: str) -> dict[str, Any]:
        paths = self.paths[service]
        return {"tls_cert_file": paths.cert, "tls_key_file": paths.key, "tls_ca_file": paths.ca}

    def _replace(self, file: Path, content: bytes) -> None:
        fresh = file.with_name(f".{file.name}.fresh")
        fresh.write_bytes(content)
        fresh.replace(file)


@asynccontextmanager
async def mesh(world: World, certificates: Files) -> AsyncIterator[tuple[MeshChannel, FaultProxy]]:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(
            world.running(Echo(), **certificates.settings("echo_rpc"))
        )
        proxy = await stack.enter_async_context(fault_proxy(server.port))
        proxy.breaks_by_reset = True
        channel = await stack.enter_async_context(
            MeshChannel(
                "echo_rpc",
                settings=world.settings(service="order_rpc", **certificates.settings("order_rpc")),
                discovery=StaticDiscovery({"echo_rpc": [f"127.0.0.1:{proxy.port}"]}),
                caller_tokens=world.caller_tokens("order_rpc"),
            )
        )
        yield channel, proxy


def is_another(channel: MeshChannel, before: object) -> bool:
    return connection(channel) is not before


async def works(channel: MeshChannel) -> bool:
    return bool((await Stub(channel).Browse(EchoRequest(text="x"))).text == "x")


def connection(channel: MeshChannel) -> Any:
    [replica] = channel._replicas._all.values()
    return replica


@ON_UVLOOP
async def test_a_leaf_of_a_new_authority_is_used_after_the_connections_broke(
    world: World, tmp_path: Path
) -> None:
    certificates = Files(tmp_path)
    for service in ("order_rpc", "echo_rpc"):
        certificates.authority("old")
        certificates.trust(service, "old")
        certificates.issue(service, "old")
    async with mesh(world, certificates) as (channel, proxy):
        assert await works(channel)
        before = connection(channel)
        for service in ("order_rpc", "echo_rpc"):  # no bundle in between: the hardest way
            certificates.authority("new")
            certificates.trust(service, "new")
            certificates.issue(service, "new")
        await eventually(lambda: connection(channel) is not before)
        proxy.cut()
        assert await works(channel)


@ON_UVLOOP
async def test_an_authority_is_replaced_by_a_bundle_and_no_call_fails(
    world: World, tmp_path: Path
) -> None:
    certificates = Files(tmp_path)
    services = ("order_rpc", "echo_rpc")
    for service in services:
        certificates.authority("old")
        certificates.trust(service, "old")
        certificates.issue(service, "old")
    certificates.authority("new")
    steps = [
        partial(step, service, *names)
        for step, *names in (
            (certificates.trust, "old", "new"),
            (certificates.issue, "new"),
            (certificates.trust, "new"),
        )
        for service in services
    ]
    async with mesh(world, certificates) as (channel, proxy):
        assert await works(channel)
        for step in steps:
            before = connection(channel)
            step()
            # its channel has taken the files before the next step, as an operator would wait
            if step.args[0] == "order_rpc":
                await eventually(partial(is_another, channel, before))
            for _ in range(5):
                assert await works(channel)
            proxy.cut()
            assert await works(channel)


@ON_UVLOOP
async def test_a_half_done_rotation_keeps_what_worked_and_raises_an_alert(
    world: World, tmp_path: Path
) -> None:
    certificates = Files(tmp_path)
    for service in ("order_rpc", "echo_rpc"):
        certificates.authority("old")
        certificates.trust(service, "old")
        certificates.issue(service, "old")
    async with mesh(world, certificates) as (channel, proxy):
        assert await works(channel)
        with capture_logs() as logs:
            for service in ("order_rpc", "echo_rpc"):
                made = CertificateAuthority(tmp_path / "old", clock=certificates.clock).issue(
                    service
                )
                # the key follows later
                certificates._replace(tmp_path / f"{service}.pem", made.cert.read_bytes())
            await eventually(lambda: any(line["event"] == "files_not_taken" for line in logs))
            proxy.cut()
            assert await works(channel)
        assert all(
            "does not belong" in line["problem"]
            for line in logs
            if line["event"] == "files_not_taken"
        )


@ON_UVLOOP
async def test_an_expired_certificate_is_replaced_without_a_restart(
    world: World, tmp_path: Path
) -> None:
    long_ago = FakeClock(SystemClock().now() - timedelta(days=398))
    certificates = Files(tmp_path)
    for service in ("order_rpc", "echo_rpc"):
        certificates.authority("ca")
        certificates.trust(service, "ca")
    certificates.clock = long_ago
    certificates.issue("order_rpc", "ca")
    certificates.clock = SystemClock()
    certificates.issue("echo_rpc", "ca")
    async with mesh(world, certificates) as (channel, _):
        with pytest.raises(UpstreamUnavailable):
            await works(channel)
        certificates.issue("order_rpc", "ca")
        await eventually(lambda: channel.is_ready)
        assert await works(channel)


def test_it_shows_when_certificates_expire(tmp_path: Path) -> None:
    clock = FakeClock()
    authority = CertificateAuthority(tmp_path, clock=clock)
    authority.ensure()
    made = authority.issue("order_rpc")
    CertificatePaths(cert=made.cert, key=made.key, ca=made.ca).read()
    ends = expires_at(made.cert)
    assert ends == EPOCH + timedelta(days=397)
    assert (
        REGISTRY.get_sample_value(
            "paymesh_certificate_expires_timestamp_seconds", {"file": str(made.cert)}
        )
        == ends.timestamp()
    )
    (tmp_path / "torn.pem").write_text("-----BEGIN CERTIFICATE-----\n")

    def problems(moment: Any) -> list[str]:
        return problems_of_certificates(
            [made.cert, made.ca, tmp_path / "torn.pem", tmp_path / "absent.pem"], now=moment
        )

    absent, torn = "absent.pem", "torn.pem"
    assert [absent in text or torn in text for text in problems(EPOCH)] == [True, True]
    assert "expires in 29 days" in problems(ends - timedelta(days=29, hours=1))[0]
    assert "expired at" in problems(ends)[0]
    assert "not valid before" in problems(EPOCH - timedelta(days=1))[0]


@ON_UVLOOP
async def test_the_gateway_shows_a_new_certificate_to_new_connections(tmp_path: Path) -> None:
    certificates = Files(tmp_path)
    certificates.authority("old")
    certificates.issue("echo_rpc", "old")
    paths = CertificatePaths(cert=tmp_path / "echo_rpc.pem", key=tmp_path / "echo_rpc.key")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(paths.cert, paths.key)
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    port = listener.getsockname()[1]
    acceptor = Acceptor(
        listener,
        asyncio.Protocol,
        tls=https_context(context, paths),
        handshake_seconds=10,
        has_room=lambda: True,
    )

    async def shown() -> bytes:
        client = ssl.create_default_context()
        client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client)
        certificate: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.transport.abort()
        return certificate

    first = await shown()
    assert await shown() == first
    made = CertificateAuthority(tmp_path / "old", clock=certificates.clock).issue("echo_rpc")
    certificates._replace(paths.cert, made.cert.read_bytes())  # half done
    assert await shown() == first
    certificates._replace(paths.key, made.key.read_bytes())
    assert await shown() == ssl.PEM_cert_to_DER_cert(made.cert.read_text())
    await acceptor.close()
