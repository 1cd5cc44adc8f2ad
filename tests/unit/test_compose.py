"""compose.yaml without an engine: its settings exist and are accepted, its files are made or committed, nothing is published to others."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from mesh.settings import MeshSettings
from tests.processes import ROOT

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service["command"][2] for name, service in SERVICES.items() if service.get("command", [])[:2] == ["python", "-m"]}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What the one-shot job makes, by the folder that the containers see."""
    folders = {name: tmp_path_factory.mktemp(name.strip("/")) for name in ("/secrets", "/infrastructure")}
    for _ in range(2):  # a second `up` finds its own files
        run("make-secrets", SECRETS_DIR=folders["/secrets"], INFRASTRUCTURE_DIR=folders["/infrastructure"])
    return folders


def run(script: str, *arguments: str, **variables: object) -> str:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run([ROOT / "deploy" / "compose" / script, *arguments], capture_output=True, text=True, check=False, cwd=ROOT,
                          env={"PATH": path, **{name: str(value) for name, value in variables.items()}})
    assert done.returncode == 0, done.stderr
    return done.stdout


def settings_of(module: str) -> type[MeshSettings]:
    imported = __import__(f"{module}.settings", fromlist=["settings"])
    return next(kind for kind in vars(imported).values() if isinstance(kind, type) and issubclass(kind, MeshSettings) and kind is not MeshSettings)


def test_the_five_processes_are_there() -> None:
    assert sorted(OURS.values()) == ["gateway", "order_rpc", "payment_rpc", "payment_rpc", "sandbox", "seckill_rpc"]


@pytest.mark.parametrize(("name", "module"), OURS.items())
def test_every_variable_of_a_service_is_a_setting_that_it_accepts(name: str, module: str, made: dict[str, Path],
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    environment = SERVICES[name]["environment"]
    kind = settings_of(module)
    known = {f"{prefix}_{field}".upper() for field in kind.model_fields for prefix in (module, "PAYMESH")}
    assert sorted(environment.keys() - known) == []
    for variable, value in environment.items():
        assert isinstance(value, str), variable
        folder = "/" + value.split("/")[1] if value.startswith("/") else ""
        here = value.replace(folder, str(made[folder]), 1) if folder in made else value
        monkeypatch.setenv(variable, here)
        assert folder not in made or Path(here).exists(), f"the job `secrets` does not make {variable}={value}"
    settings = kind()
    assert settings.host == "0.0.0.0"
    assert settings.service == module


def test_passwords_reach_the_services_as_urls(made: dict[str, Path]) -> None:
    told = run("with-infrastructure", "env", INFRASTRUCTURE_DIR=made["/infrastructure"])
    for service in ("payment_rpc", "order_rpc", "seckill_rpc"):
        password = (made["/infrastructure"] / service).read_text()
        assert re.fullmatch("[0-9a-f]{32}", password)
        assert f"{service.upper()}_DATABASE_URL=mysql+aiomysql://{service}:{password}@mysql:3306/{service}?charset=utf8mb4\n" in told
    assert re.search(r"PAYMESH_REDIS_URL=redis://:[0-9a-f]{64}@redis:6379/0\n", told)


def test_private_keys_stay_with_our_user(made: dict[str, Path]) -> None:
    open_to_others = [path.name for path in made["/secrets"].rglob("*") if path.suffix in {".key", ".secret"} and path.stat().st_mode & 0o077]
    assert open_to_others == []
    assert made["/secrets"].stat().st_mode & 0o077 == 0


def test_everything_that_is_published_is_published_on_loopback() -> None:
    assert [port for service in SERVICES.values() for port in service.get("ports", []) if not port.startswith("127.0.0.1:")] == []


def test_every_image_has_a_version_and_every_file_and_volume_is_there() -> None:
    for name, service in SERVICES.items():
        assert ":" in service["image"], name
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            assert (ROOT / source).is_file() if source.startswith(".") else source in COMPOSE["volumes"], f"{name}: {mount}"
        for script in [*service.get("entrypoint", [])[:1], *(service["command"][:1] if name == "secrets" else [])]:
            assert os.access(ROOT / "deploy" / "compose" / script, os.X_OK), script


def test_nothing_waits_for_the_health_of_something_that_has_no_check() -> None:
    for name, service in SERVICES.items():
        for other, how in service.get("depends_on", {}).items():
            match how["condition"]:
                case "service_healthy":
                    assert "healthcheck" in SERVICES[other], f"{name} waits for {other}"
                case "service_completed_successfully":
                    assert SERVICES[other]["restart"] == "no", f"{name} waits for {other}, which is started again"
                case condition:
                    raise AssertionError(condition)


def test_the_image_copies_what_the_build_may_see() -> None:
    seen = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {source for line in (ROOT / "Dockerfile").read_text().splitlines() if line.startswith("COPY ") and "--from" not in line
              for source in line.split()[1:-1]}
    assert copied <= seen
