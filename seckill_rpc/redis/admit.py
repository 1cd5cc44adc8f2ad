"""The admission script: which clicks enter the queue of an activity. One call serves many buyers.
Its answers are true at that instant, by the clock of Redis.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

from seckill_rpc.redis.keys import Keys
from seckill_rpc.redis.scripts import ScriptName, Scripts

# How long a QUEUED view lives: far longer than a queue takes, but a view whose entry was lost ends.
QUEUED_SECONDS = 600
# 20 000 orders a second for ten seconds; more could not be served while a buyer waits
QUEUE_MAX = 200_000
CLICKS_MAX = 500  # per call: some 5 ms of Redis, in which Redis serves no other client


class AdmitCode(IntEnum):
    """The answer to a click."""

    QUEUED = 0  # it is queued (or an entry of the draw); detail: the order id
    REPLAY_QUEUED = 1  # it was queued already; detail: the order id of the first time
    SOLD_OUT = 2  # detail: clicks that are not decided yet
    LIMIT = 3  # the buyer has reached the limit; detail: units held or queued
    NOT_STARTED = 4  # detail: milliseconds until the start
    ENDED = 5  # or closing, or closed; detail: as with SOLD_OUT, or empty
    # not published, being rebuilt, or older than min_epoch: ask again with the same request id
    NOT_READY = 6
    BUSY = 7  # the queue is full, or Redis has no memory; nothing was reserved
    REPLAY_LIVE = 8  # it has become an order already; detail: the order id
    PAUSED = 9  # detail: as with SOLD_OUT


_CODES = {str(int(code)): code for code in AdmitCode}


class Click(NamedTuple):
    """One buyer's click, with the order id that it gets if it is admitted."""

    user_id: str
    request_id: str
    order_id: str


class AdmitReply(NamedTuple):
    """The answer to one click. `AdmitCode` says what `detail` is for each code; otherwise it is
    empty.
    """

    code: AdmitCode
    detail: str


async def admit(
    scripts: Scripts,
    keys: Keys,
    clicks: Sequence[Click],
    *,
    min_epoch: int = 0,
    line_max: int = QUEUE_MAX,
    queued_seconds: int = QUEUED_SECONDS,
) -> tuple[int, list[AdmitReply]]:
    """Admits clicks to the queue of an activity.

    Returns the epoch in Redis (0: none) and one reply per click, in order.

    Args:
        clicks: at most CLICKS_MAX; the same click twice is a replay.
        min_epoch: 0 for buyers. The row's epoch when a consumer admits entries of an older epoch
            again: they were in time once, so window, pause, closing and queue length are not
            checked, and a draw is over for them.
        line_max: queued entries, or entries of the draw, above which the answer is BUSY.

    Raises:
        ValueError: more than CLICKS_MAX clicks.
        RedisError: whether they were admitted is unknown; the same request ids find out.
    """
    if len(clicks) > CLICKS_MAX:
        raise ValueError(f"{len(clicks)} clicks in one call, at most {CLICKS_MAX}")
    args: list[str | int] = [len(clicks), queued_seconds, line_max, min_epoch]
    for click in clicks:
        args += click
    before, after = keys.view_affixes
    views = [f"{before}{click.user_id}{after}" for click in clicks]
    reply: str = await scripts.run(
        ScriptName.ADMIT, [keys.meta, keys.users, keys.queue, keys.entries, *views], args
    )
    epoch, *answers = reply.split("\n")
    return int(epoch), [
        AdmitReply(_CODES[code], detail)
        for code, detail in zip(answers[::2], answers[1::2], strict=True)
    ]
