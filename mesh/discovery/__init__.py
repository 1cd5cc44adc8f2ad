"""Defines how callers find the replicas of a service and how a server registers itself.
`mesh.discovery.static` and `mesh.discovery.consul` implement both sides; callers and servers only
use these protocols.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """One replica: where to connect."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Reads "host:port"; an IPv6 host is in brackets.

        Raises:
            ValueError: no host, or no port between 1 and 65535.
        """
        host, _, port = text.rpartition(":")
        if not host or not (port.isascii() and port.isdigit()) or not 1 <= int(port) <= 65535:
            raise ValueError(f"expected host:port, got {text!r}")
        return cls(host.removeprefix("[").removesuffix("]"), int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Watch(Protocol):
    """The replicas of one service, kept current."""

    def current(self) -> frozenset[Endpoint]:
        """The last known set; empty only before the first answer."""
        ...

    async def changed(self) -> frozenset[Endpoint]:
        """Waits for a set that differs from the one returned last by `current` or `changed`, and
        returns it.
        """
        ...

    async def close(self) -> None:
        """Stops watching. A waiting `changed` is cancelled."""
        ...


class Discovery(Protocol):
    """Finds services by the name of their process, e.g. "payment_rpc"."""

    def watch(self, service: str) -> Watch:
        """Starts watching a service; the first answer may come later (`changed`)."""
        ...

    async def close(self) -> None:
        """Closes every watch and connection."""
        ...


class Registrar(Protocol):
    """Registers this process."""

    async def register(
        self,
        *,
        service: str,
        endpoint: Endpoint,
        grpc_services: tuple[str, ...],
        meta: Mapping[str, str],
        tls: bool,
    ) -> None:
        """Registers `service` at `endpoint`, and keeps it registered until `deregister`.

        Args:
            service: name of the process, e.g. "payment_rpc".
            endpoint: address for callers.
            grpc_services: full names of the proto services that the health service knows.
            meta: facts for people and scrapers, e.g. version and metrics_port.
            tls: whether the port speaks TLS.

        Raises:
            Unavailable: the registry did not answer in time; it is retried in the background, and
                the caller decides whether to continue.
        """
        ...

    async def deregister(self) -> None:
        """Removes the registration. Never raises: when the registry cannot be reached, the
        registration expires there.
        """
        ...
