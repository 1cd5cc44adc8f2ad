"""The gateway's protocol changes how uvicorn's own classes work, which no release promises to keep.
An upgrade that changes one of them fails here before it fails in production.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from mesh.http_server import HttpServer
from tests.support.sources import ROOT, parsed

# What our classes extend, as it was read when they were written. Where one differs: read the
# difference, adapt gateway/protocol.py or mesh/http_server.py, run tests/integration/gateway, and
# only then write the new digest here.
READ: dict[Any, str] = {
    HttpToolsProtocol: "18fdf324b11bf160",
    RequestResponseCycle: "e67d470d435dcc1c",
    uvicorn.Server.main_loop: "afccb353a119333f",
    uvicorn.Server.capture_signals: "e1bbcd4770d1c887",
}


def digest(thing: Any) -> str:
    return hashlib.sha256(inspect.getsource(thing).encode()).hexdigest()[:16]


def test_uvicorn_is_as_it_was_when_our_classes_were_written() -> None:
    assert {thing.__qualname__: digest(thing) for thing in READ} == {
        thing.__qualname__: known for thing, known in READ.items()
    }, f"uvicorn {uvicorn.__version__} changed what gateway/protocol.py builds on"
    assert STATUS_LINE[200] == b"HTTP/1.1 200 OK\r\n"
    assert issubclass(HttpServer, uvicorn.Server)


def test_only_two_files_know_the_inside_of_uvicorn() -> None:
    """The simulators of providers cut connections, which no public interface can."""
    knows = {
        str(path.relative_to(ROOT))
        for package in ("mesh", "gateway", "sandbox", "paymesh_cli")
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("uvicorn.")
    }
    assert knows == {"gateway/protocol.py", "sandbox/providers/faults.py"}
