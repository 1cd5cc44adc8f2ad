"""The admission script: which clicks enter the queue of an activity. One call serves many buyers.
Its answers are true at that instant, by the clock of Redis.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

from seckill_rpc.redis.keys import Keys
from seckill_rpc.redis.scripts import ScriptName, Scripts

# how long a 0 lives: far longer than a line takes, and short enough that a 0 whose place was lost
# is not told for ever
QUEUED_SECONDS = 600
# 20 000 orders a second for ten seconds: queueing what cannot be served in time is a lie
QUEUE_MAX = 200_000
CLICKS_MAX = 500  # per call: some 5 ms of Redis, which serves nobody else meanwhile


class AdmitCode(IntEnum):
    """What became of a click."""

    QUEUED = 0  # it has a place (or is an entry of the draw); detail: the order id
    REPLAY_QUEUED = 1  # it had one already; detail: its order id, made for the first time it came
    SOLD_OUT = 2  # detail: clicks that nothing has decided yet
    LIMIT = 3  # the buyer has what he may have; detail: units he holds or waits for
    NOT_STARTED = 4  # detail: milliseconds until the start
    ENDED = 5  # or closing, or closed; detail: as with SOLD_OUT, or empty
    # not published, being rebuilt, or older than min_epoch: ask again with the same request id
    NOT_READY = 6
    BUSY = 7  # the line is full, or Redis has no memory; nothing was taken
    REPLAY_LIVE = 8  # it has become an order already; detail: the order id
    PAUSED = 9  # detail: as with SOLD_OUT


_CODES = {str(int(code)): code for code in AdmitCode}


class Click(NamedTuple):
    """One buyer's click, with the order id that it will have if it is admitted."""

    user_id: str
    request_id: str
    order_id: str


class AdmitReply(NamedTuple):
    """The answer to one click; what `detail` is stands with the codes, else it is empty."""

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
    """Lets buyers into the line of an activity: the epoch in Redis (0: none) and one answer per
    click, in order.

    Args:
        clicks: at most CLICKS_MAX; the same click twice is a replay.
        min_epoch: 0 for buyers. The row's epoch when a consumer admits entries of an older epoch
            again: those came in time once, so window, pause, closing and the line's length do not
            count any more, and a draw is over for them.
        line_max: entries in the line, or of the draw, above which the answer is BUSY.

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
