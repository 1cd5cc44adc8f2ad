from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from paymesh_cli.supervisor import plan as planning
from paymesh_cli.supervisor.installation import SECRETS, Installation
from paymesh_cli.supervisor.plan import (
    MeshPlan,
    PlanRefused,
    plan_mesh,
    read_settings,
    readiness_url,
)

MYSQL = "mysql+aiomysql://u:hidden@127.0.0.1:3306/x"
PORTS = {
    "GATEWAY_PORT": "0",
    "PAYMENT_RPC_PORT": "0",
    "ORDER_RPC_PORT": "0",
    "SECKILL_RPC_PORT": "0",
    "MERCHANT_RPC_PORT": "0",
    "SANDBOX_PORT": "0",
}


@pytest.fixture
def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installation:
    for name, value in PORTS.items():
        monkeypatch.setenv(name, value)
    return Installation(tmp_path / "var").prepare()


def env_of(plan: MeshPlan, name: str) -> dict[str, str]:
    return dict(next(process.env for process in plan.processes if process.name == name))


def test_every_process_is_told_where_the_others_are(installation: Installation) -> None:
    plan = plan_mesh(installation, replicas={})
    assert {process.name for process in plan.processes} - {"redis"} == {
        "payment_rpc",
        "order_rpc",
        "seckill_rpc",
        "merchant_rpc",
        "gateway",
        "sandbox",
    }
    targets = json.loads(env_of(plan, "gateway")["PAYMESH_STATIC_TARGETS"])
    assert targets == plan.running.grpc
    assert targets["payment_rpc"] == [
        f"127.0.0.1:{env_of(plan, 'payment_rpc')['PAYMENT_RPC_PORT']}"
    ]
    assert (
        env_of(plan, "sandbox")["SANDBOX_CALLBACK_URL"]
        == f"{plan.running.urls['gateway']}/api/v1/callbacks/sandbox"
    )
    assert env_of(plan, "payment_rpc")["PAYMENT_RPC_SANDBOX_URL"] == plan.running.urls["sandbox"]


def test_no_port_is_given_twice(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAYMENT_RPC_DATABASE_URL", MYSQL)
    plan = plan_mesh(installation, replicas={"payment_rpc": 3})
    addresses = [
        *plan.running.urls.values(),
        *plan.running.metrics.values(),
        *(address for group in plan.running.grpc.values() for address in group),
    ]
    assert len({address.rpartition(":")[2] for address in addresses}) == len(addresses) == 2 + 7 + 6


def test_a_taken_port_is_named_with_its_setting(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        monkeypatch.setenv("ORDER_RPC_PORT", str(port))
        with pytest.raises(PlanRefused, match=f"port {port} is taken.*ORDER_RPC_PORT"):
            plan_mesh(installation, replicas={})


def test_the_same_port_twice_is_refused(
    installation: Installation, monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    monkeypatch.setenv("ORDER_RPC_PORT", str(free_port))
    monkeypatch.setenv("GATEWAY_PORT", str(free_port))
    with pytest.raises(PlanRefused, match=f"port {free_port}"):
        plan_mesh(installation, replicas={})


def test_sqlite_serves_one_process(installation: Installation) -> None:
    with pytest.raises(PlanRefused, match="PAYMENT_RPC_DATABASE_URL"):
        plan_mesh(installation, replicas={"payment_rpc": 2})


def test_replicas_share_a_mysql_database(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAYMENT_RPC_DATABASE_URL", MYSQL)
    plan = plan_mesh(installation, replicas={"payment_rpc": 2})
    first, second = env_of(plan, "payment_rpc"), env_of(plan, "payment_rpc-2")
    assert plan.database_urls["payment_rpc"] == MYSQL
    assert first["PAYMENT_RPC_PORT"] != second["PAYMENT_RPC_PORT"]
    assert "hidden" not in repr(plan)


def test_what_the_user_set_wins(
    installation: Installation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PAYMESH_USER_TOKEN_SECRET_FILE", str(tmp_path / "mine"))
    monkeypatch.setenv("PAYMESH_GRACE_SECONDS", "3")
    told = env_of(plan_mesh(installation, replicas={}), "gateway")
    assert "PAYMESH_USER_TOKEN_SECRET_FILE" not in told
    assert "PAYMESH_GRACE_SECONDS" not in told


def test_consul_by_option(installation: Installation) -> None:
    assert (
        env_of(plan_mesh(installation, replicas={}, discovery="consul"), "gateway")[
            "PAYMESH_DISCOVERY"
        ]
        == "consul"
    )


def test_the_flash_sale_has_its_ticket_secret_and_its_key(installation: Installation) -> None:
    told = env_of(plan_mesh(installation, replicas={}), "seckill_rpc")
    assert Path(told["SECKILL_RPC_TICKET_SECRET_FILE"]).read_bytes()
    assert Path(told["SECKILL_RPC_CALLER_KEY_FILE"]).read_bytes()
    assert told["PAYMESH_REDIS_URL"]


def test_a_redis_of_the_user_is_taken(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAYMESH_REDIS_URL", "redis://127.0.0.1:6379/3")
    plan = plan_mesh(installation, replicas={})
    assert "redis" not in {process.name for process in plan.processes}
    assert plan.running.redis_url == "redis://127.0.0.1:6379/3"
    assert not plan.warnings


def test_without_any_redis_it_is_said_loudly(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "find_redis_server", lambda: None)
    plan = plan_mesh(installation, replicas={})
    assert {process.name for process in plan.processes} == {
        "payment_rpc",
        "order_rpc",
        "merchant_rpc",
        "gateway",
        "sandbox",
    }
    assert "WITHOUT flash sale" in plan.warnings[0]
    assert "seckill_rpc" not in plan.running.grpc
    assert json.loads(env_of(plan, "gateway")["GATEWAY_ABSENT_SERVICES"]) == ["seckill_rpc"], (
        "the gateway would never be ready"
    )
    assert "GATEWAY_ABSENT_SERVICES" not in env_of(plan, "order_rpc")


def test_our_own_redis_is_closed_and_never_evicts(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "find_redis_server", lambda: "/bin/true")
    plan = plan_mesh(installation, replicas={})
    config = (installation.redis_dir / "redis.conf").read_text()
    assert "bind 127.0.0.1\n" in config
    assert "maxmemory-policy noeviction\n" in config
    assert "appendonly yes\n" in config
    password = installation.secret_file("redis").read_text()
    assert f"requirepass {password}" in config
    assert password in plan.running.redis_url
    assert password not in repr(plan)


def test_bad_settings_are_named_all_at_once_without_their_values(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_PORT", "hidden1")
    monkeypatch.setenv("PAYMESH_LOG_LEVEL", "hidden2")
    with pytest.raises(PlanRefused) as refusal:
        plan_mesh(installation, replicas={})
    assert "PORT" in str(refusal.value)
    assert "LOG_LEVEL" in str(refusal.value)
    assert "hidden" not in str(refusal.value)


def test_production_is_not_run_by_up(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAYMESH_ENVIRONMENT", "production")
    monkeypatch.setenv("PAYMESH_USER_TOKEN_SECRET_FILE", "")
    with pytest.raises(PlanRefused, match="PAYMESH_ENVIRONMENT"):
        plan_mesh(installation, replicas={})


def test_the_gateway_is_well_when_it_reaches_every_service() -> None:
    assert readiness_url("http://127.0.0.1:8080", ["order_rpc", "payment_rpc"]) == (
        "http://127.0.0.1:8080/readyz?service=order_rpc&service=payment_rpc"
    )


def test_no_password_stands_in_the_environment_that_we_make(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "find_redis_server", lambda: "/bin/true")
    plan = plan_mesh(installation, replicas={})
    secrets = [installation.secret_file(name).read_text() for name in SECRETS]
    told = [value for process in plan.processes for value in process.env.values()]
    assert [value for value in told if any(secret in value for secret in secrets)] == []
    for process in plan.processes:
        if process.name == "redis":
            continue
        for name, value in process.env.items():
            monkeypatch.setenv(name, value)
        settings = read_settings(process.name)
        assert settings.redis_url == plan.running.redis_url, "the password comes from its file"
        for name in process.env:
            monkeypatch.delenv(name)


def test_metrics_have_the_same_ports_at_every_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "is_port_free", lambda host, port: True)
    monkeypatch.setenv("ORDER_RPC_METRICS_PORT", "9999")
    monkeypatch.setenv("PAYMENT_RPC_DATABASE_URL", MYSQL)
    plan = plan_mesh(Installation(tmp_path / "var").prepare(), replicas={"payment_rpc": 2})
    metrics = dict(plan.running.metrics)
    assert metrics.pop("payment_rpc-2") not in metrics.values()
    assert metrics == {
        "gateway": "127.0.0.1:9464",
        "payment_rpc": "127.0.0.1:9465",
        "order_rpc": "127.0.0.1:9999",
        "seckill_rpc": "127.0.0.1:9467",
        "merchant_rpc": "127.0.0.1:9468",
    }


def test_a_usual_port_of_metrics_that_is_taken_is_no_reason_not_to_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "is_port_free", lambda host, port: port != 9464)
    plan = plan_mesh(Installation(tmp_path / "var").prepare(), replicas={})
    assert plan.running.metrics["gateway"] != "127.0.0.1:9464"
