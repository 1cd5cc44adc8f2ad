"""Runs python-consul on asyncio, through its extension point: `Consul.connect` returns the
transport, here one on httpx. It adds what the library lacks: every request has a deadline; every
request carries the token as a header (the library puts it into the URL, and sends none with
deregister); every failure is `ConsulUnavailable`; only the caller's settings decide where the agent
is.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import httpx
from consul import base

from mesh.discovery import Endpoint
from mesh.errors import Unavailable

T = TypeVar("T")
Params = Sequence[tuple[str, str]] | None

# Consul adds up to a sixteenth of `wait` to a blocking query, so that clients do not return all at
# once.
WAIT_STRETCH = 1 + 1 / 16
GRACE_SECONDS = 5.0  # for everything but the intended wait: connect, send, answer
BODY_EXCERPT = 200  # characters of an error's body in a log line
_WAIT = re.compile(r"([0-9.]+)s")


class ConsulUnavailable(Unavailable):
    """The Consul agent did not answer, refused, or answered what we cannot read.

    Every request we make may be repeated without harm, so that an unknown outcome needs no name of
    its own.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class PassingReplicas:
    """The answer to a query for the replicas that pass their checks.

    Attributes:
        endpoints: their addresses.
        index: index for the next blocking query.
        last_contact_seconds: how long ago the server that answered heard from its leader.
    """

    endpoints: frozenset[Endpoint]
    index: int
    last_contact_seconds: float


class AsyncHttp(base.HTTPClient):  # type: ignore[misc]  # python-consul has no types
    """The transport of python-consul whose methods return awaitables."""

    def __init__(
        self, host: str, port: int, scheme: str = "http", *, token: str, grace_seconds: float
    ) -> None:
        super().__init__(host, port, scheme)
        self._grace_seconds = grace_seconds
        self._client = httpx.AsyncClient(
            headers={"X-Consul-Token": token} if token else {},
            # an HTTP proxy in the environment must not be used for the local agent
            trust_env=False,
            # a watch holds one each
            limits=httpx.Limits(
                max_connections=100, max_keepalive_connections=4, keepalive_expiry=60.0
            ),
        )

    async def get(
        self, callback: Callable[[base.Response], T], path: str, params: Params = None
    ) -> T:
        """Sends GET and passes the answer to `callback`."""
        return await self._request("GET", path, callback=callback, params=params, data="")

    async def put(
        self,
        callback: Callable[[base.Response], T],
        path: str,
        params: Params = None,
        data: str = "",
    ) -> T:
        """Sends PUT and passes the answer to `callback`."""
        return await self._request("PUT", path, callback=callback, params=params, data=data)

    def post(self, *_: object, **__: object) -> NoReturn:
        """Abstract in the library; never used by paymesh."""
        raise NotImplementedError

    def delete(self, *_: object, **__: object) -> NoReturn:
        """As `post`."""
        raise NotImplementedError

    async def close(self) -> None:
        """Closes every connection."""
        await self._client.aclose()

    async def _request(
        self,
        method: str,
        path: str,
        *,
        callback: Callable[[base.Response], T],
        params: Params,
        data: str,
    ) -> T:
        deadline_seconds = self._deadline_seconds(params)
        timeout = httpx.Timeout(self._grace_seconds, read=deadline_seconds)
        try:
            # httpx limits each wait for bytes; only the outer timeout ends an agent that sends one
            # byte at a time.
            async with asyncio.timeout(deadline_seconds):
                answer = await self._client.request(
                    method, self.uri(path, params), content=data, timeout=timeout
                )
            return callback(base.Response(answer.status_code, answer.headers, answer.text))
        except (TimeoutError, httpx.TimeoutException) as error:
            raise ConsulUnavailable(
                f"Consul did not answer {method} {path} within {deadline_seconds:g} s"
            ) from error
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise ConsulUnavailable(f"Consul is away: {method} {path}: {error!r}") from error
        except base.ConsulException as error:
            raise ConsulUnavailable(
                f"Consul refused {method} {path}: {str(error)[:BODY_EXCERPT]}"
            ) from error
        except (LookupError, TypeError, ValueError) as error:
            raise ConsulUnavailable(
                f"Consul's answer to {method} {path} cannot be read: {error!r}"
            ) from error

    def _deadline_seconds(self, params: Params) -> float:
        match = _WAIT.fullmatch(dict(params or ()).get("wait", ""))
        return (float(match[1]) * WAIT_STRETCH if match else 0.0) + self._grace_seconds


class AsyncConsul(base.Consul):  # type: ignore[misc]  # python-consul has no types
    """The calls that paymesh makes to its local agent. All raise only ConsulUnavailable."""

    http: AsyncHttp

    def __init__(
        self, address: str, *, token: str | None = None, grace_seconds: float = GRACE_SECONDS
    ) -> None:
        """Opens no connection yet.

        Args:
            address: "host:port" of the agent's HTTP API.
            token: ACL token, or None.
            grace_seconds: how long a request may take besides the `wait` of a blocking query.

        Raises:
            ValueError: the address is not "host:port".
        """
        # The library's own constructor is not called: it lets CONSUL_HTTP_* override what it is
        # given and refuses to start when CONSUL_HTTP_ADDR is a URL, which Consul's own tools
        # accept.
        if "/" in address:
            raise ValueError(f"expected host:port, got {address!r}")
        agent = Endpoint.parse(address)
        self._token_header = token or ""
        self._grace_seconds = grace_seconds
        self.token = None  # never as a parameter of the URL
        self.dc = None
        self.http = self.connect(
            f"[{agent.host}]" if ":" in agent.host else agent.host, agent.port, "http"
        )
        self.agent = base.Consul.Agent(self)

    def connect(
        self,
        host: str,
        port: int,
        scheme: str,
        verify: bool = True,  # noqa: ARG002, FBT001, FBT002  the library's signature
        cert: None = None,  # noqa: ARG002  as above
    ) -> AsyncHttp:
        """python-consul's extension point: makes the transport."""
        return AsyncHttp(
            host, port, scheme, token=self._token_header, grace_seconds=self._grace_seconds
        )

    async def close(self) -> None:
        """Closes every connection."""
        await self.http.close()

    async def register(self, registration: Mapping[str, object]) -> None:
        """Registers a service with the agent as in `registration`, with these checks and no others
        (the library supports neither GRPC checks, Meta nor replacement).
        """
        await self.http.put(
            base.CB.bool(),
            "/v1/agent/service/register",
            params=[("replace-existing-checks", "true")],
            data=json.dumps(registration),
        )

    async def deregister(self, service_id: str) -> None:
        """Deregisters a service from the agent; an unknown one is no error."""
        await self.agent.service.deregister(service_id)

    async def end_maintenance(self, service_id: str) -> None:
        """Takes a service out of maintenance, which the agent keeps over restarts."""
        await self.agent.service.maintenance(service_id, "false")

    async def knows(self, service_id: str) -> bool:
        """Whether the agent itself (not the catalogue) knows a service."""
        return await self.http.get(_known, f"/v1/agent/service/{service_id}")

    async def passing(
        self, service: str, *, index: int, wait_seconds: float, stale: bool
    ) -> PassingReplicas:
        """The replicas that pass their checks.

        Args:
            service: name of the service.
            index: the index of the last answer, to wait for a newer one; 0 returns the present
                state at once.
            wait_seconds: how long to wait for a change.
            stale: whether any server may answer, also without a leader.
        """
        params = [("passing", "1")]
        if stale:
            params.append(("stale", ""))
        if index > 0:
            params += [("index", str(index)), ("wait", f"{wait_seconds:g}s")]
        return await self.http.get(_passing, f"/v1/health/service/{service}", params=params)


def _known(response: base.Response) -> bool:
    # Not CB.json(allow_404=True): it expects an index with a 404, which agent endpoints do not
    # send.
    if response.code == 404:
        return False
    base.CB.json()(response)
    return True


def _passing(response: base.Response) -> PassingReplicas:
    index, entries = base.CB.json(allow_404=False, index=True)(response)
    return PassingReplicas(
        endpoints=frozenset(
            endpoint for entry in entries or () if (endpoint := _endpoint(entry)) is not None
        ),
        index=int(index),
        last_contact_seconds=int(response.headers.get("X-Consul-LastContact", "0")) / 1000,
    )


def _endpoint(entry: Mapping[str, Any]) -> Endpoint | None:
    """The address of a replica: its own, else its node's. None for a service without a port, which
    cannot be called.
    """
    service = entry["Service"]
    host, port = str(service["Address"] or entry["Node"]["Address"]), int(service["Port"])
    return Endpoint(host, port) if host and 0 < port < 65536 else None
