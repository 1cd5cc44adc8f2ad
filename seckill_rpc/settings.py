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
        redis_timeout_seconds: how long Redis may take for one command. After that the outcome is
            unknown; the same request_id finds it out.
        redis_vouched: the operator vouches for a Redis that does not report whether it evicts keys
            and survives a restart, or that survives one by other means than an append-only file
            (managed servers with replicas).
        consumers: workers of this process that turn queued clicks into orders; 0 makes it a front
            that only admits.
        consumer_batch_size: queue entries per transaction.
        line_max: longest admission queue of one activity; more clicks are answered BUSY. Choose the
            rate at which orders are written, times the longest wait that a buyer should have.
        draw_max: entries of one draw, some 100 bytes of Redis each; more clicks are answered BUSY.
        queued_seconds: how long Redis keeps the view of a queued buyer.
        result_grace_seconds: a queued click that Redis does not know for so long is refused by the
            database. Below some 5 s, the time until a rebuild follows one that died, clicks are
            refused that it would have kept.
        scan_interval_seconds: pause between rounds of workers that found nothing to do.
        keeper_interval_seconds: pause between two comparisons of Redis with the database.
        close_after_end_seconds: how long after its end, by the clock of Redis, an activity is
            closed by itself.
        merchant_directory: ask merchant_rpc which merchants may sell; else all of them may.
        ticket_secret_file: signs the tickets of clicks; all replicas share it.
        coalescer_batch_max: clicks that share one call of the admission script.
        coalescer_calls_max: calls of one activity that are under way at once in this process.
        clicks_per_second, clicks_burst: of one buyer; more clicks are answered BUSY.
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
    merchant_directory: bool = False
    ticket_secret_file: Path | None = None
    coalescer_batch_max: int = Field(64, ge=1, le=CLICKS_MAX)
    coalescer_calls_max: int = Field(2, ge=1, le=16)
    clicks_per_second: float = Field(5, gt=0, le=1000)
    clicks_burst: int = Field(10, ge=1, le=1000)
    waiters_max: int = Field(5000, ge=1, le=1_000_000)
