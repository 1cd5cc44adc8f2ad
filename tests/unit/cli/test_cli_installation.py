from __future__ import annotations

import stat
from pathlib import Path

import pytest

from mesh.auth import CallerTokens
from mesh.secret_files import read_secret
from mesh.settings import MeshSettings
from paymesh_cli.supervisor.installation import (
    CALLERS,
    SECRETS,
    Installation,
    InstallationBusy,
    InstallationUnusable,
    RunningMesh,
)
from tests.support.fakes import FakeClock, FakeIds


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_everything_below_var_is_closed_to_others(installation: Installation) -> None:
    for path in (installation.var_dir, *installation.var_dir.rglob("*")):
        assert mode(path) & 0o077 == 0, path
    for name in SECRETS:
        assert len(read_secret(installation.secret_file(name))) == 64


def test_every_secret_is_its_own(installation: Installation, tmp_path: Path) -> None:
    other = Installation(tmp_path / "other").prepare()
    secrets = [
        read_secret(one.secret_file(name)) for one in (installation, other) for name in SECRETS
    ]
    assert len(set(secrets)) == len(secrets)


def test_preparing_again_changes_no_secret(installation: Installation) -> None:
    files = [*installation.keys_dir.glob("*.*"), *installation.public_keys_dir.glob("*.*")]
    before = {file: file.read_bytes() for file in files}
    installation.prepare()
    assert {file: file.read_bytes() for file in files} == before


def test_permissions_that_are_too_open_are_closed(installation: Installation) -> None:
    installation.var_dir.chmod(0o755)
    installation.secret_file("user_token").chmod(0o644)
    installation.prepare()
    assert mode(installation.var_dir) == 0o700
    assert mode(installation.secret_file("user_token")) == 0o600


def test_a_public_key_lost_between_two_writes_is_derived_again(installation: Installation) -> None:
    public = installation.public_key_file("order_rpc")
    expected = public.read_bytes()
    public.unlink()
    installation.prepare()
    assert public.read_bytes() == expected


def test_a_service_is_believed_by_its_public_key(installation: Installation) -> None:
    clock, ids = FakeClock(), FakeIds()
    tokens = {
        service: CallerTokens.from_settings(
            MeshSettings(
                service=service,
                caller_key_file=installation.caller_key_file(service),
                caller_keys_dir=installation.public_keys_dir,
            ),
            clock=clock,
            ids=ids,
        )
        for service in CALLERS
    }
    assert (
        tokens["payment_rpc"].verify(tokens["order_rpc"].sign("payment_rpc")).service == "order_rpc"
    )


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "var").write_text("a file")
    with pytest.raises(InstallationUnusable, match="var"):
        Installation(tmp_path / "var").prepare()


def test_one_supervisor_at_a_time(installation: Installation) -> None:
    installation.lock()
    with pytest.raises(InstallationBusy, match="running here already"):
        installation.lock()  # another open file: as another process


def test_the_running_mesh_is_known_while_its_supervisor_lives(installation: Installation) -> None:
    import os

    mesh = RunningMesh(
        supervisor_pid=1, urls={"gateway": "http://127.0.0.1:1"}, pids={"gateway": 2}
    )
    assert installation.running() is None
    lock = installation.lock()
    assert installation.running() is None
    installation.write_running(mesh)
    assert installation.running() == mesh
    os.close(lock)  # as kill -9: the file stays
    assert installation.running() is None
    installation.lock()
    installation.clear_running()
    assert installation.running() is None
