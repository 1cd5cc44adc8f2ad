"""What goes wrong: a table of faults, each with a beginning and an end, drawn by a seed."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pymysql
import redis

from tests.chaos.links import Link
from tests.chaos.mesh import ChaosMesh, until

CLOCK_SECONDS_MAX = 600
QUIET_SECONDS = (7.0, 10.0)  # after each fault: longer than the five seconds after which every call must be answered well


@dataclass(frozen=True, slots=True)
class Episode:
    """One fault: what, from when until when by the loop's clock. It ends when the last thing that it broke works again."""

    name: str
    began: float
    ended: float


@dataclass
class Faults:
    """Draws faults and applies them, one after the other."""

    mesh: ChaosMesh
    chance: random.Random
    episodes: list[Episode] = field(default_factory=list)

    async def run(self, seconds: float) -> None:
        """Faults with quiet between them, for so long. The first cycle meets every kind once, in a random order."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        kinds = list(self._kinds())
        while loop.time() < end:
            self.chance.shuffle(kinds)
            for fault in kinds:
                if loop.time() >= end:
                    return
                began = loop.time()
                name = await fault()
                self.episodes.append(Episode(name, began, loop.time()))
                await asyncio.sleep(self.chance.uniform(*QUIET_SECONDS))

    def _kinds(self) -> tuple[Callable[[], Awaitable[str]], ...]:
        return (
            self._reset_database, self._reset_redis, self._reset_everything, self._finish_links, self._freeze_link, self._refuse_link,
            self._flap, self._kill, self._kill_for_long, self._kill_several, self._freeze_process, self._roll, self._kill_mariadb,
            self._freeze_mariadb, self._read_only_mariadb,
            self._kill_redis, self._freeze_redis, self._flush_redis, self._lose_consumer_group, self._step_clock,
        )

    # --- links --------------------------------------------------------------------------------------------------------------------------------

    def _links(self, prefix: str = "") -> list[Link]:
        return [link for name, link in sorted(self.mesh.links.items()) if name.startswith(prefix)]

    async def _reset_database(self) -> str:
        """Idle connections get a RST, the network is well at once."""
        for link in self._links("db of"):
            link.reset()
        return "RST to all database connections"

    async def _reset_redis(self) -> str:
        for link in self._links("redis of"):
            link.reset()
        return "RST to all Redis connections"

    async def _reset_everything(self) -> str:
        for link in self._links():
            link.reset()
        return "RST to every connection"

    async def _finish_links(self) -> str:
        chosen = self.chance.sample(self._links(), 4)
        for link in chosen:
            link.finish()
        return f"FIN to {', '.join(link.name for link in chosen)}"

    async def _freeze_link(self) -> str:
        link = self.chance.choice(self._links())
        seconds = self.chance.uniform(0.5, 8)
        link.freeze()
        try:
            await asyncio.sleep(seconds)
        finally:
            link.thaw()
        return f"{link.name} half-open for {seconds:.1f} s"

    async def _refuse_link(self) -> str:
        link = self.chance.choice(self._links())
        seconds = self.chance.uniform(0.5, 6)
        link.refuse(refuses=True)
        try:
            await asyncio.sleep(seconds)
        finally:
            link.refuse(refuses=False)
        return f"{link.name} refused for {seconds:.1f} s"

    async def _flap(self) -> str:
        """Resets while calls are under way, so that some meet a transaction, a commit or a connection that is being opened."""
        chosen = self.chance.choice(("db of", "redis of", "grpc to", "channel", "callbacks"))
        for _ in range(25):
            for link in self._links(chosen):
                link.reset()
            await asyncio.sleep(self.chance.uniform(0.02, 0.3))
        return f"25 times RST on '{chosen}'"

    # --- processes ----------------------------------------------------------------------------------------------------------------------------

    def _victim(self) -> str:
        return self.chance.choice([*self.mesh.servers, "gateway", "sandbox"])

    async def _restart(self, *names: str) -> None:
        for name in names:
            self.mesh.launch(name)
        await self.mesh.wait_well(*names)

    async def _kill(self) -> str:
        name = self._victim()
        self.mesh.running[name].kill()
        await self._restart(name)
        return f"kill -9 {name}"

    async def _kill_for_long(self) -> str:
        name = self._victim()
        seconds = self.chance.uniform(2, 8)
        self.mesh.running[name].kill()
        await asyncio.sleep(seconds)
        await self._restart(name)
        return f"kill -9 {name}, back after {seconds:.1f} s"

    async def _kill_several(self) -> str:
        names = self.chance.sample(self.mesh.servers, self.chance.randint(2, len(self.mesh.servers)))
        for name in names:
            self.mesh.running[name].kill()
        await self._restart(*names)
        return f"kill -9 {', '.join(names)}"

    async def _freeze_process(self) -> str:
        name = self._victim()
        seconds = self.chance.uniform(2, 12)
        self.mesh.running[name].signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            self.mesh.running[name].signal(signal.SIGCONT)
        await self.mesh.wait_well(name)
        return f"{name} frozen for {seconds:.1f} s"

    async def _roll(self) -> str:
        """A rolling restart: each server ends by SIGTERM and comes back before the next one goes."""
        for name in self.mesh.servers:
            process = self.mesh.running[name]
            process.signal(signal.SIGTERM)
            await until(lambda process=process: process.returncode is not None, f"end of {name}")
            assert process.returncode == 0, f"{name} was asked to stop and ended with {process.returncode}\n{process.log_tail()}"
            await self._restart(name)
        return "rolling restart"

    async def _step_clock(self) -> str:
        name = self.chance.choice(self.mesh.servers)
        ahead = self.chance.choice((-1, 1)) * self.chance.uniform(5, CLOCK_SECONDS_MAX)
        await self.mesh.set_clock(name, ahead)
        await asyncio.sleep(self.chance.uniform(4, 10))
        await self.mesh.set_clock(name, 0)
        return f"clock of {name} {ahead:+.0f} s"

    # --- servers ------------------------------------------------------------------------------------------------------------------------------

    async def _kill_mariadb(self) -> str:
        seconds = self.chance.uniform(0, 2)
        self.mesh.mariadb.kill()
        await asyncio.sleep(seconds)
        self.mesh.mariadb.start()
        return f"MariaDB killed, back after {seconds:.1f} s"

    async def _freeze_mariadb(self) -> str:
        seconds = self.chance.uniform(1, 7)
        self.mesh.mariadb.process.signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            self.mesh.mariadb.process.signal(signal.SIGCONT)
        return f"MariaDB frozen for {seconds:.1f} s"

    async def _read_only_mariadb(self) -> str:
        """As an old primary is after a failover."""
        seconds = self.chance.uniform(1, 4)
        self._administer("SET GLOBAL read_only = 1")
        try:
            await asyncio.sleep(seconds)
        finally:
            self._administer("SET GLOBAL read_only = 0")
        return f"MariaDB read-only for {seconds:.1f} s"

    def _administer(self, statement: str) -> None:
        with pymysql.connect(unix_socket=str(self.mesh.mariadb.folder / "socket"), user="root", read_timeout=30) as connection:
            connection.cursor().execute(statement)

    async def _kill_redis(self) -> str:
        seconds = self.chance.uniform(0, 2)
        self.mesh.redis.kill()
        await asyncio.sleep(seconds)
        self.mesh.redis.start()
        return f"Redis killed, back after {seconds:.1f} s"

    async def _freeze_redis(self) -> str:
        seconds = self.chance.uniform(1, 5)
        self.mesh.redis.process.signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            self.mesh.redis.process.signal(signal.SIGCONT)
        return f"Redis frozen for {seconds:.1f} s"

    async def _flush_redis(self) -> str:
        self.mesh.redis.flush()
        return "FLUSHALL"

    async def _lose_consumer_group(self) -> str:
        lost = 0
        with redis.Redis(port=self.mesh.redis.port, socket_timeout=5) as client:
            for key in client.scan_iter(match="seckill:*", count=1000, _type="stream"):
                for group in client.xinfo_groups(key):
                    lost += client.xgroup_destroy(key, group["name"])
        return f"{lost} consumer groups destroyed"
