from __future__ import annotations

import os
import socket
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from mesh.cli import checks, paymesh
from mesh.cli.checks import Finding, Level
from mesh.settings import MeshSettings
from mesh.supervisor.installation import Installation, RunningMesh

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


def levels(findings: list[Finding]) -> set[Level]:
    return {finding.level for finding in findings}


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    return Installation(tmp_path / "var").prepare()


def test_a_prepared_installation_is_well(installation: Installation) -> None:
    assert levels(list(checks.check_installation(installation))) == {Level.OK}


@pytest.mark.parametrize("spoil", [
    lambda one: one.var_dir.chmod(0o755),
    lambda one: one.secret_file("user_token").chmod(0o640),
    lambda one: one.caller_key_file("order_rpc").unlink(),
])
def test_an_installation_that_others_can_read_or_that_misses_a_key_fails(installation: Installation, spoil) -> None:
    spoil(installation)
    assert levels(list(checks.check_installation(installation))) == {Level.FAILURE}


def test_this_python_and_its_packages_are_well() -> None:
    assert levels(list(checks.check_python())) == {Level.OK}


def test_a_taken_port_is_named_with_its_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        settings = {"gateway": MeshSettings(service="gateway", port=other.getsockname()[1])}
        findings = list(checks.check_ports(settings, None))
        assert levels(findings) == {Level.FAILURE}
        assert "GATEWAY_PORT" in findings[0].advice
        assert levels(list(checks.check_ports(settings, RunningMesh(supervisor_pid=1)))) == {Level.OK}


def test_a_clock_in_the_past_fails() -> None:
    assert levels(list(checks.check_clock(datetime(1970, 1, 1, tzinfo=UTC)))) == {Level.FAILURE}
    assert levels(list(checks.check_clock(NOW))) == {Level.OK}


@pytest.mark.parametrize(("facts", "worst"), [
    ({"redis_version": "7.0.15", "maxmemory_policy": "noeviction", "aof_enabled": 1}, Level.OK),
    ({"redis_version": "7.0.15", "maxmemory_policy": "noeviction", "aof_enabled": 0}, Level.WARNING),
    ({"redis_version": "7.0.15", "maxmemory_policy": "allkeys-lru", "aof_enabled": 1}, Level.FAILURE),
    ({"redis_version": "6.0.16", "maxmemory_policy": "noeviction", "aof_enabled": 1}, Level.FAILURE),
])
def test_redis_is_judged_by_version_eviction_and_persistence(facts, worst: Level) -> None:
    found = levels(list(checks._judge_redis(facts)))
    assert max(found, key=list(Level).index) is worst


async def test_a_redis_that_does_not_answer_fails(free_port: int) -> None:
    assert levels(await checks.check_redis(f"redis://127.0.0.1:{free_port}/0", NOW)) == {Level.FAILURE}


async def test_clocks_that_are_apart_are_told() -> None:
    findings = list(checks._clock_of("redis", NOW.timestamp() + 5, NOW))
    assert levels(findings) == {Level.WARNING}
    assert not list(checks._clock_of("redis", NOW.timestamp() + 1, NOW))


async def test_a_consul_that_does_not_answer_fails(free_port: int) -> None:
    assert levels(await checks.check_consul(MeshSettings(discovery="consul", consul_address=f"127.0.0.1:{free_port}"))) == {Level.FAILURE}
    assert levels(await checks.check_consul(MeshSettings())) == {Level.OK}
    running = RunningMesh(supervisor_pid=1, discovery="consul")  # by `paymesh up --discovery consul`
    assert levels(await checks.check_consul(MeshSettings(consul_address=f"127.0.0.1:{free_port}"), running)) == {Level.FAILURE}


@pytest.mark.parametrize("url", ["nonsense", "mysql+nosuchdriver://u@h/d", "mysql+aiomysql://u:hidden@127.0.0.1:{port}/d"])
async def test_a_database_that_is_not_there_fails_and_its_password_is_not_shown(url: str, free_port: int) -> None:
    findings = await checks.check_database("payment_rpc", url.format(port=free_port), NOW)
    assert levels(findings) == {Level.FAILURE}
    assert "PAYMENT_RPC_DATABASE_URL" in findings[0].advice
    assert "hidden" not in repr(findings)


async def test_a_mesh_that_does_not_answer_fails(free_port: int) -> None:
    dead = f"http://127.0.0.1:{free_port}"
    running = RunningMesh(supervisor_pid=1, urls={"gateway": dead, "sandbox": dead}, grpc={"order_rpc": [f"127.0.0.1:{free_port}"]})
    findings = await checks.check_health({"order_rpc": MeshSettings()}, running)
    assert [finding.level for finding in findings] == [Level.FAILURE] * 3


def test_the_doctor_fails_when_anything_fails(installation: Installation) -> None:
    installation.var_dir.chmod(0o755)
    result = CliRunner().invoke(paymesh, ["doctor", "--var-dir", str(installation.var_dir)])
    assert result.exit_code == 1
    assert "chmod" in result.output


def test_help_names_every_command_and_loads_no_grpc() -> None:
    code = "import sys; sys.argv[1:] = ['--help']\nfrom mesh.cli import main\ntry: main()\nexcept SystemExit: print('grpc' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "100"})
    for command in ("up", "demo", "token", "certs", "migrate", "doctor"):
        assert f"\n  {command} " in done.stdout
    assert done.stdout.endswith("False\n")
