"""Whether what a process cannot work without can be used. Each is asked every few seconds; when one
has been unusable for some seconds the process says NOT_SERVING, so that callers and the registry
pass it over, and SERVING again as soon as it works."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from time import monotonic

import structlog
from prometheus_client import Gauge

from mesh.clock import Monotonic, Seconds
from mesh.db import DatabaseBusy
from mesh.errors import Conflict
from mesh.traffic import LOOKING
from mesh.worker import together

ASK_EVERY_SECONDS = 5.0  # a round trip or two: nothing beside what an idle process does anyway
ASK_AGAIN_SECONDS = 1.0  # while something is unusable
ANSWER_SECONDS_MAX = 5.0
UNUSABLE_SECONDS = 5.0  # before it is said: a failover or a restart is over by then
Check = Callable[[], Awaitable[object]]

log = structlog.get_logger()
_USABLE = Gauge(
    "paymesh_dependency_usable", "1 while a dependency of this process can be used.", ["dependency"]
)


class Dependencies:
    """Asks in a loop; a worker of `mesh.server.serve`.

    Args:
        checks: by name; each raises when what it asks cannot be used. DatabaseBusy and Conflict say
            nothing: too much work is no outage, and others would only get this process' share.
        tell: gets whether all of them can be used, whenever that changes.
    """

    def __init__(
        self,
        checks: Mapping[str, Check],
        tell: Callable[[bool], None],
        *,
        now: Monotonic = monotonic,
    ) -> None:
        self._checks = checks
        self._tell = tell
        self._now = now
        self._failing_since: dict[str, Seconds] = {}
        self._is_usable = True
        self._stopping = asyncio.Event()
        for name in checks:
            _USABLE.labels(name).set(1)

    def stop(self) -> None:
        """Ends the loop."""
        self._stopping.set()

    async def run(self) -> None:
        """Asks until `stop`. That a question was answered is no traffic for which workers should
        hurry.
        """
        LOOKING.set(True)
        while not self._stopping.is_set():
            await self.ask()
            try:
                pause = (
                    ASK_AGAIN_SECONDS
                    if self._failing_since
                    else together(ASK_EVERY_SECONDS, ASK_EVERY_SECONDS)
                )
                async with asyncio.timeout(pause):
                    await self._stopping.wait()
            except TimeoutError:
                pass

    async def ask(self) -> None:
        """Asks everything once."""
        await asyncio.gather(*(self._ask(name, check) for name, check in self._checks.items()))
        unusable = sorted(
            name
            for name, since in self._failing_since.items()
            if self._now() - since >= UNUSABLE_SECONDS
        )
        for name in self._checks:
            _USABLE.labels(name).set(name not in unusable)
        if bool(unusable) is self._is_usable:
            self._is_usable = not unusable
            if unusable:
                log.error("not_serving", alert=True, unusable=unusable)
            else:
                log.warning("serving_again")
            self._tell(self._is_usable)

    async def _ask(self, name: str, check: Check) -> None:
        asked_at = self._now()
        try:
            async with asyncio.timeout(ANSWER_SECONDS_MAX):
                await check()
        except (DatabaseBusy, Conflict):
            return
        except Exception as problem:  # noqa: BLE001  whatever it is, the dependency was of no use
            if name not in self._failing_since:
                log.warning(
                    "dependency_failed",
                    dependency=name,
                    cause=f"{type(problem).__name__}: {problem}"[:200],
                )
            self._failing_since.setdefault(name, asked_at)
        else:
            self._failing_since.pop(name, None)
