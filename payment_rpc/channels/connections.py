"""HTTP connections to one channel, one per call in flight.

Not httpx's own pool: that one looks at every connection for every request, with a system call for each idle one. At 64 calls in flight it costs
5 ms of CPU per call, this costs what one connection costs.
"""

from __future__ import annotations

import asyncio
import functools
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import httpx

CONNECTIONS_MAX = 200      # calls in flight; more wait
_KEEPALIVE_SECONDS = 30.0  # shorter than the channel keeps an idle connection, so that no request meets a closing one


class ConnectionsBusy(Exception):
    """No connection became free in time: nothing was sent."""


@functools.cache
def _tls() -> ssl.SSLContext:
    """Verifies the channel's certificate; made once, it takes 20 ms."""
    return httpx.create_ssl_context(trust_env=False)


class Connections:
    """A stack of clients with one connection each: the one used last is used next, so the rest may fall idle and are opened again when needed."""

    def __init__(self, *, connections_max: int) -> None:
        self._free: list[httpx.AsyncClient] = []
        self._slots = asyncio.Semaphore(connections_max)

    @asynccontextmanager
    async def stream(self, method: str, url: str, *, content: bytes | None, headers: Mapping[str, str], timeout: httpx.Timeout,
                     wait_seconds: float) -> AsyncIterator[httpx.Response]:
        """Sends a request; the body of the response has to be read inside the block.

        Raises:
            ConnectionsBusy: none became free within `wait_seconds`. httpx.HTTPError: as httpx does.
        """
        try:
            async with asyncio.timeout(wait_seconds):
                await self._slots.acquire()
        except TimeoutError:
            raise ConnectionsBusy("too many calls in flight") from None
        try:
            client = self._free.pop() if self._free else _new_client()
            try:
                async with client.stream(method, url, content=content, headers=headers, timeout=timeout) as response:
                    yield response
            finally:
                self._free.append(client)
        finally:
            self._slots.release()

    async def aclose(self) -> None:
        """Closes what is idle. Call it when no call is in flight any more."""
        while self._free:
            await self._free.pop().aclose()


def _new_client() -> httpx.AsyncClient:
    return httpx.AsyncClient(
        trust_env=False, follow_redirects=False,  # the environment has no say in where card numbers go, nor has an answer
        verify=_tls(), limits=httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=_KEEPALIVE_SECONDS))
