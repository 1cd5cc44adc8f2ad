"""What is known first of a payment that is being sent: the channel's answer, or that its money is
here, which a callback may tell sooner.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

from payment_rpc.domain.facts import ChannelFact
from payment_rpc.usecases.facts import Applied, Facts

log = structlog.get_logger()


class FirstNews:
    """Waits for a channel no longer than the buyer has to."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._late: set[asyncio.Future[ChannelFact]] = set()

    async def of(
        self, payment_id: str, sending: Coroutine[Any, Any, ChannelFact]
    ) -> ChannelFact | Applied:
        """The answer of the channel; or the payment with its money, when that is known first. Who
        goes away takes the call to the channel along.
        """
        with self._facts.expect(payment_id) as captured:
            answer = asyncio.create_task(sending)
            first: set[asyncio.Future[Any]] = {answer, captured}
            try:
                await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            except asyncio.CancelledError:
                answer.cancel()
                raise
            if answer.done():
                return answer.result()
            self._late.add(answer)
            answer.add_done_callback(self._came_late)
            return captured.result()

    def _came_late(self, answer: asyncio.Future[ChannelFact]) -> None:
        """An answer that nobody waits for any more. That the money is here was known before;
        whatever else it says comes by callback or statement.
        """
        self._late.discard(answer)
        if not answer.cancelled() and (problem := answer.exception()) is not None:
            log.warning("late_answer_failed", problem=type(problem).__name__)
