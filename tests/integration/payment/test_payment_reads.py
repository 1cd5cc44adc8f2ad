"""Showing payments: to their owners only, also from the cache; and the cache is a view that may be
absent or old by seconds, never wrong.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from paymesh.payment.v1 import payment_pb2
from structlog.testing import capture_logs

from mesh import failpoints
from mesh.call import Caller, Role, calling
from mesh.errors import PageTokenInvalid, PermissionDenied
from mesh.failpoints import FailpointRaised
from mesh.money import RequestedAmount
from mesh.paging import PageTokens
from mesh.redis_client import COMMAND_SECONDS_MAX, open_redis
from order_rpc.domain.order import OrderState
from payment_rpc.cache import AWAY, PaymentCache
from payment_rpc.domain.errors import CardDeclined, PaymentNotFound
from payment_rpc.domain.facts import ChannelFact, ChannelStatus
from payment_rpc.domain.payment import Disposition, Payment, PaymentState
from payment_rpc.servicer.payments import PaymentServicer
from payment_rpc.store import payments
from payment_rpc.tables import ATTEMPT, PAYMENT
from payment_rpc.usecases.queries import ListPayments
from payment_rpc.usecases.refund_start import CreateRefund
from tests.builders.order import ADMIN, PAGE_TOKEN_SECRET, buyer, merchant
from tests.builders.payment import DECLINED, PRICE, PaymentWorld, a_payment, payment_world
from tests.support.fakes import FakeClock
from tools.servers import Redis as RedisServer

S = PaymentState
Factory = Callable[[], str]
ORDER_RPC = Caller(role=Role.SERVICE, subject="order_rpc", service="order_rpc")
NOBODY = Caller(role=Role.PUBLIC)


@asynccontextmanager
async def cached_world(url: str, folder: Path) -> AsyncIterator[PaymentWorld]:
    """A shop on SQLite with a cache."""
    redis = open_redis(url)
    try:
        async with payment_world(
            f"sqlite+aiosqlite:///{folder / 'payment.db'}",
            f"sqlite+aiosqlite:///{folder / 'order.db'}",
            folder,
            redis=redis,
        ) as world:
            yield world
    finally:
        await redis.aclose()


@pytest.fixture
async def cached(redis_url: str, tmp_path: Path) -> AsyncIterator[PaymentWorld]:
    async with cached_world(redis_url, tmp_path) as world:
        yield world


async def by_order(
    world: PaymentWorld, payment: Payment, caller: Caller, *, merchant_id: str = "mall"
) -> Payment:
    return await world.app.payment_queries.get_payment_by_order_id(
        merchant_id=merchant_id, order_id=payment.order_id, caller=caller
    )


async def only_owners_see(world: PaymentWorld) -> None:
    """Twice: the second time there is something in the cache, if there is one."""
    paid = await world.charge(await world.order(caller=buyer("u1")))
    shown = await world.payment(paid.payment_id)
    for _ in range(2):
        for caller in (buyer("u1"), merchant("mall"), ADMIN, ORDER_RPC):
            for found in (
                await world.app.payment_queries.get_payment(paid.payment_id, caller),
                await by_order(world, paid, caller),
            ):
                assert (found.payment_id, found.state) == (shown.payment_id, S.SUCCESS)
        for stranger in (buyer("u2"), buyer("u1", "tea_house"), merchant("tea_house")):
            with pytest.raises(PaymentNotFound):
                await world.app.payment_queries.get_payment(paid.payment_id, stranger)
            with pytest.raises(PaymentNotFound):
                await by_order(world, paid, stranger)
            query = ListPayments(merchant_id="mall", order=paid.order_id)
            assert await world.app.payment_queries.list_payments(query, stranger) == ((), "")
        for read in (
            world.app.payment_queries.get_payment(paid.payment_id, NOBODY),
            by_order(world, paid, NOBODY),
        ):
            with pytest.raises(PermissionDenied):
                await read
    with pytest.raises(PaymentNotFound):
        await world.app.payment_queries.get_payment("PAY0", ADMIN)
    with pytest.raises(PaymentNotFound):
        await by_order(world, paid, ADMIN, merchant_id="tea_house")


async def test_a_payment_is_shown_to_its_owners_only(world: PaymentWorld) -> None:
    await only_owners_see(world)


async def test_a_payment_in_the_cache_is_shown_to_its_owners_only(cached: PaymentWorld) -> None:
    await only_owners_see(cached)


async def test_an_order_shows_its_live_payment_else_its_newest(world: PaymentWorld) -> None:
    order = await world.order()
    ids = []
    for _ in range(2):
        with pytest.raises(CardDeclined) as refused:
            await world.charge(order, number=DECLINED)
        ids.append(refused.value.payment_id)

    async def shown() -> str:
        found = await world.app.payment_queries.get_payment_by_order_id(
            merchant_id="mall", order_id=order.order_id, caller=buyer()
        )
        return found.payment_id

    assert await shown() == ids[1]
    paid = await world.charge(order)
    assert await shown() == paid.payment_id
    newest = replace(a_payment(S.FAILED), payment_id="PAYZ", order_id=order.order_id)
    await world.db.run(payments.insert_payment, newest)
    assert await shown() == paid.payment_id


# Lists


class Request:
    """A call of a servicer from outside gRPC."""

    @staticmethod
    async def list(
        world: PaymentWorld,
        caller: Caller,
        *,
        order_id: str,
        page_size: int = 0,
        page_token: str = "",
        merchant_id: str = "mall",
    ) -> Any:
        app = world.app
        servicer = PaymentServicer(
            payments=app.payments,
            cancellation=app.cancellation,
            captures=app.captures,
            conflicts=app.conflicts,
            queries=app.payment_queries,
            checkout_tokens=app.checkout_tokens,
            customers=app.customers,
            clock=world.clock,
        )
        with calling(caller=caller, timeout_seconds=5):
            return await servicer.ListPayments(
                payment_pb2.ListPaymentsRequest(
                    merchant_id=merchant_id,
                    order_id=order_id,
                    page_size=page_size,
                    page_token=page_token,
                ),
                None,
            )


async def test_a_list_goes_on_where_its_token_says_and_ends(world: PaymentWorld) -> None:
    order = await world.order()
    for number in range(7):
        await world.db.run(
            payments.insert_payment,
            a_payment(S.FAILED, payment_id=f"PAY{number}", order_id=order.order_id),
        )
    await world.db.run(
        payments.insert_payment,
        a_payment(S.FAILED, payment_id="PAYOTHER", order_id=order.order_id, user_id="u2"),
    )
    seen, token, pages = [], "", 0
    while pages == 0 or token:
        page = await Request.list(
            world, buyer(), order_id=order.order_id, page_size=3, page_token=token
        )
        seen += [payment.payment_id for payment in page.payments]
        token, pages = page.next_page_token, pages + 1
        # does not shift pages
        await world.db.run(
            payments.insert_payment,
            a_payment(S.FAILED, payment_id=f"PAYNEW{pages}", order_id=order.order_id),
        )
    assert (seen, pages) == ([f"PAY{number}" for number in reversed(range(7))], 3)
    assert len((await Request.list(world, ADMIN, order_id=order.order_id)).payments) == 11


async def test_a_token_is_good_for_its_list_only(world: PaymentWorld) -> None:
    order, other = await world.order(), await world.order()
    for number in range(3):
        await world.db.run(
            payments.insert_payment,
            a_payment(S.FAILED, payment_id=f"PAY{number}", order_id=order.order_id),
        )
    token = (
        await Request.list(world, buyer(), order_id=order.order_id, page_size=1)
    ).next_page_token
    selection = {
        "merchant_id": "mall",
        "order_id": order.order_id,
        "customer": "",
        "state": "",
        "created_from": "",
        "created_before": "",
    }
    ours = PageTokens(PAGE_TOKEN_SECRET)
    assert ours.decode(token, list_name="ListPayments", filter=selection, types=(int, str))
    forged = PageTokens(b"q" * 32).encode(
        list_name="ListPayments", filter=selection, key=[0, "PAY2"]
    )
    foreign = ours.encode(list_name="ListOrders", filter=selection, key=[0, "PAY2"])
    for arguments in (
        {"order_id": order.order_id, "page_token": token + "x"},
        {"order_id": order.order_id, "page_token": "x"},
        {"order_id": order.order_id, "page_token": forged},
        {"order_id": order.order_id, "page_token": foreign},
        {"order_id": other.order_id, "page_token": token},
        {"order_id": order.order_id, "merchant_id": "tea", "page_token": token},
    ):
        with pytest.raises(PageTokenInvalid):
            await Request.list(world, buyer(), **arguments)


# The cache


async def behind(world: PaymentWorld, payment_id: str, **values: Any) -> None:
    """Changes a row without telling the cache."""
    await world.execute(PAYMENT.update().where(PAYMENT.c.payment_id == payment_id).values(**values))


async def test_a_service_reads_the_row_and_never_the_cache(cached: PaymentWorld) -> None:
    paid = await cached.charge(await cached.order())
    await cached.app.payment_queries.get_payment(paid.payment_id, buyer())
    await by_order(cached, paid, buyer())
    await behind(cached, paid.payment_id, failure_message="changed", failure_reason="X")
    for read in (
        cached.app.payment_queries.get_payment,
        lambda _, caller: by_order(cached, paid, caller),
    ):
        assert (await read(paid.payment_id, buyer())).failure is None  # from the cache
        assert (await read(paid.payment_id, ORDER_RPC)).failure is not None


async def test_a_change_whose_author_died_reaches_the_cache_with_its_event(
    cached: PaymentWorld,
) -> None:
    paid = await cached.charge(await cached.order())
    [relay] = [
        worker for worker in cached.app.workers if worker.name == "relay_stream:PAYMENT_TOPIC"
    ]
    await relay._run_once()
    cached.clock.advance(6)
    # from now on believed for a day
    assert (
        await cached.app.payment_queries.get_payment(paid.payment_id, buyer())
    ).disposition is Disposition.APPLIED
    failpoints.arm("payment.refund_fact.after_commit=raise", environment="test")
    try:
        with pytest.raises(FailpointRaised):
            await cached.app.refunds.create_refund(
                CreateRefund(
                    payment_id=paid.payment_id,
                    amount=RequestedAmount("30.00"),
                    reason="",
                    request_id="",
                    key="",
                ),
                merchant(),
            )
    finally:
        failpoints.arm("", environment="test")
    cached.clock.advance(6)
    assert (
        await cached.app.payment_queries.get_payment(paid.payment_id, buyer())
    ).refunded.format() == "0.00"
    await relay._run_once()
    assert (
        await cached.app.payment_queries.get_payment(paid.payment_id, buyer())
    ).refunded.format() == "30.00"


async def test_what_moves_is_believed_for_seconds_and_what_is_settled_for_a_day(
    cached: PaymentWorld,
) -> None:
    moving = await cached.cashier(await cached.order())
    settled = await cached.charge(await cached.order())
    await cached.app.payment_queries.get_payment(settled.payment_id, buyer())
    for payment in (moving, settled):
        await behind(cached, payment.payment_id, channel_trade_no="changed")
    cached.clock.advance(4.9)
    assert (
        await cached.app.payment_queries.get_payment(moving.payment_id, buyer())
    ).channel_trade_no == ""
    cached.clock.advance(0.2)
    assert (
        await cached.app.payment_queries.get_payment(moving.payment_id, buyer())
    ).channel_trade_no == "changed"
    # put before the order answered: five seconds
    assert (
        await cached.app.payment_queries.get_payment(settled.payment_id, buyer())
    ).channel_trade_no == "changed"
    await behind(cached, settled.payment_id, channel_trade_no="again")
    cached.clock.advance(24 * 3600 - 60)
    assert (
        await cached.app.payment_queries.get_payment(settled.payment_id, buyer())
    ).channel_trade_no == "changed"
    cached.clock.advance(120)
    assert (
        await cached.app.payment_queries.get_payment(settled.payment_id, buyer())
    ).channel_trade_no == "again"
    order_view = await by_order(cached, settled, buyer())
    await behind(cached, settled.payment_id, channel_trade_no="and again")
    assert (await by_order(cached, settled, buyer())) == order_view
    cached.clock.advance(5.1)
    assert (await by_order(cached, settled, buyer())).channel_trade_no == "and again"


async def test_a_success_that_the_order_refuses_is_not_shown_as_one_for_a_day(
    cached: PaymentWorld,
) -> None:
    order = await cached.order()

    async def cancelled_meanwhile() -> None:
        cached.orders.before_update = None
        await cached.order_side.force_state(order, OrderState.CANCELLED)

    cached.orders.before_update = cancelled_meanwhile
    paid = await cached.charge(order)
    assert (await cached.payment(paid.payment_id)).disposition is Disposition.REFUSED_CANCELLED
    cached.clock.advance(5.1)
    assert (
        await cached.app.payment_queries.get_payment(paid.payment_id, buyer())
    ).state is S.LATE_SUCCESS


async def test_a_change_is_shown_at_once_and_so_is_the_payment_that_the_order_now_has(
    cached: PaymentWorld,
) -> None:
    order = await cached.order()
    with pytest.raises(CardDeclined) as refused:
        await cached.charge(order, number=DECLINED)
    failed = await cached.app.payment_queries.get_payment_by_order_id(
        merchant_id="mall", order_id=order.order_id, caller=buyer()
    )
    assert (failed.payment_id, failed.state) == (refused.value.payment_id, S.FAILED)
    paid = await cached.charge(order)
    shown = await cached.app.payment_queries.get_payment_by_order_id(
        merchant_id="mall", order_id=order.order_id, caller=buyer()
    )
    assert (shown.payment_id, shown.state) == (paid.payment_id, S.SUCCESS)
    [attempt_id] = [
        row["attempt_id"]
        for row in await cached.rows(ATTEMPT)
        if row["payment_id"] == failed.payment_id
    ]
    await cached.app.payment_queries.get_payment(failed.payment_id, buyer())
    await cached.app.channel_results.apply(
        ChannelFact(
            attempt_id=attempt_id, status=ChannelStatus.CAPTURED, amount=PRICE, trade_no="T9"
        )
    )
    assert (
        await cached.app.payment_queries.get_payment(failed.payment_id, buyer())
    ).state is S.LATE_SUCCESS


async def test_a_slow_reader_does_not_put_an_old_payment_back(redis_url: str) -> None:
    clock = FakeClock()
    redis = open_redis(redis_url)
    cache = PaymentCache(redis, clock)
    old, new = a_payment(version=3), a_payment(S.SUCCESS, version=4)
    try:
        for put, get in (
            (cache.put, lambda: cache.get("PAY1")),
            (cache.put_of_order, lambda: cache.get_of_order("mall", "ORD1")),
        ):
            await put(new)
            await put(old)
            assert await get() == new
            clock.advance(6)  # also when nobody believes it any more
            await put(old)
            assert await get() is None
            await put(replace(new, version=5))
            assert (await get() or old).version == 5
        assert await redis.ttl("payment:PAY1") > 3600
    finally:
        await redis.aclose()


async def test_what_another_release_or_key_wrote_is_not_believed(cached: PaymentWorld) -> None:
    paid, other = (
        await cached.charge(await cached.order()),
        await cached.charge(await cached.order()),
    )
    redis: Any = cached.app.payment_queries._cache._redis
    key, far = f"payment:{paid.payment_id}", str(2 * 10**15)
    foreign = (await redis.hget(f"payment:{other.payment_id}", "payment")).decode()
    garbage = ("", "[]", "{}", "{", "null", '{"currency":"CNY"}', foreign)
    for text, until in (*((text, far) for text in garbage), (foreign, "soon")):
        await redis.hset(key, mapping={"version": 99, "fresh_until": until, "payment": text})
        found = await cached.app.payment_queries.get_payment(paid.payment_id, buyer())
        assert found.payment_id == paid.payment_id
    await redis.delete(key)
    await redis.set(key, "not even a hash")
    assert (
        await cached.app.payment_queries.get_payment(paid.payment_id, buyer())
    ).payment_id == paid.payment_id


async def test_without_redis_everything_is_only_slower(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    async with cached_world(own_redis.url, tmp_path) as world:
        before = await world.charge(await world.order())
        own_redis.kill()
        with capture_logs() as logs:
            paid = await world.charge(await world.order())
            assert paid.state is S.SUCCESS
            for payment in (before, paid):
                assert (
                    await world.app.payment_queries.get_payment(payment.payment_id, buyer())
                ).state is S.SUCCESS
                assert (await by_order(world, payment, buyer())).state is S.SUCCESS
        assert {entry["event"] for entry in logs} == {"cache_away"}
        own_redis.start()
        world.clock.advance(AWAY.total_seconds() + 5)
        await world.app.payment_queries.get_payment(paid.payment_id, buyer())
        assert await world.app.payment_queries._cache.get(paid.payment_id) is not None


async def test_a_frozen_redis_costs_one_short_wait_a_second(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    async with cached_world(own_redis.url, tmp_path) as world:
        paid = await world.charge(await world.order())
        own_redis.process.signal(signal.SIGSTOP)
        try:
            started = monotonic()
            for _ in range(20):
                assert (
                    await world.app.payment_queries.get_payment(paid.payment_id, buyer())
                ).state is S.SUCCESS
            assert monotonic() - started < 4 * COMMAND_SECONDS_MAX
        finally:
            own_redis.process.signal(signal.SIGCONT)


async def test_answers_that_come_after_all_are_not_given_to_the_next_question(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    async with cached_world(own_redis.url, tmp_path) as world:
        paid = [await world.charge(await world.order()) for _ in range(6)]
        cache = world.app.payment_queries._cache
        own_redis.process.signal(signal.SIGSTOP)
        questions = [asyncio.create_task(cache.get(payment.payment_id)) for payment in paid]
        for _ in range(20):
            await asyncio.sleep(0)
        for question in questions:
            question.cancel()
        await asyncio.gather(*questions, return_exceptions=True)
        own_redis.process.signal(signal.SIGCONT)
        world.clock.advance(AWAY.total_seconds())
        for payment in reversed(paid):
            found = await cache.get(payment.payment_id)
            assert found is not None
            assert found.payment_id == payment.payment_id
