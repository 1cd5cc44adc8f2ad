"""Private Consul agents for tests: a single server in memory on free loopback ports, so that a
restart forgets everything, as the loss of a cluster does. CONSUL_BIN, `consul` on PATH, or what
tools/fetch-consul unpacked; missing is a loud skip, and an error when CI is set."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tools.processes import ROOT, Process, free_port
from tools.servers import START_ATTEMPTS, find_program, missing

FETCHED = ROOT / "var" / "tools" / "consul" / "usr" / "bin" / "consul"
READY = "agent: Synced node info"  # a leader is elected and the catalogue knows the agent


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentTls:
    """The certificate that the agent shows when it checks the health of a server, and what it
    expects of the server's.

    Attributes:
        ca_file: whom it believes.
        cert_file: its own certificate, for servers that ask for one.
        key_file: the key of it.
        server_name: a DNS name that the certificate of every server must have (agents without one
            expect the name of their node).
    """

    ca_file: Path
    cert_file: Path
    key_file: Path
    server_name: str

    def configuration(self) -> dict[str, Any]:
        return {
            "enable_agent_tls_for_checks": True,
            "server_name": self.server_name,
            "ca_file": str(self.ca_file),
            "cert_file": str(self.cert_file),
            "key_file": str(self.key_file),
        }


def find_consul() -> str:
    """The program; skips or fails the test when there is none."""
    given = os.environ.get("CONSUL_BIN")
    found = given or find_program("consul") or (str(FETCHED) if FETCHED.exists() else None)
    if found is None or shutil.which(found) is None:
        missing(
            "Consul",
            hint=f"CONSUL_BIN={given} is no program"
            if given
            else "run tools/fetch-consul, or set CONSUL_BIN",
        )
    return found


class Agent:
    """A Consul agent. `start()` after `kill()` or `stop()` brings it back empty, on the same port.

    Attributes:
        address: "host:port" of its HTTP API.
        token: the ACL token that may do everything; "" when access is not restricted.
    """

    def __init__(self, folder: Path, *, tls: AgentTls | None = None, token: str = "") -> None:
        self.folder = folder
        self.token = token
        self._tls = tls
        self._port = 0
        self._starts = 0
        self._process: Process | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    @property
    def process(self) -> Process:
        """Its process, to freeze and thaw it or to read its log."""
        assert self._process is not None, "not started"
        return self._process

    def start(self) -> Self:
        """Starts it and waits until it has a leader."""
        program = find_consul()
        self.folder.mkdir(parents=True, exist_ok=True)
        is_new = not self._port
        for attempt in range(START_ATTEMPTS):
            self._port = self._port or free_port()
            self._starts += 1
            (self.folder / "agent.json").write_text(json.dumps(self._configuration()))
            # An own log for each start: the wait below must not see the line of the one before.
            self._process = Process(
                program,
                "agent",
                "-dev",
                "-config-file",
                str(self.folder / "agent.json"),
                name="consul",
                log_path=self.folder / f"consul-{self._starts}.log",
                cwd=self.folder,
            ).start()
            try:
                self._process.wait_for_log(READY)
                break
            except AssertionError:
                self._process.destroy()
                if attempt == START_ATTEMPTS - 1 or not is_new:
                    raise
                self._port = 0
        return self

    def stop(self) -> None:
        """Ends it by SIGTERM. It runs in memory: whatever it knew is gone."""
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()

    def destroy(self) -> None:
        """Ends it in whatever state it is."""
        if self._process is not None:
            self._process.destroy()

    def _configuration(self) -> dict[str, Any]:
        configuration: dict[str, Any] = {
            "bind_addr": "127.0.0.1",
            "client_addr": "127.0.0.1",
            "node_name": "test",
            "ports": {
                "http": self._port,
                "server": free_port(),
                "serf_lan": free_port(),
                "serf_wan": -1,
                "dns": -1,
                "grpc": -1,
            },
            "disable_update_check": True,
        }
        if self._tls is not None:
            configuration |= self._tls.configuration()
        if self.token:
            configuration["acl"] = {
                "enabled": True,
                "default_policy": "deny",
                "tokens": {"master": self.token, "agent": self.token},
            }
        return configuration


@contextlib.contextmanager
def start_agent(folder: Path, *, tls: AgentTls | None = None, token: str = "") -> Iterator[Agent]:
    """Runs an agent with its log in `folder`.

    Args:
        folder: for configuration and log.
        tls: how it checks the health of servers that speak TLS; None for plaintext or its node's
            name.
        token: restricts access to whoever shows this token (a UUID).
    """
    agent = Agent(folder, tls=tls, token=token)
    try:
        yield agent.start()
        agent.stop()
    finally:
        agent.destroy()


@contextlib.contextmanager
def running_agent() -> Iterator[Agent]:
    """Runs an agent in a temporary folder of its own."""
    with (
        tempfile.TemporaryDirectory(prefix="paymesh-consul-") as folder,
        start_agent(Path(folder)) as agent,
    ):
        yield agent
