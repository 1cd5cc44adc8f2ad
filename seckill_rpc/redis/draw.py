"""The draw script: every entry has the same chance, and a winner goes through the admission queue
like a first comer.
"""

from __future__ import annotations

from dataclasses import dataclass

from seckill_rpc.redis.admission_queue import RESULT_SECONDS
from seckill_rpc.redis.keys import Keys
from seckill_rpc.redis.scripts import ScriptName, Scripts

CHUNK = 200  # some 4 ms of Redis


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawProgress:
    """What one chunk did. The draw is over when nothing is `left`."""

    winners: int
    losers: int
    left: int


async def draw(
    scripts: Scripts, keys: Keys, *, queued_seconds: int, count: int = CHUNK
) -> DrawProgress | None:
    """Draws up to `count` entries: winners while there is stock, else losers. Repeat it until
    nothing is left; a crash in between loses no entry.

    None: not now, because the activity is neither over (by Redis' clock) nor CLOSING, or is not a
    draw, or is being rebuilt.

    Args:
        queued_seconds: how long the view of a winner lives until it is decided.

    Raises:
        RedisError: unknown; repeat it.
    """
    before, after = keys.view_affixes
    reply = await scripts.run(
        ScriptName.DRAW,
        [keys.meta, keys.users, keys.queue, keys.entries],
        [count, queued_seconds, RESULT_SECONDS, keys.wakeups, before, after],
    )
    winners, losers, left = (int(number) for number in reply)
    return None if left < 0 else DrawProgress(winners=winners, losers=losers, left=left)
