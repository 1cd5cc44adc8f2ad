"""Checks the dependencies that a process cannot work without, every few seconds. When one has been
unusable for UNUSABLE_SECONDS the process reports NOT_SERVING, so that callers and the registry
avoid it. It reports SERVING again as soon as the dependency works."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from time import monotonic

from prometheus_client import Gauge

from mesh.clock import Monotonic, Seconds
from mesh.db import DatabaseBusy
from mesh.errors import Conflict
from mesh.logs import get_logger
from mesh.traffic import LOOKING
from mesh.worker import together

ASK_EVERY_SECONDS = 5.0  # a round trip or two: negligible even in an idle process
ASK_AGAIN_SECONDS = 1.0  # while something is unusable
ANSWER_SECONDS_MAX = 5.0
UNUSABLE_SECONDS = 5.0  # before NOT_SERVING: a failover or a restart is over by then
Check = Callable[[], Awaitable[object]]

log = get_logger()
_USABLE = Gauge(
    "paymesh_dependency_usable", "1 while a dependency of this process can be used.", ["dependency"]
)


class Dependencies:
    """Runs the checks in a loop; a worker of `mesh.server.serve`.

    Args:
        checks: by name; each raises when its dependency is unusable. DatabaseBusy and Conflict are
            ignored: overload is no outage, and NOT_SERVING would only move it to other replicas.
        tell: called with whether all dependencies are usable, whenever that changes.
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
        """Runs the checks until `stop`. They do not count as traffic, which would make workers poll
        more often.
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
        """Runs every check once."""
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
        except Exception as problem:  # noqa: BLE001  whatever it is, the dependency was unusable
            if name not in self._failing_since:
                log.warning(
                    "dependency_failed",
                    dependency=name,
                    cause=f"{type(problem).__name__}: {problem}"[:200],
                )
            self._failing_since.setdefault(name, asked_at)
        else:
            self._failing_since.pop(name, None)
