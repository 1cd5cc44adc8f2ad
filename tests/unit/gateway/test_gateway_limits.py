"""Token buckets: what passes, when the next one passes, and that the table has an end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import RateLimited
from gateway.limits import RateLimit, bucket_of
from gateway.request import Request
from gateway.settings import GatewaySettings
from gateway.streams import EventResponse, OpenStreams, StreamRouteHandler
from mesh.auth import UserTokens
from mesh.call import Caller, Role
from mesh.policies import Limit
from tests.support.fakes import FakeClock
from tests.support.ticker import ticker_schema


class Monotonic:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def bucket(per_second: int = 2, burst: int = 3, **options: int) -> tuple[RateLimit, Monotonic]:
    clock = Monotonic()
    return RateLimit(Limit(per_second=per_second, burst=burst), now=clock, **options), clock


def test_a_burst_passes_and_the_next_call_hears_when_to_come_back() -> None:
    limit, clock = bucket()
    for _ in range(3):
        limit.take("a")
    with pytest.raises(RateLimited) as refusal:
        limit.take("a")
    assert refusal.value.retry_after_seconds == pytest.approx(0.5)
    clock.now += 0.5
    limit.take("a")


def test_a_refused_call_costs_nothing() -> None:
    limit, clock = bucket()
    for _ in range(3):
        limit.take("a")
    for _ in range(50):
        with pytest.raises(RateLimited):
            limit.take("a")
    clock.now += 0.5
    limit.take("a")


def test_callers_do_not_share_a_bucket() -> None:
    limit, _ = bucket(burst=1)
    limit.take("a")
    limit.take("b")
    with pytest.raises(RateLimited):
        limit.take("a")


def test_a_pause_fills_the_bucket_no_further_than_its_burst() -> None:
    limit, clock = bucket()
    limit.take("a")
    clock.now += 3600
    for _ in range(3):
        limit.take("a")
    with pytest.raises(RateLimited):
        limit.take("a")


def test_the_table_has_an_end_and_forgets_the_oldest() -> None:
    limit, _ = bucket(burst=1, keys_max=2)
    for caller in ("a", "b", "c"):
        limit.take(caller)
    limit.take("a")  # was forgotten
    with pytest.raises(RateLimited):
        limit.take("c")


@pytest.mark.parametrize(("per_second", "burst"), [(0, 1), (1, 0)])
def test_a_limit_that_lets_nothing_pass_is_refused(per_second: int, burst: int) -> None:
    with pytest.raises(ValueError, match="per_second and burst"):
        bucket(per_second, burst)


@given(st.integers(1, 50), st.integers(1, 50), st.lists(st.floats(0, 2), max_size=60))
def test_never_more_than_the_burst_and_the_rate_pass(
    per_second: int, burst: int, pauses: list[float]
) -> None:
    limit, clock = bucket(per_second, burst)
    passed = 0
    for pause in pauses:
        clock.now += pause
        try:
            limit.take("a")
        except RateLimited:
            continue
        passed += 1
        assert passed <= burst + (clock.now - 1000.0) * per_second + 1e-6


def caller(subject: str, merchant_id: str = "mall") -> Caller:
    return Caller(
        role=Role.USER if subject else Role.PUBLIC, subject=subject, merchant_id=merchant_id
    )


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (("", "203.0.113.7"), ("", "203.0.113.7"), True),
        (("", "203.0.113.7"), ("", "203.0.113.8"), False),
        # one customer of an access provider has the whole /64
        (("", "2001:db8::1"), ("", "2001:db8::ffff:ffff:ffff:2"), True),
        (("", "2001:db8::1"), ("", "2001:db8:0:1::1"), False),
        # the same address on a socket of both families
        (("", "::ffff:203.0.113.7"), ("", "203.0.113.7"), True),
        (("", "::ffff:203.0.113.7"), ("", "::ffff:203.0.113.8"), False),
        (("", "fe80::1%eth0"), ("", "fe80::2%eth0"), True),
        (("", "not:an:address"), ("", "not:an:other"), False),
        (("alice", "203.0.113.7"), ("alice", "203.0.113.8"), True),
        (("alice", "203.0.113.7"), ("bob", "203.0.113.7"), False),
        (("alice", "203.0.113.7"), ("", "203.0.113.7"), False),
    ],
)
def test_whose_share_a_request_takes(
    one: tuple[str, str], other: tuple[str, str], *, same: bool
) -> None:
    buckets = [bucket_of(caller(subject), address) for subject, address in (one, other)]
    assert (buckets[0] == buckets[1]) is same


def test_visitors_of_a_page_with_a_publishable_key_have_a_share_each() -> None:
    page = Caller(role=Role.PUBLIC, subject="key:AK1", merchant_id="acme")
    assert bucket_of(page, "203.0.113.9") == "203.0.113.9"
    assert bucket_of(page, "2001:db8::1") == bucket_of(page, "2001:db8::2")


def test_a_name_in_another_shop_is_somebody_else() -> None:
    assert bucket_of(caller("alice"), "1.2.3.4") != bucket_of(caller("alice", "another"), "1.2.3.4")


class Endless:
    """A server whose streams say nothing."""

    is_ready = True

    async def call(self, _path: str, _request: bytes, *, metadata: Any = ()) -> tuple[bytes, Any]:
        raise NotImplementedError

    async def stream(
        self, _path: str, _request: bytes, *, metadata: Any = ()
    ) -> AsyncGenerator[bytes]:
        yield b""
        await asyncio.Event().wait()


async def test_a_stream_takes_a_token_of_the_limit_of_its_method() -> None:
    method = next(
        each for each in ticker_schema().routed(development=True) if each.policy.method == "Watch"
    )
    limit, _ = bucket(burst=2)
    settings = GatewaySettings()
    door = StreamRouteHandler(
        method,
        method.rules[0],
        schema=ticker_schema(),
        upstream=Endless(),
        streams=OpenStreams(settings),
        settings=settings,
        user_tokens=UserTokens.from_secret(b"s" * 32, clock=FakeClock()),
        limit=limit,
    )

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    async def opened() -> None:
        request = Request(
            {
                "type": "http",
                "method": "GET",
                "raw_path": b"/api/v1/ticks/news",
                "query_string": b"",
                "client": ("10.1.2.3", 5),
                "headers": [],
            }
        )
        answer = await door.serve(request, receive, (b"news",))
        assert isinstance(answer, EventResponse)
        await answer.stream.close()

    await opened()
    await opened()
    with pytest.raises(RateLimited):
        await opened()
