"""Registers a server with the local Consul agent, and again whenever the agent has lost it, as long
as the process runs. No request waits for Consul.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from typing import Any

from mesh.backoff import Backoff
from mesh.discovery import Endpoint
from mesh.discovery.consul import BACKOFF_SECONDS, SERVICE_NAME
from mesh.discovery.consul_transport import GRACE_SECONDS, AsyncConsul, ConsulUnavailable
from mesh.discovery.loop import Loop
from mesh.logs import get_logger

log = get_logger()

# longest time until a lost registration is noticed; costs one request to the local machine
RECONCILE_SECONDS = 10.0
REGISTER_BACKOFF_MAX_SECONDS = 10.0
START_SECONDS = 2.0  # how long startup waits for the first registration
# how long shutdown waits for the agent; afterwards the failing check removes this server
STOP_SECONDS = 3.0
CHECK_INTERVAL_SECONDS = 5.0
CHECK_TIMEOUT_SECONDS = 2.0
CHECK_FAILURES = 2  # one failed check under load must not remove the server
DEREGISTER_AFTER = "1m"  # Consul's minimum


class ConsulRegistrar:
    """Implements `mesh.discovery.Registrar` on the local Consul agent: registers one server, and
    again whenever the agent has lost it.
    """

    def __init__(
        self,
        *,
        address: str,
        token: str | None,
        check_interval_seconds: float = CHECK_INTERVAL_SECONDS,
        check_failures: int = CHECK_FAILURES,
        reconcile_seconds: float = RECONCILE_SECONDS,
        grace_seconds: float = GRACE_SECONDS,
        backoff_seconds: float = BACKOFF_SECONDS,
        backoff_max_seconds: float = REGISTER_BACKOFF_MAX_SECONDS,
        start_seconds: float = START_SECONDS,
        stop_seconds: float = STOP_SECONDS,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """Opens no connection yet.

        Args:
            address: "host:port" of the agent.
            token: ACL token, or None.
            check_interval_seconds: how often the agent queries the health service; at least 1 s on
                a real agent.
            check_failures: failed checks in a row after which callers stop using this server.
            reconcile_seconds: how often the agent is asked whether it still has the registration.
            grace_seconds: deadline of a request.
            backoff_seconds: first pause after a failure; doubles with each, with jitter.
            backoff_max_seconds: longest pause.
            start_seconds: how long `register` waits for the agent.
            stop_seconds: how long `deregister` waits for the agent.
            jitter: numbers in [0, 1).

        Raises:
            ValueError: the address is not "host:port".
        """
        self._consul = AsyncConsul(address, token=token, grace_seconds=grace_seconds)
        self._check_interval_seconds = check_interval_seconds
        self._check_failures = check_failures
        self._reconcile_seconds = reconcile_seconds
        self._start_seconds = start_seconds
        self._stop_seconds = stop_seconds
        self._backoff = Backoff(
            first_seconds=backoff_seconds, max_seconds=backoff_max_seconds, jitter=jitter
        )
        self._loop = Loop(
            self.run_once, name="consul-registrar", defect_pause_seconds=backoff_max_seconds
        )
        self._registration: dict[str, Any] = {}
        self._announced = False
        self._failing = False
        self._closed = False

    async def register(
        self,
        *,
        service: str,
        endpoint: Endpoint,
        grpc_services: tuple[str, ...],
        meta: Mapping[str, str],
        tls: bool,
    ) -> None:
        """Registers a server and keeps it registered until `deregister`, also when this call
        raises. Callers see it once its health checks pass: one for each of `grpc_services`, or one
        for the whole process when there are none.

        Raises:
            ConsulUnavailable: the agent did not accept it within `start_seconds`; it is retried in
                the background.
            ValueError: not the name of a service, or registered already.
        """
        if SERVICE_NAME.fullmatch(service) is None:
            raise ValueError(f"not the name of a service: {service!r}")
        if self._registration:
            raise ValueError(f"{self._registration['ID']} is registered already")
        self._registration = self._describe(
            service=service, endpoint=endpoint, grpc_services=grpc_services, meta=meta, tls=tls
        )
        try:
            async with asyncio.timeout(self._start_seconds):
                await self._announce()
        except TimeoutError:
            raise ConsulUnavailable(
                f"Consul did not take the registration within {self._start_seconds:g} s"
            ) from None
        finally:
            self._loop.start()

    async def run_once(self) -> float:
        """Checks whether the agent has the registration and registers if not. Returns the seconds
        to wait before the next check.
        """
        try:
            if not (self._announced and await self._consul.knows(self._registration["ID"])):
                await self._announce()
        except ConsulUnavailable as error:
            if not self._failing:
                log.warning(
                    "consul_registration_failing", id=self._registration["ID"], error=str(error)
                )
            self._failing = True
            return self._backoff.next_seconds()
        self._failing = False
        self._backoff.reset()
        return self._reconcile_seconds

    async def deregister(self) -> None:
        """Removes the registration and closes every connection. Never raises and takes at most
        `stop_seconds`: when the agent does not answer, the failing health check removes the
        server.
        """
        if self._closed:
            return
        self._closed = True
        try:
            async with asyncio.timeout(self._stop_seconds):
                # a registration in flight must not arrive after the deregistration
                await self._loop.finish()
                if self._registration:
                    await self._consul.deregister(self._registration["ID"])
                    log.info("consul_deregistered", id=self._registration["ID"])
        except (TimeoutError, ConsulUnavailable) as error:
            log.warning(
                "consul_not_deregistered", id=self._registration.get("ID"), error=repr(error)
            )
        finally:
            await self._loop.stop()
            await self._consul.close()

    async def _announce(self) -> None:
        service_id = self._registration["ID"]
        await self._consul.register(self._registration)
        # Left by the previous process: the agent keeps it over restarts. One that an operator sets
        # later stays, because the agent then has the registration.
        await self._consul.end_maintenance(service_id)
        self._announced = True
        log.info("consul_registered", id=service_id)

    def _describe(
        self,
        *,
        service: str,
        endpoint: Endpoint,
        grpc_services: tuple[str, ...],
        meta: Mapping[str, str],
        tls: bool,
    ) -> dict[str, Any]:
        return {
            # stable over restarts: a crash leaves no stale entry beside the new one
            "ID": f"{service}-{endpoint.host}-{endpoint.port}",
            "Name": service,
            "Address": endpoint.host,
            "Port": endpoint.port,
            "Meta": dict(meta),
            "Checks": [
                self._check(f"{endpoint}/{name}" if name else str(endpoint), tls=tls)
                for name in grpc_services or ("",)
            ],
        }

    def _check(self, target: str, *, tls: bool) -> dict[str, Any]:
        return {
            "Name": f"gRPC health of {target}",
            "GRPC": target,  # host:port/service, not a URL
            # the expected name in the certificate, and the agent's own certificate, are configured
            # in the agent
            "GRPCUseTLS": tls,
            "Interval": f"{self._check_interval_seconds:g}s",
            "Timeout": f"{CHECK_TIMEOUT_SECONDS:g}s",
            "FailuresBeforeCritical": self._check_failures,
            "DeregisterCriticalServiceAfter": DEREGISTER_AFTER,
        }
