"""`paymesh up` runs the simulated payment providers beside the mesh."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from pathlib import Path

import httpx
import pytest

from mesh.settings import SettingsRefused, read_settings
from payment_rpc.account_keys import read_keys
from payment_rpc.settings import PaymentSettings
from paymesh_cli import checks, safety
from paymesh_cli.findings import Level
from paymesh_cli.supervisor import plan as planning
from paymesh_cli.supervisor.installation import Installation, RunningMesh
from paymesh_cli.supervisor.plan import MeshPlan, PlanRefused, plan_mesh
from paymesh_cli.supervisor.processes import ProcessPlan
from sandbox.providers.__main__ import PROVIDERS
from sandbox.providers.settings import NAMES, ProviderSettings
from tests.support.processes import Processes

PORTS = {
    f"{name}_PORT": "0"
    for name in (
        "GATEWAY",
        "PAYMENT_RPC",
        "ORDER_RPC",
        "SECKILL_RPC",
        "MERCHANT_RPC",
        "SANDBOX",
        *(f"PROVIDERS_{name.upper()}" for name in NAMES),
    )
}


@pytest.fixture
def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installation:
    for name, value in PORTS.items():
        monkeypatch.setenv(name, value)
    return Installation(tmp_path / "var").prepare()


def plan_of(installation: Installation) -> MeshPlan:
    return plan_mesh(installation, replicas={}, with_providers=True)


def process_of(plan: MeshPlan) -> ProcessPlan:
    [found] = [process for process in plan.processes if process.name == "providers"]
    return found


def test_the_names_are_those_of_the_providers_in_their_order() -> None:
    assert tuple(provider.name for provider in PROVIDERS) == NAMES


def test_each_provider_gets_a_port_of_its_own_and_is_published(installation: Installation) -> None:
    plan = plan_of(installation)
    assert tuple(plan.running.providers) == NAMES
    ports = {url.rpartition(":")[2] for url in plan.running.providers.values()}
    others = {url.rpartition(":")[2] for url in plan.running.urls.values()}
    assert len(ports) == len(NAMES)
    assert not ports & others
    told = process_of(plan).env
    assert {told[f"PROVIDERS_{name.upper()}_PORT"] for name in NAMES} == ports


def test_payment_rpc_finds_them_and_they_find_the_gateway(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(installation)
    for name, value in next(one.env for one in plan.processes if one.name == "payment_rpc").items():
        monkeypatch.setenv(name, value)
    settings = read_settings(PaymentSettings)
    assert settings.provider_urls == plan.running.providers
    assert settings.btcpay_servers == [plan.running.providers["btcpay"]]
    assert settings.callback_base_url == plan.running.urls["gateway"]
    assert settings.account_key_file is not None
    assert len(read_keys(settings.account_key_file)) == 1


def test_without_them_accounts_find_the_providers_themselves(installation: Installation) -> None:
    plan = plan_mesh(installation, replicas={})
    told = next(one.env for one in plan.processes if one.name == "payment_rpc")
    assert not {"PAYMENT_RPC_PROVIDER_URLS", "PAYMENT_RPC_BTCPAY_SERVERS"} & told.keys()
    assert told["PAYMENT_RPC_ACCOUNT_KEY_FILE"]


def test_they_can_be_left_out(installation: Installation) -> None:
    plan = plan_mesh(installation, replicas={})
    assert "providers" not in {process.name for process in plan.processes}
    assert plan.running.providers == {}


def test_a_usual_port_that_is_taken_is_no_reason_not_to_start(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PROVIDERS_STRIPE_PORT")
    monkeypatch.delenv("PROVIDERS_PAYPAL_PORT")
    monkeypatch.setattr(planning, "is_port_free", lambda host, port: port != 8091)
    providers = plan_of(installation).running.providers
    assert not providers["stripe"].endswith(":8091")
    assert providers["paypal"] == "http://127.0.0.1:8092"


def test_a_port_that_somebody_asked_for_and_is_taken_is_named(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        monkeypatch.setenv("PROVIDERS_WECHAT_PORT", str(port))
        with pytest.raises(PlanRefused, match=f"port {port} is taken.*PROVIDERS_WECHAT_PORT"):
            plan_of(installation)


def test_a_host_of_the_services_is_not_theirs(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAYMESH_HOST", "0.0.0.0")
    plan = plan_of(installation)
    assert process_of(plan).env["PROVIDERS_HOST"] == "127.0.0.1"
    settings, _ = safety.read_all(installation.var_dir)
    assert settings["providers"].host == "127.0.0.1"


def test_they_leave_loopback_only_when_they_are_told_that_the_network_is_private(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PROVIDERS_HOST", "0.0.0.0")
    with pytest.raises(SettingsRefused, match="private network"):
        read_settings(ProviderSettings)
    monkeypatch.setenv("PROVIDERS_ALLOW_NETWORK", "true")
    assert read_settings(ProviderSettings).host == "0.0.0.0"


def test_the_process_serves_all_of_them_under_the_host_that_it_is_told(
    installation: Installation, processes: Processes
) -> None:
    plan = plan_of(installation)
    process = process_of(plan)
    assert "refused" in asyncio.run(process.probe()), "nothing serves yet"
    started = processes.command(
        *process.command, env={**process.env, "PROVIDERS_PUBLIC_HOST": "localhost"}
    )
    started.wait_for(lambda: asyncio.run(process.probe()) == "", "answers of all providers")
    port = plan.running.providers["paypal"].rpartition(":")[2]
    order = httpx.post(
        f"http://127.0.0.1:{port}/v1/oauth2/token",
        auth=("paymesh-simulator-client", "paymesh-simulator-secret"),
        data={"grant_type": "client_credentials"},
        trust_env=False,
    )
    assert order.status_code == 200
    log = [json.loads(line) for line in started.log_text().splitlines() if '"serving"' in line]
    assert [entry["provider"] for entry in log] == list(NAMES)
    assert all(re.fullmatch(r"http://localhost:\d+", entry["address"]) for entry in log)


async def test_the_doctor_sees_a_provider_that_does_not_answer(free_port: int) -> None:
    dead = f"http://127.0.0.1:{free_port}"
    running = RunningMesh(
        supervisor_pid=1, urls={"gateway": dead, "sandbox": dead}, providers={"stripe": dead}
    )
    findings = await checks.check_health({}, running)
    [seen] = [finding for finding in findings if finding.what == "health providers"]
    assert seen.level is Level.FAILURE
