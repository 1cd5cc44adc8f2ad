"""Our way of packing a Redis command is redis-py's, byte for byte."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import Connection

from seckill_rpc.redis.connection import PlainConnection


@pytest.mark.parametrize(
    "command",
    [
        ("EVALSHA", "sha", 2, "a", "b", "", "0"),
        ("EVALSHA", "sha", 0, *(f"user-{number}" for number in range(2000))),
        ("GET", "a b\r\n$3\r\n"),
        ("CONFIG GET", "maxmemory-policy"),
        ("SET", "k", "排队中"),
        ("SET", "排队中", 1),
        ("SET", "k", b"\xff\r\n"),
        ("ZADD", "k", 1.5, "m"),
        ("PING",),
    ],
    ids=[
        "script",
        "long",
        "hostile",
        "two words",
        "value of Chinese",
        "name of Chinese",
        "bytes",
        "float",
        "alone",
    ],
)
def test_a_command_is_packed_as_redis_py_packs_it(command: tuple[Any, ...]) -> None:
    assert b"".join(PlainConnection().pack_command(*command)) == b"".join(
        Connection().pack_command(*command)
    )


def test_what_redis_py_refuses_is_refused() -> None:
    with pytest.raises(Exception, match="bool"):
        PlainConnection().pack_command("SET", "k", True)
