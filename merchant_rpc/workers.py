"""The workers of merchant_rpc: they deliver what was promised and delete what has ended."""

from __future__ import annotations

from collections.abc import Sequence

from merchant_rpc.usecases.key_exchanges import KeyExchanges
from merchant_rpc.usecases.login_attempts import LoginAttempts
from merchant_rpc.usecases.one_time_links import OneTimeLinks
from merchant_rpc.usecases.sessions import Sessions
from merchant_rpc.usecases.sign_ups import SignUps
from mesh.db import Database
from mesh.relay import Relay
from mesh.worker import Worker

PURGE_SECONDS = 600.0  # links live for a day
USE_SECONDS = 10.0  # until a use of a key can be seen; it is kept to the minute


def make_workers(
    *,
    db: Database,
    links: OneTimeLinks,
    sign_ups: SignUps,
    key_exchanges: KeyExchanges,
    sessions: Sessions,
    attempts: LoginAttempts,
    relays: Sequence[Relay],
    idle_seconds: float,
) -> list[Worker]:
    """One worker per kind of work."""

    async def purge_links() -> int:
        return await links.purge_once(db)

    async def purge_attempts() -> int:
        return await attempts.purge_once(db)

    return [
        Worker("purge_links", purge_links, idle_seconds=PURGE_SECONDS),
        Worker("expire_sign_ups", sign_ups.expire_once, idle_seconds=PURGE_SECONDS),
        Worker("purge_sessions", sessions.purge_once, idle_seconds=PURGE_SECONDS),
        Worker("purge_login_failures", purge_attempts, idle_seconds=PURGE_SECONDS),
        Worker("write_key_uses", key_exchanges.write_uses_once, idle_seconds=USE_SECONDS),
        *(
            Worker(
                f"relay_{relay.name}",
                relay.run_once,
                idle_seconds=idle_seconds,
                traffic=db.traffic,
                due_in=relay.due_in,
            )
            for relay in relays
        ),
    ]
