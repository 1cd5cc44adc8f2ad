"""Configuration of seckill_rpc, read once in `__main__` from SECKILL_RPC_* and PAYMESH_*."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from mesh.settings import MeshSettings
from seckill_rpc.redis.admit import CLICKS_MAX, QUEUE_MAX, QUEUED_SECONDS


class SeckillSettings(MeshSettings):
    """What seckill_rpc needs to know beyond what every process does.

    Attributes:
        database_pool_size: connections for writing, and as many for reading.
        redis_timeout_seconds: how long Redis may take for one command; what comes later is
            "unknown" and found out by the same request_id.
        redis_vouched: the operator answers for a Redis that does not tell whether it evicts keys
            and survives a restart, or that survives one by other means than an append-only file
            (managed servers with replicas).
        consumers: workers of this process that turn the line into orders; 0 makes it a front that
            only admits.
        consumer_batch_size: entries of the line that one transaction decides.
        line_max: clicks that may stand in the line of one activity; more are told to come back. The
            rate at which orders are written, times the longest wait that a buyer should have.
        draw_max: entries of one draw, some 100 bytes of Redis each; more are told to come back,
            which is in vain until the draw.
        queued_seconds: how long Redis keeps the view of a buyer who stands in the line.
        result_grace_seconds: after which a place in the line that Redis does not know is decided by
            the database. Below some 5 s, the time until the rebuild after one that died, places are
            refused that it would have carried.
        scan_interval_seconds: pause between rounds of workers that found nothing to do.
        keeper_interval_seconds: pause between two comparisons of Redis with the database.
        close_after_end_seconds: how long after its end, by the clock of Redis, an activity is
            closed by itself.
        ticket_secret_file: signs the tickets of clicks; all replicas share it.
        coalescer_batch_max: clicks that share one call of the admission script.
        coalescer_calls_max: calls of one activity that are under way at once in this process.
        clicks_per_second, clicks_burst: of one buyer; more are told to come back.
        waiters_max: calls of this process that may wait for a result at once.
    """

    service: str = "seckill_rpc"
    port: int = Field(9909, ge=0, le=65535)
    database_pool_size: int = Field(16, ge=1, le=200)
    redis_timeout_seconds: float = Field(2.0, ge=1.5, le=30)
    redis_vouched: bool = False
    consumers: int = Field(1, ge=0, le=16)
    consumer_batch_size: int = Field(500, ge=1, le=500)
    line_max: int = Field(QUEUE_MAX, ge=1, le=10_000_000)
    draw_max: int = Field(1_000_000, ge=1, le=10_000_000)
    queued_seconds: int = Field(QUEUED_SECONDS, ge=1, le=86_400)
    result_grace_seconds: float = Field(10, gt=0, le=600)
    scan_interval_seconds: float = Field(0.5, gt=0, le=600)
    keeper_interval_seconds: float = Field(0.1, gt=0, le=10)
    close_after_end_seconds: float = Field(60, ge=0, le=7 * 86_400)
    ticket_secret_file: Path | None = None
    coalescer_batch_max: int = Field(64, ge=1, le=CLICKS_MAX)
    coalescer_calls_max: int = Field(2, ge=1, le=16)
    clicks_per_second: float = Field(5, gt=0, le=1000)
    clicks_burst: int = Field(10, ge=1, le=1000)
    waiters_max: int = Field(5000, ge=1, le=1_000_000)
