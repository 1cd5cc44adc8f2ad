"""merchant_rpc under measurement: `python -m bench.key_servers merchants` makes merchants with keys
in SQLite, writes the keys to BENCH_KEYS_FILE, prints its port and serves until its input ends.
"""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import timedelta
from pathlib import Path
from secrets import token_bytes

import uvloop
from paymesh.merchant.v1 import api_key_pb2_grpc
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from merchant_rpc.domain.api_key import KEYS_MAX, ApiKey, scopes_of_key
from merchant_rpc.domain.merchant import MerchantState
from merchant_rpc.peppers import Peppers
from merchant_rpc.servicer.api_keys import ApiKeyServicer
from merchant_rpc.settings import MerchantSettings
from merchant_rpc.store import api_keys
from merchant_rpc.tables import MERCHANT, metadata
from merchant_rpc.usecases.actions import Actions
from merchant_rpc.usecases.api_keys import ApiKeys
from merchant_rpc.usecases.key_exchanges import KeyExchanges
from merchant_rpc.workers import USE_SECONDS
from mesh import logs
from mesh.api_key_format import ApiKeyKind, key_sha256, new_key
from mesh.clock import SystemClock
from mesh.db import open_database
from mesh.ids import UlidIds
from mesh.paging import PageTokens
from mesh.process import exempt_from_gc
from mesh.rate_limit import RateLimiter
from mesh.scopes import SCOPES
from mesh.server import MeshServer
from mesh.token_issuers import MERCHANTS, OwnTokenSigner
from mesh.worker import Worker

KEYS = 10_000
KEYS_FILE = "BENCH_KEYS_FILE"
_KEYS_FILE = Path(os.environ.get(KEYS_FILE, "keys"))
PEPPER = b"a pepper of the bench, long enough"
PEPPERS = Peppers({"1": PEPPER})


async def merchants() -> int:
    """Starts the server; returns its port."""
    settings = MerchantSettings(port=0, environment="test", log_level="WARNING")
    clock = SystemClock()
    ids = UlidIds(clock)
    if settings.caller_key_file is None:
        raise RuntimeError("caller_key_file is not set")
    db = open_database(settings.database_url, metadata, pool_size=settings.database_pool_size)
    async with db.engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    exchanges = KeyExchanges(
        db=db,
        clock=clock,
        peppers=PEPPERS,
        signer=OwnTokenSigner.of_file(MERCHANTS, settings.caller_key_file, clock=clock, ids=ids),
        attempts=RateLimiter(per_second=1, burst=1),  # of whole keys, which nobody shows here
    )
    keys = ApiKeys(
        db=db,
        clock=clock,
        ids=ids,
        page_tokens=PageTokens(PEPPER),
        actions=Actions(clock=clock),
        peppers=PEPPERS,
        random_bytes=token_bytes,
    )
    shown = await db.run(_make_keys, clock, ids)
    _KEYS_FILE.write_text("\n".join(shown))  # noqa: ASYNC240  nothing else runs yet
    server = MeshServer(settings, clock=clock, ids=ids)
    server.add(
        api_key_pb2_grpc.add_ApiKeyServiceServicer_to_server,
        ApiKeyServicer(keys=keys, exchanges=exchanges),
    )
    await server.start()
    writing = Worker("write_key_uses", exchanges.write_uses_once, idle_seconds=USE_SECONDS)
    _KEEP.extend([server, asyncio.create_task(writing.run())])
    return server.port


async def _make_keys(tx: AsyncConnection, clock: SystemClock, ids: UlidIds) -> list[str]:
    shown = []
    now = clock.now() - timedelta(days=1)  # what changed of late is exchanged more often
    scopes = scopes_of_key(ApiKeyKind.SECRET, (), catalogue=SCOPES)
    for number in range(KEYS // KEYS_MAX):
        merchant_id = f"shop-{number}_test"
        await tx.execute(
            insert(MERCHANT),
            {
                "merchant_id": merchant_id,
                "name": merchant_id,
                "state": MerchantState.TEST_ONLY,
                "is_test": True,
                "country": "",
                "time_zone": "UTC",
                "default_currency": "CNY",
                "contact_email": "owner@shop.example",
                "version": 1,
                "settings_version": 0,
                "created_at": now,
                "updated_at": now,
            },
        )
        for _ in range(KEYS_MAX):
            text = new_key(ApiKeyKind.SECRET, is_test=True, random_bytes=token_bytes)
            pepper_id, digest = PEPPERS.new_digest(key_sha256(text))
            key = ApiKey(
                key_id=ids.new("AK"),
                merchant_id=merchant_id,
                kind=ApiKeyKind.SECRET,
                is_test=True,
                name="bench",
                head=text[:16],
                last_four=text[-4:],
                scopes=scopes,
                allowed_addresses=(),
                expires_at=None,
                created_by="member:M1",
                created_at=now,
            )
            await api_keys.insert_key(tx, key, pepper_id=pepper_id, digest=digest)
            shown.append(text)
    return shown


_KEEP: list[object] = []


async def _main() -> None:
    logs.configure("bench", "WARNING", json=False)
    port = await merchants()
    exempt_from_gc()
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(_main())
