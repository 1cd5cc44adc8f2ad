"""The use cases of every service with the rights that an installation gives. MariaDB: no changes of
the schema, and evidence is only added to.
Redis: no FLUSHALL, no CONFIG."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pymysql
import pytest
from redis.exceptions import NoPermissionError
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from merchant_rpc.domain.member import MemberRole
from merchant_rpc.domain.shop_settings import ShopSettings
from merchant_rpc.tables import MERCHANT
from mesh import migrations
from mesh.auth import Role
from mesh.call import Caller
from mesh.money import Money, RequestedAmount
from mesh.redis_client import open_redis
from payment_rpc.usecases.refund_start import CreateRefund
from paymesh_cli import grants
from seckill_rpc.redis.connection import require_safe
from tests.builders.merchant import as_member, merchant_world
from tests.builders.order import order_app
from tests.builders.payment import payment_world
from tests.builders.seckill import seckill_world
from tools.processes import ROOT
from tools.servers import MariaDB, Redis

CLERK = Caller(role=Role.MERCHANT, subject="clerk", merchant_id="mall")
Limited = Callable[[str], str]


@pytest.fixture
def limited(mariadb_server: MariaDB) -> Iterator[Limited]:
    """`limited(service)`: the URL of a migrated database, for a user with the rights of that
    service.
    """
    made: list[tuple[str, str]] = []

    def make(service: str) -> str:
        url = mariadb_server.create_database()
        user = f"limited_{len(made)}"
        made.append((url, user))

        async def rights() -> list[str]:
            engine = create_async_engine(url)
            async with engine.connect() as connection:
                found = await connection.run_sync(
                    grants.statements, user, grants.evidence_of(service)
                )
            await engine.dispose()
            return found

        migrations.upgrade(service, url)
        mariadb_server._execute(
            f"CREATE USER {user}@'%' IDENTIFIED BY 'limited'", *asyncio.run(rights())
        )
        return (
            make_url(url)
            .set(username=user, password="limited")
            .render_as_string(hide_password=False)
        )

    yield make
    for url, user in made:
        mariadb_server.drop_database(url)
        mariadb_server._execute(f"DROP USER {user}@'%'")


def refused(url: str, statement: str) -> None:
    parsed = make_url(url)
    connection = pymysql.connect(
        host="127.0.0.1",
        port=parsed.port,
        user=parsed.username,
        password=parsed.password,
        database=parsed.database,
    )
    try:
        with (
            pytest.raises(pymysql.err.OperationalError, match="denied"),
            connection.cursor() as cursor,
        ):
            cursor.execute(statement)
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("service", "statement"),
    [
        ("payment_rpc", "UPDATE ledger_posting SET amount_minor = 1"),
        ("payment_rpc", "DELETE FROM ledger_transaction"),
        ("payment_rpc", "DELETE FROM wallet_entry"),
        ("payment_rpc", "DROP TABLE payment"),
        ("payment_rpc", "CREATE TABLE mine (a INT)"),
        ("payment_rpc", "UPDATE alembic_version SET version_num = '1'"),
        ("payment_rpc", "TRUNCATE TABLE receipt"),
        ("order_rpc", "UPDATE order_audit SET remark = ''"),
        ("order_rpc", "DELETE FROM stock_movement"),
        ("order_rpc", "ALTER TABLE orders ADD a INT"),
        ("seckill_rpc", "DELETE FROM dead_entry"),
        ("seckill_rpc", "DROP TABLE activity"),
        ("merchant_rpc", "UPDATE admin_action SET actor = ''"),
        ("merchant_rpc", "DELETE FROM admin_action"),
        ("merchant_rpc", "UPDATE merchant_setting SET body = '{}'"),
        ("merchant_rpc", "DELETE FROM merchant_setting"),
        ("merchant_rpc", "DROP TABLE api_key"),
    ],
)
def test_a_service_can_neither_change_evidence_nor_the_schema(
    limited: Limited, service: str, statement: str
) -> None:
    refused(limited(service), statement)


@pytest.fixture
def urls(limited: Limited) -> tuple[str, str]:
    return limited("payment_rpc"), limited("order_rpc")


async def test_money_is_taken_and_given_back_with_these_rights(
    urls: tuple[str, str], tmp_path: Path
) -> None:
    async with payment_world(*urls, tmp_path) as world:
        order = await world.order("100.00")
        payment = await world.charge(order)
        await world.finish()
        asked = CreateRefund(
            payment_id=payment.payment_id,
            amount=RequestedAmount("30.00"),
            reason="",
            request_id="",
            key="",
        )
        await world.app.refunds.create_refund(asked, CLERK)
        await world.finish()
        assert (await world.payment(payment.payment_id)).refunded == Money(3000, "CNY")
        assert await world.ledger_problems() == []
        cashier = await world.cashier(await world.order("50.00"))
        await world.press(cashier)
        await world.callbacks()
        await world.finish()
        assert await world.ledger_problems() == []
        for worker in world.app.workers:
            await worker._run_once()


async def test_orders_live_their_whole_life_with_these_rights(urls: tuple[str, str]) -> None:
    async with order_app(urls[1]) as app:
        await app.product()
        order = await app.paid_order()
        await app.ship(order)
        await app.complete(order)
        await app.cancel(await app.order())
        for worker in app.make(redis=None).workers:
            await worker._run_once()


@pytest.fixture
def merchants_url(limited: Limited) -> str:
    return limited("merchant_rpc")


async def test_merchants_come_and_go_with_these_rights(merchants_url: str) -> None:
    async with merchant_world(merchants_url) as world:
        await world.merchant()
        await world.update_settings(ShopSettings())
        owner = as_member(await world.owner())
        clerk = (await world.member()).account.member_id
        await world.set_role(clerk, MemberRole.VIEWER, owner)
        await world.remove(clerk, owner)
        assert [each.role for each in await world.people()] == [MemberRole.OWNER]
        await world.sign_up("pending", "p@pending.example")
        world.clock.advance(timedelta(days=2).total_seconds())
        for worker in world.app.workers:
            await worker._run_once()
        left = [row.merchant_id for row in await world.rows(MERCHANT)]
        assert left == ["acme", "acme_test"], "nobody confirmed the other one"
        await world.step("close")


@pytest.fixture
def sparing_redis(own_redis: Redis) -> str:
    """The URL of a Redis for a user with the rights that deploy/compose/make-secrets gives."""
    script = (ROOT / "deploy/compose/make-secrets").read_text()
    rights = re.search(r"user \$service on #\$hash (.*)\"", script)
    assert rights
    with own_redis._client() as client:
        client.execute_command("ACL", "SETUSER", "limited", "on", ">limited", *rights[1].split())
    return own_redis.url.replace("redis://", "redis://limited:limited@")


@pytest.mark.parametrize(
    "command",
    [
        ("FLUSHALL",),
        ("FLUSHDB",),
        ("CONFIG", "SET", "appendonly", "no"),
        ("SHUTDOWN",),
        ("BGREWRITEAOF",),
        ("KEYS", "*"),
        ("ACL", "SETUSER", "x"),
        ("REPLICAOF", "NO", "ONE"),
        ("MONITOR",),
    ],
)
async def test_a_service_can_neither_wipe_nor_configure_redis(
    sparing_redis: str, command: tuple[str, ...]
) -> None:
    redis = open_redis(sparing_redis)
    with pytest.raises(NoPermissionError):
        await redis.execute_command(*command)
    await redis.aclose()


@pytest.fixture
def sale_url(limited: Limited) -> str:
    return limited("seckill_rpc")


async def test_a_flash_sale_runs_with_these_rights(sale_url: str, sparing_redis: str) -> None:
    async with seckill_world(sale_url, sparing_redis) as world:
        await require_safe(world.redis, durable=True)
        await world.open(total=2)
        orders = [await world.buy(f"u{number}") for number in range(2)]
        assert await world.consume() >= 0
        await world.rebuild()
        await world.give_back(orders[0])
        await world.relay()
        await world.check_database()
