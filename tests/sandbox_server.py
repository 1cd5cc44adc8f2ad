"""A sandbox inside a test: the real one, on a real socket, with the test's clock."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mesh.clock import Clock
from mesh.ids import Ids
from payment_rpc.channels.sandbox import SandboxChannel
from sandbox.server import listen, make_server
from sandbox.service import Sandbox, SandboxConfig, open_sandbox
from tests.fakes import FakeClock, FakeIds

API_KEY = "test-api-key-0123456789abcdef0123"
CALLBACK_SECRET = "test-callback-secret-0123456789ab"
MD5_SECRET = "ymall-payment-secret-key-2024"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningSandbox:
    """A sandbox that answers at `base_url`. Callbacks go out when the test calls `sandbox.run_once()`."""

    base_url: str
    sandbox: Sandbox

    def channel(self, *, api_key: str = API_KEY) -> SandboxChannel:
        """An adapter to it; close it with `aclose`."""
        return SandboxChannel(base_url=self.base_url, api_key=api_key, callback_secret=CALLBACK_SECRET, md5_secret=MD5_SECRET)


def config(folder: Path, **changes: Any) -> SandboxConfig:
    """What a sandbox in a test knows, unless the test says otherwise."""
    values: dict[str, Any] = {
        "database_file": folder / "sandbox.db", "api_key": API_KEY, "public_base_url": "http://cashier.test", "callback_secret": CALLBACK_SECRET,
        "md5_secret": MD5_SECRET, "allow_signatures": True, **changes}
    return SandboxConfig(**values)


class ShiftedIds:
    """FakeIds that begin elsewhere: two sandboxes on one file must not make the same ids."""

    def __init__(self, first: int) -> None:
        self._numbers = itertools.count(first)

    def new(self, prefix: str) -> str:
        return f"{prefix}{next(self._numbers):026d}"


@asynccontextmanager
async def running_sandbox(folder: Path, *, clock: Clock | None = None, ids: Ids | None = None, sleep: Any = asyncio.sleep,
                          **changes: Any) -> AsyncIterator[RunningSandbox]:
    """Serves a sandbox on a free port until the end of the block; its file lies in `folder` and stays."""
    listener = listen("127.0.0.1", 0)
    base_url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    changes = {"public_base_url": base_url, **changes}
    async with open_sandbox(config(folder, **changes), clock=clock or FakeClock(), ids=ids or FakeIds(), new_token=lambda: secrets.token_urlsafe(32),
                            sleep=sleep) as sandbox:
        server = make_server(sandbox.app)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield RunningSandbox(base_url=base_url, sandbox=sandbox)
        finally:
            server.stop()
            await task
