"""What goes wrong: a table of faults, each with a beginning and an end, drawn by a seed."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import pymysql
import redis

from tests.chaos.links import Link
from tests.chaos.mesh import ChaosMesh, until
from tools.processes import Process
from tools.servers import Redis

CLOCK_SECONDS_MAX = 600
DATABASE_USER = "paymesh"
# after each fault: longer than the five seconds after which every call must be answered well
QUIET_SECONDS = (7.0, 10.0)


@dataclass(frozen=True, slots=True)
class Episode:
    """One fault: what, from when until when by the loop's clock. It ends when the last thing that
    it broke works again.
    """

    name: str
    began: float
    ended: float


def _has_ended(process: Process) -> bool:
    return process.returncode is not None


@dataclass
class Faults:
    """Draws faults and applies them, one after the other; only those whose method's name has `part`
    in it.
    """

    mesh: ChaosMesh
    chance: random.Random
    part: str = ""
    episodes: list[Episode] = field(default_factory=list)

    async def run(self, seconds: float) -> None:
        """Faults with quiet between them, for so long. Each cycle meets every kind once, in a
        random order.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        kinds = [kind for kind in self._kinds() if self.part in kind.__name__]
        while loop.time() < end:
            self.chance.shuffle(kinds)
            for fault in kinds:
                if loop.time() >= end:
                    return
                began = loop.time()
                name = await fault()
                self.episodes.append(Episode(name, began, loop.time()))
                self.mesh.check_servers(name)
                await asyncio.sleep(self.chance.uniform(*QUIET_SECONDS))

    def _kinds(self) -> tuple[Callable[[], Awaitable[str]], ...]:
        return (
            self._reset_database,
            self._reset_redis,
            self._reset_everything,
            self._finish_links,
            self._finish_some_connections,
            self._freeze_link,
            self._refuse_link,
            self._flap,
            self._kill,
            self._kill_for_long,
            self._kill_several,
            self._freeze_process,
            self._roll,
            self._step_clock,
            self._kill_mariadb,
            self._freeze_mariadb,
            self._read_only_mariadb,
            self._kill_database_sessions,
            self._kill_redis,
            self._freeze_redis,
            self._flush_redis,
            self._lose_consumer_group,
            self._kill_redis_clients,
            self._demote_redis,
        )

    def _draws_of_one_fault(self) -> random.Random:
        """For draws whose number depends on the moment: they must not change the faults that come
        later.
        """
        return random.Random(self.chance.random())

    # --- links ------------------------------------------------------------------------------------

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

    async def _finish_some_connections(self) -> str:
        """FIN while calls are under way, so that some meet a transaction or a commit, on half of
        the connections, so that a pool has both kinds.
        """
        chosen = self.chance.choice(("db of", "redis of"))
        times = self.chance.randint(10, 25)
        coin = self._draws_of_one_fault()
        for _ in range(times):
            for link in self._links(chosen):
                link.finish(lambda: coin.random() < 0.5)
            await asyncio.sleep(coin.uniform(0.02, 0.3))
        return f"{times} times FIN to half of the connections of '{chosen}'"

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
        """Resets while calls are under way, so that some meet a transaction, a commit or a
        connection that is being opened.
        """
        chosen = self.chance.choice(("db of", "redis of", "grpc to", "channel", "callbacks"))
        for _ in range(25):
            for link in self._links(chosen):
                link.reset()
            await asyncio.sleep(self.chance.uniform(0.02, 0.3))
        return f"25 times RST on '{chosen}'"

    # --- processes --------------------------------------------------------------------------------

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
        names = self.chance.sample(
            self.mesh.servers, self.chance.randint(2, len(self.mesh.servers))
        )
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
        """A rolling restart: each server ends by SIGTERM and comes back before the next one
        goes.
        """
        for name in self.mesh.servers:
            process = self.mesh.running[name]
            process.signal(signal.SIGTERM)
            await until(partial(_has_ended, process), f"end of {name}")
            assert process.returncode == 0, (
                f"{name} was asked to stop and ended with "
                f"{process.returncode}\n{process.log_tail()}"
            )
            await self._restart(name)
        return "rolling restart"

    async def _step_clock(self) -> str:
        name = self.chance.choice(self.mesh.servers)
        ahead = self.chance.choice((-1, 1)) * self.chance.uniform(5, CLOCK_SECONDS_MAX)
        await self.mesh.set_clock(name, ahead)
        await asyncio.sleep(self.chance.uniform(4, 10))
        await self.mesh.set_clock(name, 0)
        return f"clock of {name} {ahead:+.0f} s"

    # --- servers ----------------------------------------------------------------------------------

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
        await asyncio.to_thread(self._administer, "SET GLOBAL read_only = 1")
        try:
            await asyncio.sleep(seconds)
        finally:
            await asyncio.to_thread(self._administer, "SET GLOBAL read_only = 0")
        return f"MariaDB read-only for {seconds:.1f} s"

    async def _kill_database_sessions(self) -> str:
        """As an operator or a failing proxy does: some sessions end in the middle of whatever they
        do, the others go on.
        """
        times, share = self.chance.randint(5, 15), self.chance.uniform(0.2, 0.8)
        coin = self._draws_of_one_fault()
        killed = 0
        for _ in range(times):
            killed += await asyncio.to_thread(self._kill_sessions, lambda: coin.random() < share)
            await asyncio.sleep(coin.uniform(0.05, 0.5))
        return f"{killed} database sessions killed, {times} times {share:.0%}"

    def _kill_sessions(self, is_chosen: Callable[[], bool]) -> int:
        killed = 0
        with self._administrator() as cursor:
            # information_schema.processlist may crash MariaDB 10.11 while connections go, see
            # tools.servers
            cursor.execute("SHOW PROCESSLIST")
            for session, user, *_ in cursor.fetchall():
                if user == DATABASE_USER and is_chosen():
                    with contextlib.suppress(pymysql.err.Error):  # it went by itself
                        cursor.execute(f"KILL {session}")
                        killed += 1
        return killed

    def _administer(self, statement: str) -> None:
        """Never in the thread of the links: a lock that the statement waits for may be held by a
        session whose next word is on its way there.
        """
        with self._administrator() as cursor:
            cursor.execute(statement)

    @contextlib.contextmanager
    def _administrator(self) -> Iterator[pymysql.cursors.Cursor]:
        with pymysql.connect(
            unix_socket=str(self.mesh.mariadb.folder / "socket"), user="root", read_timeout=30
        ) as connection:
            yield connection.cursor()

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
        with _client(self.mesh.redis) as client:
            for key in client.scan_iter(match="seckill:*", count=1000, _type="stream"):
                for group in client.xinfo_groups(key):
                    lost += client.xgroup_destroy(key, group["name"])
        return f"{lost} consumer groups destroyed"

    async def _kill_redis_clients(self) -> str:
        """As an operator does: all who send commands, or all who listen."""
        kinds = self.chance.choices(("normal", "pubsub"), k=self.chance.randint(5, 15))
        coin = self._draws_of_one_fault()
        killed = 0
        for kind in kinds:
            with _client(self.mesh.redis) as client:
                killed += client.client_kill_filter(_type=kind, skipme=True)
            await asyncio.sleep(coin.uniform(0.05, 0.5))
        return f"{killed} connections of Redis killed, {kinds.count('normal')} times normal, {kinds.count('pubsub')} times pubsub"

    async def _demote_redis(self) -> str:
        """A failover that leaves the old primary alive: it refuses writes and keeps its
        connections, and some clients still go there for a while. What it took between the two
        commands is lost. From then on both have changed places."""
        old, new = self.mesh.redis, self.mesh.redis_replica
        both, links = self.chance.uniform(0, 0.3), self._links("redis of")
        moves = sorted((self.chance.uniform(0, 3), link.name) for link in links)
        with _client(new) as client:
            await until(
                lambda: client.info("replication")["master_link_status"] == "up", "replica of Redis"
            )
            client.replicaof("NO", "ONE")
        await asyncio.sleep(both)
        old.follow(new)
        gone = 0.0
        for seconds, name in moves:
            await asyncio.sleep(seconds - gone)
            gone = seconds
            self.mesh.links[name].target_port = new.port
        self.mesh.redis, self.mesh.redis_replica = new, old
        return f"Redis demoted after {both:.1f} s of two primaries, the last client moves after {gone:.1f} s"


def _client(server: Redis) -> redis.Redis:
    return redis.Redis(port=server.port, socket_timeout=5)
