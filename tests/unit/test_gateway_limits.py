"""Token buckets: what passes, when the next one passes, and that the table has an end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.limits import RateLimit
from gateway.refusals import RateLimited
from mesh.policies import Limit


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
    limit, _ = bucket(burst=1, buckets_max=2)
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
def test_never_more_than_the_burst_and_the_rate_pass(per_second: int, burst: int, pauses: list[float]) -> None:
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
