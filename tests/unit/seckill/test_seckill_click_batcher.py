"""Clicks that share a call: a lone one waits for nobody, many wait for the next call together, and
whoever goes away takes nobody with him.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from seckill_rpc.domain.errors import SeckillNotReady
from seckill_rpc.redis.admit import AdmitCode, AdmitReply, Click
from seckill_rpc.usecases.admission.click_batcher import ClickBatcher
from seckill_rpc.usecases.admission.response_batcher import BATCH_SECONDS


class Script:
    """The admission script: lets everybody in, when the test lets it."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.began_at: list[float] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.fails = False

    async def __call__(self, clicks: Sequence[Click]) -> tuple[int, Sequence[AdmitReply]]:
        self.batches.append([click.user_id for click in clicks])
        self.began_at.append(asyncio.get_running_loop().time())
        await self.may_answer.wait()
        if self.fails:
            raise RuntimeError("broken")
        return 7, [AdmitReply(code=AdmitCode.QUEUED, detail=click.order_id) for click in clicks]


def click(number: int) -> Click:
    return Click(user_id=f"u{number}", request_id="a", order_id=f"ORD{number}")


async def test_everybody_gets_his_own_answer_and_no_batch_is_too_large() -> None:
    script = Script()
    coalescer = ClickBatcher(script, batch_max=64, calls_max=2)
    answers = await asyncio.gather(*(coalescer.submit(click(number)) for number in range(200)))
    assert [admission.detail for _, admission in answers] == [
        f"ORD{number}" for number in range(200)
    ]
    assert {epoch for epoch, _ in answers} == {7}
    assert sum(map(len, script.batches)) == 200
    assert max(map(len, script.batches)) == 64


async def test_calls_begin_apart_so_that_clicks_meet_in_them() -> None:
    script = Script()
    coalescer = ClickBatcher(script, batch_max=64, calls_max=2)
    first = asyncio.create_task(coalescer.submit(click(0)))
    await first
    rest = [asyncio.create_task(coalescer.submit(click(number))) for number in range(1, 10)]
    await asyncio.gather(*rest)
    assert [len(batch) for batch in script.batches] == [1, 9]
    # the clock of the loop is coarse
    assert script.began_at[1] - script.began_at[0] >= BATCH_SECONDS * 0.9


async def test_no_more_calls_than_allowed_are_under_way() -> None:
    script = Script()
    script.may_answer.clear()
    coalescer = ClickBatcher(script, batch_max=1, calls_max=2)
    clicks = [asyncio.create_task(coalescer.submit(click(number))) for number in range(5)]
    async with asyncio.timeout(5):
        while len(script.batches) < 2:
            await asyncio.wait(clicks, timeout=BATCH_SECONDS)
        await asyncio.wait(clicks, timeout=BATCH_SECONDS * 5)
        assert len(script.batches) == 2
        script.may_answer.set()
        await asyncio.gather(*clicks)


async def test_who_goes_away_takes_nobody_with_him_and_is_not_sent() -> None:
    script = Script()
    coalescer = ClickBatcher(script, batch_max=64, calls_max=1)
    clicks = [asyncio.create_task(coalescer.submit(click(number))) for number in range(4)]
    await asyncio.sleep(0)
    clicks[1].cancel()
    answers = await asyncio.gather(*clicks, return_exceptions=True)
    assert isinstance(answers[1], asyncio.CancelledError)
    assert [answer[1].detail for answer in answers if isinstance(answer, tuple)] == [
        "ORD0",
        "ORD2",
        "ORD3",
    ]


async def test_a_call_that_fails_tells_everybody_that_nobody_knows() -> None:
    script = Script()
    script.fails = True
    coalescer = ClickBatcher(script, batch_max=64, calls_max=1)
    answers = await asyncio.gather(
        *(coalescer.submit(click(number)) for number in range(3)), return_exceptions=True
    )
    assert all(
        isinstance(answer, SeckillNotReady) and answer.retry_after_seconds for answer in answers
    )
    script.fails = False
    assert (await coalescer.submit(click(9)))[1].code is AdmitCode.QUEUED


@pytest.mark.parametrize("gone", [0, 1])
async def test_a_batch_of_people_who_have_all_gone_is_not_sent(gone: int) -> None:
    script = Script()
    coalescer = ClickBatcher(script, batch_max=1, calls_max=1)
    clicks = [asyncio.create_task(coalescer.submit(click(number))) for number in range(2)]
    await asyncio.sleep(0)
    clicks[gone].cancel()
    await asyncio.wait(clicks)
    assert script.batches == [[f"u{1 - gone}"]]
