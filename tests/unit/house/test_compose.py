"""compose.yaml without an engine: its settings exist and are accepted, its files are made or
committed, nothing is published to others.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
import yaml
from click.testing import CliRunner

from mesh.auth import UserTokens
from mesh.clock import SystemClock
from mesh.settings import MeshSettings, read_settings
from mesh.variables import strange_variables
from payment_rpc.settings import PaymentSettings
from paymesh_cli import paymesh
from paymesh_cli.findings import Level
from paymesh_cli.safety import check_production
from paymesh_cli.service_settings import SETTINGS
from sandbox.providers.settings import NAMES, ProviderSettings
from tests.support.processes import Processes
from tools.processes import ROOT

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SERVERS = ("payment_rpc", "order_rpc", "seckill_rpc", "merchant_rpc")
OURS = {
    name: service["command"][2].rpartition(".")[2]
    for name, service in SERVICES.items()
    if service.get("command", [])[:2] == ["python", "-m"]
}


# Volume -> the folder of secrets that the one-shot job puts into it.
FOLDERS = {
    mount.split(":")[0]: mount.split(":")[1].removeprefix("/secrets/")
    for mount in SERVICES["secrets"]["volumes"]
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the one-shot job makes: a folder per container."""
    folder = tmp_path_factory.mktemp("secrets")
    run("make-secrets", SECRETS_DIR=folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    # a second `up` finds its own files; certificates are fresh each time
    run("make-secrets", SECRETS_DIR=folder)
    changed = {path.name for path, content in before.items() if path.read_bytes() != content}
    assert changed == {
        f"{service}.{end}" for service in (*SERVERS, "gateway", "consul") for end in ("pem", "key")
    }
    return folder


def folder_of(name: str) -> str:
    """The folder of secrets that a container sees."""
    [folder] = {
        FOLDERS[mount.split(":")[0]]
        for mount in SERVICES[name].get("volumes", [])
        if mount.split(":")[0] in FOLDERS
    }
    return folder


def run(script: str, *arguments: str, **variables: object) -> str:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [ROOT / "deploy" / "compose" / script, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={"PATH": path, **{name: str(value) for name, value in variables.items()}},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_processes_are_there() -> None:
    assert sorted(OURS.values()) == [
        "gateway",
        "merchant_rpc",
        "order_rpc",
        "payment_rpc",
        "payment_rpc",
        "providers",
        "sandbox",
        "seckill_rpc",
    ]


def read_as(name: str, module: str, made: Path, monkeypatch: pytest.MonkeyPatch) -> MeshSettings:
    """The settings of a container, as its process reads them."""
    for variable, value in SERVICES[name]["environment"].items():
        assert isinstance(value, str), variable
        monkeypatch.setenv(
            variable,
            value.replace("/secrets", str(made / folder_of(name)), 1)
            if value.startswith("/secrets")
            else value,
        )
    return read_settings(SETTINGS[module])


@pytest.mark.parametrize(("name", "module"), OURS.items())
def test_every_variable_of_a_service_is_a_setting_that_it_accepts(
    name: str, module: str, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(strange_variables(SERVICES[name]["environment"], SETTINGS.values())) == []
    settings = read_as(name, module, made, monkeypatch)
    assert (settings.host, settings.service, settings.environment) == (
        "0.0.0.0",
        module,
        "production",
    )
    for setting, value in settings:
        if isinstance(value, Path) and setting.endswith("_file") and setting != "database_file":
            assert value.is_file(), f"the job `secrets` does not make {setting}"


def test_the_simulated_providers_run_only_when_they_are_asked_for() -> None:
    assert SERVICES["providers"]["profiles"] == ["providers"]
    assert [
        name for name, one in SERVICES.items() if "providers" in one.get("depends_on", {})
    ] == []


def test_accounts_find_the_simulated_providers_by_the_name_that_these_hand_to_browsers(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as container:
        simulated = read_as("providers", "providers", made, container)
    assert isinstance(simulated, ProviderSettings)
    payment = read_as("payment-rpc", "payment_rpc", made, monkeypatch)
    assert isinstance(payment, PaymentSettings)
    host = simulated.public_host
    assert host in SERVICES["providers"]["networks"]["inside"]["aliases"]
    assert payment.provider_urls == {
        name: f"http://{host}:{simulated.port_of(name)}" for name in NAMES
    }
    assert payment.btcpay_servers == [payment.provider_urls["btcpay"]]
    [published] = SERVICES["providers"]["ports"]
    first, last = map(int, published.rpartition(":")[2].split("-"))
    assert {simulated.port_of(name) for name in NAMES} == set(range(first, last + 1))


def test_the_doctor_finds_nothing_unsafe_but_the_simulated_provider(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {}
    for name, module in OURS.items():
        with monkeypatch.context() as container:
            settings[module] = read_as(name, module, made, container)
    found = [
        finding
        for finding in check_production(settings)
        if finding.level in {Level.UNSAFE, Level.FAILURE}
    ]
    assert {finding.what for finding in found} == {"payment channel", "return URLs"}, found


def test_passwords_come_from_files_and_stand_in_no_variable_and_on_no_command_line(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as container:
        settings = read_as("order-rpc", "order_rpc", made, container)
    password = (made / "order_rpc" / "database").read_text()
    assert re.fullmatch("[0-9a-f]{48}", password)
    assert (
        settings.database_url
        == f"mysql+aiomysql://order_rpc:{password}@mysql:3306/order_rpc?charset=utf8mb4"
    )
    assert re.fullmatch(
        "redis://order_rpc:[0-9a-f]{48}@redis-events:6379/0", settings.events_redis_url or ""
    )
    for name, service in SERVICES.items():
        told = str(
            [
                service.get("environment"),
                service.get("command"),
                service.get("entrypoint"),
                service.get("healthcheck"),
            ]
        )
        assert "requirepass" not in told, name
        assert "cat /" not in told, name
        assert re.search(r"://[^/@]*:[^/@]+@", told) is None, name


def test_each_container_sees_its_own_secrets_alone() -> None:
    users: dict[str, set[str]] = {}
    for name, service in SERVICES.items():
        for mount in service.get("volumes", []):
            if mount.split(":")[0] in FOLDERS and name != "secrets":
                users.setdefault(mount.split(":")[0], set()).add(name)
                assert mount.endswith(":ro"), f"{name}: {mount}"
    # replicas of one service
    assert users.pop("secrets-payment") == {"payment-rpc", "payment-rpc-2"}
    # hashes of the passwords, nothing else
    assert users.pop("secrets-redis") == {"redis", "redis-events", "redis-cache"}
    assert {volume: names for volume, names in users.items() if len(names) > 1} == {}
    assert "authority" not in users


def test_no_container_that_serves_has_a_key_of_another_or_of_an_authority(made: Path) -> None:
    private: dict[bytes, set[str]] = {}
    for path in made.rglob("*"):
        folder = path.relative_to(made).parts[0]
        if path.is_file() and folder != "authority" and b"PRIVATE KEY" in path.read_bytes():
            private.setdefault(path.read_bytes(), set()).add(folder)
    assert sorted(map(sorted, private.values())) == sorted(
        [
            ["consul"],
            ["issuer"],
            ["merchant_rpc"],  # of the tokens of operators
            *(
                [service]
                for service in (*SERVERS, "gateway")
                for _ in ("certificate", "caller key")
            ),
        ]
    )
    authority = {(made / "authority" / name).read_bytes() for name in ("tls/ca.key", "issuer.pem")}
    assert {folder for key in authority for folder in private.get(key, ())} == {"issuer"}, (
        "the job `token` signs, and serves nobody"
    )


def test_secrets_are_closed_to_everybody_else(made: Path) -> None:
    loose = [
        str(path)
        for path in made.rglob("*")
        if path.relative_to(made).parts[0] != "authority" and path.stat().st_mode & 0o077
    ]
    assert loose == []
    for path in (made / "authority").rglob("*"):
        assert path.suffix not in {".key", ".secret"} or not path.stat().st_mode & 0o077, path
    assert not (made / "authority").stat().st_mode & 0o077


def test_what_may_be_forgotten_never_takes_the_memory_of_what_may_not(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: dict[str, set[str]] = {}
    for name, module in OURS.items():
        with monkeypatch.context() as container:
            settings = read_as(name, module, made, container)
        for kind, url in (
            ("redis_url", settings.redis_url),
            ("events_redis_url", settings.events_redis_url),
        ):
            if url:
                used.setdefault(urlsplit(url).hostname or "", set()).add(f"{module} {kind}")
    assert used == {
        "redis": {"seckill_rpc redis_url"},
        "redis-cache": {"payment_rpc redis_url"},
        "redis-events": {
            f"{service} events_redis_url" for service in SERVERS if service != "merchant_rpc"
        },
    }
    policies = {
        name: " ".join(SERVICES[name]["command"]).partition("--maxmemory-policy ")[2].split()[0]
        for name in used
    }
    assert policies == {
        "redis": "noeviction",
        "redis-events": "noeviction",
        "redis-cache": "allkeys-lru",
    }
    assert all("--maxmemory " in " ".join(SERVICES[name]["command"]) for name in used)


def test_the_numbers_of_a_container_are_for_itself_unless_somebody_says_otherwise(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_as("order-rpc", "order_rpc", made, monkeypatch).metrics_host == "127.0.0.1"


def test_a_token_of_the_installation_is_believed_by_its_services(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = CliRunner().invoke(
        paymesh,
        ["token", "--sub", "alice", "--signing-key", str(made / "issuer" / "issuer.pem")],
        env={"PAYMESH_ENVIRONMENT": "production"},
    )
    assert result.exit_code == 0, result.output
    settings = read_as("gateway", "gateway", made, monkeypatch)
    claims = UserTokens.from_settings(settings, clock=SystemClock()).verify(result.output.strip())
    assert (claims.subject, claims.merchant_id) == ("alice", "mall")


def test_a_file_of_secrets_that_is_there_makes_redis_users_without_passwords_in_sight(
    made: Path,
) -> None:
    lines = (made / "redis" / "users.acl").read_text().splitlines()
    assert lines[0] == "user default off"
    for service in SERVERS:
        digest = hashlib.sha256((made / service / "redis").read_bytes()).hexdigest()
        assert f"user {service} on #{digest} ~* &* +@all -@admin -@dangerous +info" in lines


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="no redis-server on PATH")
def test_redis_starts_with_the_command_of_compose_and_knows_its_users(
    made: Path, tmp_path: Path, free_port: int, processes: Processes
) -> None:
    users = tmp_path / "users.acl"
    users.write_bytes((made / "redis" / "users.acl").read_bytes())
    command = [
        part.replace("/infrastructure/users.acl", str(users))
        for part in SERVICES["redis"]["command"]
    ]
    server = processes.command(
        *command, "--port", str(free_port), "--dir", str(tmp_path), "--bind", "127.0.0.1"
    )
    server.wait_for_port(free_port)
    password = (made / "seckill_rpc" / "redis").read_text()
    with redis.Redis(port=free_port, username="seckill_rpc", password=password) as client:
        client.set("a", "1")
        facts = client.info()
        assert (facts["aof_enabled"], facts["maxmemory_policy"], facts["maxmemory"]) == (
            1,
            "noeviction",
            512 * 1024**2,
        )
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.flushall()
    with (
        redis.Redis(port=free_port) as stranger,
        pytest.raises(redis.exceptions.AuthenticationError),
    ):
        stranger.get("a")
    with redis.Redis(port=free_port, username="health", password="") as health:
        assert health.ping()


def test_consul_is_reached_by_the_services_alone() -> None:
    assert COMPOSE["networks"]["inside"] == {"internal": True}
    for name in ("consul", "mysql", "redis", "redis-events", "redis-cache"):
        assert SERVICES[name]["networks"] == ["inside"]
        assert "ports" not in SERVICES[name]


def test_everything_that_is_published_is_published_on_loopback() -> None:
    assert [
        port
        for service in SERVICES.values()
        for port in service.get("ports", [])
        if not port.startswith("127.0.0.1:")
    ] == []


def test_every_image_has_a_version_and_every_file_and_volume_is_there() -> None:
    for name, service in SERVICES.items():
        assert re.search(r":[0-9][0-9.]*$|:local$", service["image"]), name
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            assert (
                (ROOT / source).is_file()
                if source.startswith(".")
                else source in COMPOSE["volumes"]
            ), f"{name}: {mount}"
    assert os.access(ROOT / "deploy" / "compose" / "make-secrets", os.X_OK)
    assert os.access(ROOT / "deploy" / "mysql" / "create-databases.sh", os.X_OK), (
        "else the image sources it into its own shell"
    )


def test_nothing_waits_for_the_health_of_something_that_has_no_check() -> None:
    for name, service in SERVICES.items():
        for other, how in service.get("depends_on", {}).items():
            match how["condition"]:
                case "service_healthy":
                    assert "healthcheck" in SERVICES[other], f"{name} waits for {other}"
                case "service_completed_successfully":
                    assert SERVICES[other]["restart"] == "no", (
                        f"{name} waits for {other}, which is started again"
                    )
                case condition:
                    raise AssertionError(condition)


def test_the_image_copies_what_the_build_may_see() -> None:
    seen = {
        line[1:]
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copied = {
        source
        for line in (ROOT / "Dockerfile").read_text().splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for source in line.split()[1:-1]
    }
    assert copied <= seen
