"""Sends signed notices to the shop, with the provider's own rule of signing and repeating, and
misbehaves on demand: twice, in the wrong order, not before it is told to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final

import httpx

from mesh.clock import Clock
from mesh.logs import get_logger
from mesh.times import rfc3339

SEND_TIMEOUT_SECONDS: Final = 10.0
_TICK_SECONDS = 0.1  # how late a repetition may be that becomes due because the clock was moved
_ANSWER_BYTES_MAX = 2048

_log = get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where notices go. `secret` is for providers that sign with one; "" where the notice names its
    own URL.
    """

    url: str
    secret: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """A notice before it is signed.

    Attributes:
        id: the provider's id of the event.
        kind: its type, for people who read the list.
        body: what is signed and sent; a rule may render it anew for each try.
        url: the address that the shop gave with its request; "": the registered one.
    """

    id: str
    kind: str
    body: bytes
    url: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """The request that carries a notice."""

    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryRule:
    """A provider's rule.

    Attributes:
        render: signs a notice for a target; the number counts tries from 1.
        is_accepted: whether an answer (status, body) ends the delivery.
        pause_seconds: the pause after so many failed tries (from 1) whose last answer had this
            status (None: there was none); None gives the notice up.
        target: where notices go until somebody says otherwise.
    """

    render: Callable[[Notice, Target, int], Outgoing]
    is_accepted: Callable[[int, bytes], bool]
    pause_seconds: Callable[[int, int | None], float | None]
    target: Target | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    """How deliveries misbehave.

    Attributes:
        duplicate: how many more times each notice is sent.
        reorder: a notice waits for the next one, and the newer goes first.
        hold: nothing is sent before `flush`.
    """

    duplicate: int = 0
    reorder: bool = False
    hold: bool = False


@dataclass(slots=True, kw_only=True)
class Delivery:
    """A notice on its way. `due_at` is None when it was accepted or given up."""

    notice: Notice
    due_at: datetime | None
    tries: int = 0
    accepted: bool = False
    statuses: list[int | None] = field(default_factory=list)  # of each try; None: no answer
    answer: str = ""

    def shown(self) -> dict[str, Any]:
        """The delivery as JSON."""
        return {
            "id": self.notice.id,
            "kind": self.notice.kind,
            "url": self.notice.url,
            "body": self.notice.body.decode("utf-8", "replace"),
            "tries": self.tries,
            "accepted": self.accepted,
            "statuses": self.statuses,
            "answer": self.answer,
            "due_at": None if self.due_at is None else rfc3339(self.due_at),
        }


class Deliveries:
    """All notices of one provider. One loop sends them, one after another."""

    def __init__(self, rule: DeliveryRule, *, clock: Clock) -> None:
        self._rule = rule
        self._clock = clock
        self.target = rule.target
        self.mode = Mode()
        self._all: list[Delivery] = []
        self._by_notice: dict[str, list[Delivery]] = {}
        self._open: list[Delivery] = []  # those that are due some time
        self._wake = asyncio.Event()
        self._one_round = asyncio.Lock()  # the loop and `flush` would send the same notice twice

    def send(self, notice: Notice) -> None:
        """Queues a notice. Without an address it is listed, but never sent."""
        url = notice.url or (self.target.url if self.target else "")
        due_at = self._clock.now() if url else None
        for _ in range(1 + self.mode.duplicate):
            one = Delivery(notice=replace(notice, url=url), due_at=due_at)
            self._all.append(one)
            self._by_notice.setdefault(notice.id, []).append(one)
            if due_at is not None:
                self._open.append(one)
        self._wake.set()

    @property
    def deliveries(self) -> tuple[Delivery, ...]:
        """All deliveries, oldest notice first."""
        return tuple(self._all)

    def is_accepted(self, notice_id: str) -> bool:
        """True when the shop has taken a notice."""
        return any(one.accepted for one in self._by_notice.get(notice_id, ()))

    async def flush(self) -> int:
        """Sends all that waits, held back or for a repetition; returns how many tries were made."""
        return await self._send(list(self._open))

    async def run_once(self) -> int:
        """Sends what is due; returns how many tries were made."""
        if self.mode.hold:
            return 0
        now = self._clock.now()
        due = [one for one in self._open if one.due_at is not None and one.due_at <= now]
        if self.mode.reorder and len(due) == 1 and due[0].tries == 0:
            return 0
        return await self._send(due)

    async def run(self) -> None:
        """Sends until cancelled."""
        while True:
            if not await self.run_once():
                self._wake.clear()
                try:
                    async with asyncio.timeout(_TICK_SECONDS):
                        await self._wake.wait()
                except TimeoutError:
                    continue

    async def _send(self, due: list[Delivery]) -> int:
        async with self._one_round:
            waiting = [one for one in due if one.due_at is not None]
            if self.mode.reorder:
                waiting.reverse()
            async with httpx.AsyncClient(timeout=SEND_TIMEOUT_SECONDS, trust_env=False) as client:
                for one in waiting:
                    await self._try(client, one)
            self._open = [one for one in self._open if one.due_at is not None]
        return len(waiting)

    async def _try(self, client: httpx.AsyncClient, one: Delivery) -> None:
        one.tries += 1
        target = Target(url=one.notice.url, secret=self.target.secret if self.target else "")
        outgoing = self._rule.render(one.notice, target, one.tries)
        status, answer = None, b""
        try:
            response = await client.post(
                target.url, content=outgoing.body, headers=outgoing.headers
            )
            status, answer = response.status_code, response.content
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            answer = type(error).__name__.encode()
        one.statuses.append(status)
        one.answer = answer[:_ANSWER_BYTES_MAX].decode("utf-8", "replace")
        one.accepted = status is not None and self._rule.is_accepted(status, answer)
        pause = None if one.accepted else self._rule.pause_seconds(one.tries, status)
        one.due_at = None if pause is None else self._clock.now() + timedelta(seconds=pause)
        if not one.accepted:
            _log.info("notice not taken", id=one.notice.id, tries=one.tries, answer=one.answer)
