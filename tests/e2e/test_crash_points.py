"""Every crash point x kill -9 and SIGTERM. Whatever the process leaves, somebody finishes: within
the scaled limits no row is unfinished, the same key gives the same payment, and the audit of the
whole mesh finds nothing.

`make proof` runs the whole matrix on SQLite and MariaDB. `make test` takes one story of some points
of payment_rpc, order_rpc and merchant_rpc, on SQLite; which ones, and how they die, depends on PMTEST_SEED.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from itertools import groupby

import pytest

from tests.conftest import PROOF
from tests.e2e import merchant_crashes, order_crashes, payment_crashes
from tests.e2e.crashes import RUNS, SERVICES, TIMES, Crash, CrashMesh, Mode, Run, Scenario, table
from tests.e2e.mesh_processes import FREE_PORTS, MeshProcesses
from tests.support.processes import Processes
from tests.support.sources import failpoints

SCENARIOS = [
    *payment_crashes.SCENARIOS,
    *order_crashes.SCENARIOS,
    *merchant_crashes.SCENARIOS,
]
SEED = os.environ["PMTEST_SEED"]
# In `make test`, drawn by the seed. test_order_process.py and test_merchant_crashes.py kill these two
# services at each of their points too.
PAYMENT_POINTS, ORDER_POINTS, MERCHANT_POINTS = 6, 1, 2


def matrix() -> list[tuple[Scenario, Mode]]:
    """What this run runs."""
    if PROOF:
        return [(scenario, mode) for scenario in SCENARIOS for mode in Mode]
    chance = random.Random(SEED)
    by_point = sorted(payment_crashes.SCENARIOS, key=lambda scenario: scenario.point)
    of_each_point = [
        chance.choice(list(group))
        for _, group in groupby(by_point, key=lambda scenario: scenario.point)
    ]
    chosen = chance.sample(of_each_point, PAYMENT_POINTS)
    chosen += chance.sample(order_crashes.SCENARIOS, ORDER_POINTS)
    chosen += chance.sample(merchant_crashes.SCENARIOS, MERCHANT_POINTS)
    return [(scenario, chance.choice(list(Mode))) for scenario in chosen]


@pytest.fixture(scope="module", params=["sqlite", "mariadb"] if PROOF else ["sqlite"])
def crash_mesh(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[CrashMesh]:
    urls: dict[str, str] = {}
    if request.param == "mariadb":
        server = request.getfixturevalue("mariadb_server")
        urls = {
            f"{service}_DATABASE_URL": server.create_database()
            for service in ("PAYMENT_RPC", "ORDER_RPC", "MERCHANT_RPC")
        }
    processes = Processes(tmp_path_factory.mktemp("logs"))
    mesh = MeshProcesses(
        tmp_path_factory.mktemp("mesh"),
        processes,
        env={"PAYMESH_ENVIRONMENT": "test", **TIMES, **urls},
        armable=SERVICES,
    )
    mesh.migrate()
    crash_mesh = CrashMesh(mesh, request.param)
    try:
        crash_mesh.start()
        yield crash_mesh
    finally:
        crash_mesh.close()
        processes.destroy()
        for url in urls.values():
            server.drop_database(url)
        processes.check_refusals()


@pytest.mark.parametrize(
    ("scenario", "mode"),
    [pytest.param(scenario, mode, id=f"{mode}-{scenario.name}") for scenario, mode in matrix()],
)
def test_what_a_crash_leaves_is_finished(
    crash_mesh: CrashMesh, scenario: Scenario, mode: Mode
) -> None:
    try:
        RUNS.append(Crash(crash_mesh, scenario, mode).run())
    except BaseException as failure:
        failure.add_note(
            "\n\n".join(
                f"{name}\n{process.log_tail(15)}"
                for name, process in crash_mesh.processes.running.items()
            )
        )
        raise


def test_the_command_finds_nothing_after_all_of_them(crash_mesh: CrashMesh) -> None:
    mesh = crash_mesh.processes
    command = [
        sys.executable,
        "-m",
        "paymesh_cli",
        "audit",
        "--strict",
        "--var-dir",
        str(mesh.installation.var_dir),
        "--sandbox-url",
        mesh.plan.running.urls["sandbox"],
        "--sandbox-key-file",
        str(mesh.installation.secret_file("sandbox_api")),
    ]
    urls = {
        f"{service.upper()}_DATABASE_URL": url for service, url in mesh.plan.database_urls.items()
    }
    ended = subprocess.run(
        command,
        env={**os.environ, **FREE_PORTS, **urls},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_a_process_that_passes_its_point_alive_fails_the_run(crash_mesh: CrashMesh) -> None:
    def story(crash: Crash) -> None:
        crash.strike(lambda: crash.buyer.get("/api/v1/wallet"), death_seconds=0.1)

    crash = Crash(
        crash_mesh,
        Scenario(
            point="payment.charge.after_tx1", variant="never", service="payment_rpc", story=story
        ),
        Mode.KILL,
    )
    with pytest.raises(AssertionError, match="still runs"):
        crash.run()
    crash_mesh.processes.arm("payment_rpc", "")


def test_a_scenario_without_a_crash_fails_the_run(crash_mesh: CrashMesh) -> None:
    crash = Crash(
        crash_mesh,
        Scenario(
            point="payment.charge.after_tx1",
            variant="nothing",
            service="payment_rpc",
            story=lambda _: None,
        ),
        Mode.KILL,
    )
    with pytest.raises(AssertionError, match="nothing was struck"):
        crash.run()


def test_every_point_of_the_code_has_a_story() -> None:
    # test_seckill_faults.py has theirs, test_provider_crashes.py those of channels with ids of
    # their own, of their messages, and of captures: the sandbox holds no money
    elsewhere = ("seckill.", "payment.channel.", "payment.callback.", "order.ship.after_capture")
    here = {point for point in failpoints() if not point.startswith(elsewhere)}
    assert {scenario.point for scenario in SCENARIOS} == here
    assert len({(scenario.service, scenario.name) for scenario in SCENARIOS}) == len(SCENARIOS)
    assert len({scenario.point for scenario, _ in matrix()}) >= PAYMENT_POINTS + 2


def test_the_table_counts_points_and_runs() -> None:
    scenario = payment_crashes.SCENARIOS[0]
    runs = [
        Run(scenario=scenario, mode=mode, dialect=dialect, rest_seconds=1.25)
        for mode in Mode
        for dialect in ("mariadb", "sqlite")
    ]
    lines = table(runs)
    assert (
        lines[0].split()[-9:]
        == [
            "seconds",
            "sqlite",
            "kill",
            "sqlite",
            "term",
            "mariadb",
            "kill",
            "mariadb",
            "term",
            "runs",
        ][1:]
    )
    assert lines[1].split() == [scenario.name, "1.2", "1.2", "1.2", "1.2", "4"]
    assert lines[2] == "4 runs of 1 scenarios at 1 points"
