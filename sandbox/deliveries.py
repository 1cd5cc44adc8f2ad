"""Delivers callbacks until the receiver says `success`. At least once: a crash between the answer
and its record delivers again, with the same event id and the same bytes under a fresh timestamp and
signature.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import httpx

from mesh.clock import Clock
from mesh.logs import get_logger
from mesh.times import milliseconds
from sandbox import store
from sandbox.signatures import sign_callback
from sandbox.store import Delivery, Store

# of one whole delivery: after a later answer it is sent again
SEND_TIMEOUT_SECONDS = 3.0
_BATCH = 16  # deliveries in flight at once
_ANSWER = b"success"

_log = get_logger()


class Deliveries:
    """Sends the callbacks that are due."""

    def __init__(
        self,
        channel_store: Store,
        client: httpx.AsyncClient,
        *,
        clock: Clock,
        url: str | None,
        secret: str,
        retry_seconds: Sequence[float],
    ) -> None:
        self._store = channel_store
        self._client = client
        self._clock = clock
        self._url = url
        self._secret = secret
        self._retry_seconds = tuple(retry_seconds)
        # the worker and a charge whose callback precedes its response would send the same callback
        # twice
        self._one_round = asyncio.Lock()

    async def run_once(self) -> int:
        """Sends each due callback once; returns how many were tried."""
        if self._url is None:
            return 0
        async with self._one_round:
            due = await self._store.run(
                store.list_due_deliveries, now=self._clock.now(), limit=_BATCH
            )
            await asyncio.gather(*(self._deliver(delivery, self._url) for delivery in due))
        return len(due)

    async def _deliver(self, delivery: Delivery, url: str) -> None:
        error = await self._send(delivery.body, url)
        if error is None:
            await self._store.run(store.save_delivered, delivery.event_id)
            return
        tries = delivery.attempts + 1
        due_at = (
            None
            if tries > len(self._retry_seconds)
            else self._clock.now() + timedelta(seconds=self._retry_seconds[tries - 1])
        )
        _log.warning(
            "callback not taken",
            event_id=delivery.event_id,
            tries=tries,
            error=error,
            given_up=due_at is None,
        )
        await self._store.run(store.save_undelivered, delivery.event_id, error=error, due_at=due_at)

    async def _send(self, body: bytes, url: str) -> str | None:
        """Sends one callback; returns the problem, or None."""
        timestamp = str(milliseconds(self._clock.now()))
        headers = {
            "content-type": "application/json",
            "x-channel-timestamp": timestamp,
            "x-channel-signature": sign_callback(self._secret, timestamp=timestamp, body=body),
        }
        try:
            async with (
                asyncio.timeout(SEND_TIMEOUT_SECONDS),
                self._client.stream("POST", url, content=body, headers=headers) as response,
            ):
                answer = b""
                async for chunk in response.aiter_raw():
                    answer += chunk
                    if len(answer) > len(_ANSWER):
                        break
        except TimeoutError:
            return "timeout"
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return type(error).__name__
        if response.status_code != httpx.codes.OK:
            return f"status {response.status_code}"
        return None if answer == _ANSWER else "the answer is not `success`"
