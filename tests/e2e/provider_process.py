"""A `ProviderShop` in a process of its own, which can be killed. One process imports everything and
is forked for each shop, so that a shop is there within milliseconds.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.builders.provider_shop import provider_shop
from tests.support.fakes import FakeClock

ANSWER_SECONDS = 60.0
IDS_OF_ONE_PROCESS = 1_000_000
_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload([__name__])


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a shop keeps what outlives its process, and which simulators it calls."""

    payment_url: str
    order_url: str
    folder: Path
    urls: Mapping[str, str]


class ShopDied(Exception):
    """The process ended during a deed; says how."""


class ShopProcess:
    """The shop as its neighbours see it."""

    def __init__(self, place: Place, clock: FakeClock, *, number: int) -> None:
        """`number`: of this process among all of its place, from 1."""
        self.number = number
        self._clock = clock
        self._line, theirs = _forks.Pipe()
        log = place.folder / f"{number:02d}.log"
        self._process = _forks.Process(
            target=_serve, args=(theirs, place, clock.now(), number, log), daemon=True
        )
        self._process.start()
        theirs.close()

    async def do(self, deed: str, **named: Any) -> Any:
        """A deed of the shop.

        Raises:
            ShopDied: the process ended before it answered.
        """
        return await asyncio.to_thread(self._do, deed, named)

    def _do(self, deed: str, named: Mapping[str, Any]) -> Any:
        try:
            self._line.send((self._clock.now(), deed, named))
            if not self._line.poll(ANSWER_SECONDS):
                raise AssertionError(f"{deed} has no answer after {ANSWER_SECONDS} s")
            answer = self._line.recv()
        except (EOFError, ConnectionError):
            self._process.join(ANSWER_SECONDS)
            raise ShopDied(f"{deed}: exit code {self._process.exitcode}") from None
        if isinstance(answer, BaseException):
            raise answer
        return answer

    @property
    def was_killed(self) -> bool:
        """Ended by kill -9."""
        return self._process.exitcode == -signal.SIGKILL

    def stop(self) -> None:
        """Ends it, at whatever it is."""
        self._line.close()
        self._process.kill()
        self._process.join()
        self._process.close()


def _serve(line: Connection, place: Place, now: datetime, number: int, log: Path) -> None:
    with log.open("w") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    asyncio.run(_run(line, place, now, number))


async def _run(line: Connection, place: Place, now: datetime, number: int) -> None:
    own = place.folder / f"sandbox-{number}"
    own.mkdir()
    async with provider_shop(place.payment_url, place.order_url, own, place.urls) as shop:
        world = shop.joined.money
        world.ids.begin_after(number * IDS_OF_ONE_PROCESS)
        world.clock.set(now)
        while True:
            try:
                moment, deed, named = await asyncio.to_thread(line.recv)
            except EOFError:
                return
            world.clock.set(moment)
            try:
                answer = await shop.do(deed, **named)
            except Exception as failure:  # noqa: BLE001  # the caller raises it
                answer = AssertionError(f"{deed}: {type(failure).__name__}: {failure}")
            line.send(answer)
