"""Probes processes: by the gRPC health service of a server, by an HTTP path that answers 200, or by
a PING of Redis.

A probe never raises and waits a bounded time: no answer means unhealthy.
"""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from mesh.settings import MeshSettings

if TYPE_CHECKING:
    import grpc

PROBE_SECONDS_MAX = 2.0
# http_proxy in the environment must not apply to local probes
_NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))
CHANNEL_OPTIONS = (("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1))


def open_channel(address: str, settings: MeshSettings) -> grpc.aio.Channel:
    """A channel of a command of ours to a server, with TLS where `settings` configure it.

    Raises:
        OSError: a certificate cannot be read.
    """
    import grpc  # noqa: PLC0415  # heavy: the services start while this loads

    from mesh.transport import client_credentials  # noqa: PLC0415

    credentials = client_credentials(settings)
    if credentials:
        return grpc.aio.secure_channel(address, credentials, CHANNEL_OPTIONS)
    return grpc.aio.insecure_channel(address, CHANNEL_OPTIONS)


class Probe(Protocol):
    """A health probe of one process."""

    async def __call__(self) -> str:
        """ "" when the process is healthy, else the problem, for people."""
        ...


@dataclass(frozen=True, slots=True)
class HttpProbe:
    """Healthy when `url` answers 200."""

    url: str
    seconds_max: float = PROBE_SECONDS_MAX

    async def __call__(self) -> str:
        """See `Probe`."""
        return await asyncio.to_thread(self._ask)

    def _ask(self) -> str:
        try:
            # the URL comes from our own plan
            with _NO_PROXY.open(self.url, timeout=self.seconds_max) as answer:
                return "" if answer.status == 200 else f"HTTP {answer.status}"
        except urllib.error.HTTPError as refusal:
            return f"HTTP {refusal.code}: {refusal.read(200).decode(errors='replace')}"
        except (OSError, ValueError) as problem:
            return str(problem)


@dataclass(frozen=True, slots=True)
class AllProbes:
    """Healthy when every one of `probes` is; they are asked one after the other."""

    probes: tuple[Probe, ...]

    async def __call__(self) -> str:
        """See `Probe`."""
        for probe in self.probes:
            if problem := await probe():
                return problem
        return ""


@dataclass(frozen=True, slots=True)
class GrpcProbe:
    """Healthy when the health service at `address` answers SERVING. `settings` configure TLS."""

    address: str
    settings: MeshSettings = field(repr=False)
    seconds_max: float = PROBE_SECONDS_MAX

    async def __call__(self) -> str:
        """See `Probe`."""
        import grpc  # noqa: PLC0415  # heavy, see above
        from grpc_health.v1 import health_pb2, health_pb2_grpc  # noqa: PLC0415

        try:
            async with open_channel(self.address, self.settings) as channel:
                answer = await health_pb2_grpc.HealthStub(channel).Check(
                    health_pb2.HealthCheckRequest(), timeout=self.seconds_max
                )
        except grpc.aio.AioRpcError as refusal:
            return f"{refusal.code().name}: {refusal.details()}"
        except OSError as problem:
            return str(problem)  # a certificate that cannot be read
        status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
        return "" if status == "SERVING" else status


@dataclass(frozen=True, slots=True)
class RedisProbe:
    """Healthy when the server at `url` answers PING."""

    url: str = field(repr=False)  # holds a password

    async def __call__(self) -> str:
        """See `Probe`."""
        from redis.exceptions import RedisError  # noqa: PLC0415  # heavy, see above

        from mesh.redis_client import open_redis  # noqa: PLC0415

        redis = open_redis(self.url)
        try:
            await redis.ping()
        except (RedisError, OSError, TimeoutError) as problem:
            return str(problem) or type(problem).__name__
        finally:
            await redis.aclose()
        return ""
