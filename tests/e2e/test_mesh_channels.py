"""`make run` and `make demo-channels`: a developer without accounts sells through the simulated
payment providers.
"""

from __future__ import annotations

from pathlib import Path

from payment_rpc.channels.providers import PROVIDERS
from tests.e2e.up_mesh import Mesh
from tests.support.processes import Processes


def test_the_demo_buys_once_through_each_provider_and_the_books_agree(
    tmp_path: Path, processes: Processes
) -> None:
    mesh = Mesh(tmp_path / "var", processes)
    mesh.start(with_providers=True)
    demo = mesh.paymesh("demo-channels", timeout_seconds=240)
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert demo.stdout.endswith("everything holds at rest\n")
    for name in PROVIDERS:
        assert f"{name} told of it, and its notice was accepted" in demo.stdout
    doctor = mesh.paymesh("doctor")
    assert "health providers" in doctor.stdout
