"""Clients in other languages use what the repository and the gateway publish, with the usual tools
of their language: `protoc`, `buf`, Node's proto loader, and TypeScript over /openapi.json."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from grpc_tools import protoc

from tests.e2e.mesh_processes import MeshProcesses
from tests.support.processes import Processes
from tools.processes import ROOT
from tools.servers import missing

CLIENTS = ROOT / "tests" / "clients"
PROTOS = ROOT / "protos"


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MeshProcesses]:
    processes = Processes(tmp_path_factory.mktemp("logs"))
    mesh = MeshProcesses(tmp_path_factory.mktemp("mesh"), processes)
    try:
        mesh.migrate()
        mesh.start()
        mesh.wait_ready()
        yield mesh
        mesh.close()
    finally:
        processes.destroy()
        processes.check_refusals()


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of tests/clients with its packages."""
    if shutil.which("node") is None or not (CLIENTS / "node_modules").is_dir():
        missing(
            "Node with the packages of tests/clients",
            hint="make servers, or npm ci in tests/clients",
        )
    folder = tmp_path_factory.mktemp("clients") / "clients"
    shutil.copytree(
        CLIENTS, folder, ignore=shutil.ignore_patterns("node_modules", "out", "openapi.d.ts")
    )
    (folder / "node_modules").symlink_to(CLIENTS / "node_modules")
    return folder


def run(*command: str, cwd: Path) -> str:
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def bought(line: str) -> dict[str, Any]:
    said = json.loads(line)
    assert said["transaction_id"] == said["payment_id"]
    return dict(said)


def test_protoc_compiles_the_checkout_without_anything_else(tmp_path: Path) -> None:
    sources = sorted(str(path) for path in PROTOS.rglob("*.proto"))
    well_known = Path(protoc.__file__).parent / "_proto"  # what a protoc brings itself
    assert (
        protoc.main(
            ["protoc", f"-I{PROTOS}", f"-I{well_known}", f"--python_out={tmp_path}", *sources]
        )
        == 0
    )


def test_buf_builds_and_lints_the_checkout() -> None:
    for command in (("build", "-o", os.devnull), ("lint",)):
        run(str(Path(sys.executable).with_name("buf")), *command, cwd=ROOT)


def test_the_stubs_load_with_grpcio_and_protobuf_alone() -> None:
    modules = [
        ".".join(path.relative_to(ROOT / "generated").with_suffix("").parts)
        for path in (ROOT / "generated").rglob("*_pb2*.py")
    ]
    program = f"""import importlib, sys
for name in ("protovalidate", "buf"):
    sys.modules[name] = None
for name in {modules}:
    importlib.import_module(name)"""
    run(sys.executable, "-c", program, cwd=ROOT)


def test_a_node_program_with_the_protos_buys(mesh: MeshProcesses, clients: Path) -> None:
    sku_id, grpc = mesh.product(), mesh.plan.running.grpc
    line = run(
        "node",
        "purchase.cjs",
        str(PROTOS),
        grpc["order_rpc"][0],
        grpc["payment_rpc"][0],
        mesh.person("node").token,
        sku_id,
        cwd=clients,
    )
    assert bought(line)["state"] == "PAYMENT_STATE_SUCCESS"


def test_a_strict_typescript_program_with_the_openapi_document_buys(
    mesh: MeshProcesses, clients: Path
) -> None:
    document = httpx.get(f"{mesh.gateway_url}/openapi.json", timeout=10, trust_env=False)
    (clients / "openapi.json").write_bytes(document.content)
    run("node_modules/.bin/openapi-typescript", "openapi.json", "-o", "openapi.d.ts", cwd=clients)
    run("node_modules/.bin/tsc", "-p", ".", cwd=clients)
    line = run(
        "node",
        "out/purchase.js",
        mesh.gateway_url,
        mesh.person("ts").token,
        mesh.product(),
        cwd=clients,
    )
    assert bought(line)["state"] == "SUCCESS"
