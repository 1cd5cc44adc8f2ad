from __future__ import annotations

import os

import httpx
import pytest
from click.testing import CliRunner

from payment_rpc.channels.providers import PROVIDERS
from paymesh_cli import paymesh
from paymesh_cli.demo_client import DemoFailed
from paymesh_cli.demo_providers import VISITS, Simulator
from paymesh_cli.supervisor.installation import Installation, RunningMesh
from sandbox.providers.settings import NAMES


def run(installation: Installation) -> tuple[int, str]:
    result = CliRunner().invoke(paymesh, ["demo-channels", "--var-dir", str(installation.var_dir)])
    return result.exit_code, result.output


def test_every_provider_with_an_adapter_is_simulated_and_visited() -> None:
    assert set(PROVIDERS) <= set(VISITS) == set(NAMES)


@pytest.mark.parametrize("name", sorted(PROVIDERS))
def test_the_published_credentials_are_such_as_the_adapter_reads(name: str) -> None:
    PROVIDERS[name].parse(VISITS[name].credentials("http://127.0.0.1:8095"))


def test_without_a_running_mesh_the_way_to_one_is_told(installation: Installation) -> None:
    code, output = run(installation)
    assert code == 1
    assert "make run" in output


def test_a_mesh_without_the_simulators_is_told_how_to_have_them(
    installation: Installation,
) -> None:
    lock = installation.prepare().lock()
    try:
        dead = {"gateway": "http://127.0.0.1:1"}
        installation.write_running(RunningMesh(supervisor_pid=os.getpid(), urls=dead))
        code, output = run(installation)
    finally:
        os.close(lock)
    assert code == 1
    assert "--no-providers" in output


def simulator(status: int, text: str) -> Simulator:
    def answer(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(status, text=text)

    client = httpx.Client(transport=httpx.MockTransport(answer))
    return Simulator("toy", "http://toy.test", client, lambda _line: None)


def test_a_deed_that_the_simulator_refuses_ends_the_demo_with_its_words() -> None:
    with pytest.raises(DemoFailed, match="no such order"):
        simulator(409, "no such order").deed("pay", ref="X1")


def test_a_page_that_is_an_error_ends_the_demo() -> None:
    with pytest.raises(DemoFailed, match="HTTP 404"):
        simulator(404, "").page("http://toy.test/pay/1")


def test_a_page_without_a_form_ends_the_demo() -> None:
    toy = simulator(200, "<p>paid already</p>")
    with pytest.raises(DemoFailed, match="expected one form, found 0"):
        toy.press(toy.page("http://toy.test/pay/1"), "pay")
