"""Prints what happens to orders: a consumer of ORDER_TOPIC with an inbox.

    python -m examples.order_events                                              the mesh that `make run` started
    python -m examples.order_events --redis-url redis://127.0.0.1:6379/0         any other

An event may come twice (the relay, a consumer that died) and in another order than it happened. So
the effect and the id of the event are written in
one transaction, here a line and its key in one row, and the entry is acknowledged after the commit:
whatever dies in between, each event is written once. Entries that a dead consumer held are taken
over by the next one.

An entry that cannot be read (a newer format, a mistake) must not stop the others, and must not be
lost: it is written to the table `dead_letter` with the reason, in the same way, and acknowledged.
What is there waits for a person, or for a newer version of this program.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

TOPIC = "ORDER_TOPIC"
GROUP = "order_events_example"
BATCH = 100
BLOCK_MILLISECONDS = 1000
TAKE_OVER_MILLISECONDS = 60_000  # an entry that somebody has held for so long is nobody's


class Inbox:
    """What was printed: one row per event, written with its effect."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # orders of buyers are nobody else's; SQLite gives its other files the same mode
        path.touch(mode=0o600)
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS inbox (event_id TEXT PRIMARY KEY, line TEXT NOT NULL)"
        )
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS dead_letter (entry_id TEXT PRIMARY KEY, fields TEXT NOT "
            "NULL, reason TEXT NOT NULL)"
        )

    def take(self, event_id: str, line: str) -> bool:
        """Writes an event; False when it was written before."""
        return (
            self._db.execute(
                "INSERT INTO inbox VALUES (?, ?) ON CONFLICT DO NOTHING", (event_id, line)
            ).rowcount
            == 1
        )

    def bury(self, entry_id: str, fields: dict[bytes, bytes], reason: str) -> None:
        """Keeps an entry that cannot be read, for a person."""
        text = json.dumps(
            {
                name.decode(errors="replace"): value.decode(errors="replace")
                for name, value in fields.items()
            }
        )
        self._db.execute(
            "INSERT INTO dead_letter VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
            (entry_id, text, reason),
        )

    def dead_letters(self) -> list[tuple[str, str]]:
        """(entry, reason) of what could not be read."""
        return self._db.execute(
            "SELECT entry_id, reason FROM dead_letter ORDER BY entry_id"
        ).fetchall()

    def close(self) -> None:
        """Ends."""
        self._db.close()


def line_of(fields: dict[bytes, bytes]) -> str:
    """An event as a line for people."""
    event: dict[str, Any] = json.loads(fields[b"payload"])
    facts = " ".join(
        f"{name}={event[name]}"
        for name in ("reason", "carrier", "tracking_number", "payment_id", "refunded_amount")
        if event.get(name)
    )
    return f"{event['event_time']} {fields[b'tag'].decode():<16} {event['order_id']} {event['amount']} {event['currency']} {facts}".rstrip()


class Consumer:
    """One reader of the group. Any number may run; each entry goes to one of them."""

    def __init__(self, redis: Redis, inbox: Inbox, *, name: str) -> None:
        self._redis = redis
        self._inbox = inbox
        self._name = name
        self._cursor: bytes | str = "0-0"

    async def run_once(self, *, block_milliseconds: int = BLOCK_MILLISECONDS) -> list[str]:
        """Takes over what a dead consumer held, reads what is new, and returns the lines that were
        new.
        """
        try:
            self._cursor, held, *_ = await self._redis.xautoclaim(
                TOPIC, GROUP, self._name, TAKE_OVER_MILLISECONDS, self._cursor, count=BATCH
            )
            new: Any = await self._redis.xreadgroup(
                GROUP, self._name, {TOPIC: ">"}, count=BATCH, block=block_milliseconds
            )
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            # from the first event on, also after Redis lost the group
            await self._redis.xgroup_create(TOPIC, GROUP, id="0", mkstream=True)
            return []
        entries = [*held, *(entry for _, read in new or () for entry in read)]
        return [
            line for entry_id, fields in entries if (line := await self._take(entry_id, fields))
        ]

    async def _take(self, entry_id: bytes, fields: dict[bytes, bytes]) -> str:
        try:
            line, event_id = line_of(fields), fields[b"event_id"].decode()
        # whatever an unreadable payload makes of the lines above
        except (ValueError, KeyError, TypeError, AttributeError) as problem:
            self._inbox.bury(entry_id.decode(), fields, repr(problem))
            line = ""
        else:
            line = line if self._inbox.take(event_id, line) else ""
        await self._redis.xack(TOPIC, GROUP, entry_id)
        return line


async def run(redis_url: str, inbox_path: Path, name: str) -> None:
    """Prints until Ctrl-C."""
    ended = asyncio.Event()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signal_number, ended.set)
    redis = Redis.from_url(redis_url, socket_timeout=10)
    with closing(Inbox(inbox_path)) as inbox:
        consumer = Consumer(redis, inbox, name=name)
        while not ended.is_set():
            for line in await consumer.run_once():
                sys.stdout.write(line + "\n")
                sys.stdout.flush()
    await redis.aclose()


def redis_of_running_mesh(var_dir: Path) -> str:
    """The address of its Redis, password included; "" when none runs. A consumer of your own gets
    both from your configuration.
    """
    try:
        return str(json.loads((var_dir / "mesh.json").read_bytes()).get("redis_url", ""))
    except (OSError, ValueError):
        return ""


def main() -> None:
    """Reads the arguments and runs."""
    parser = argparse.ArgumentParser(description="Prints what happens to orders.")
    parser.add_argument(
        "--var-dir",
        type=Path,
        default=Path(os.environ.get("PAYMESH_VAR_DIR", "var")),
        help="of the mesh that `make run` started",
    )
    parser.add_argument("--redis-url", help="instead of that of the running mesh")
    parser.add_argument(
        "--inbox", type=Path, help="[default: order_events.db below the var directory]"
    )
    parser.add_argument(
        "--name",
        default="consumer-1",
        help="name within the group; a consumer that comes back under its name goes on with its own",
    )
    arguments = parser.parse_args()
    redis_url = arguments.redis_url or redis_of_running_mesh(arguments.var_dir)
    if not redis_url:
        parser.error(
            f"no mesh with a Redis is running on {arguments.var_dir}: start it with `make run`, "
            f"or give --redis-url"
        )
    asyncio.run(
        run(redis_url, arguments.inbox or arguments.var_dir / "order_events.db", arguments.name)
    )


if __name__ == "__main__":
    main()
