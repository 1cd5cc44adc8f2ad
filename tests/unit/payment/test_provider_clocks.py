"""The clocks of providers, by the Date of their answers."""

from __future__ import annotations

from email.utils import formatdate

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from payment_rpc.channels.provider_clocks import (
    HOSTS_MAX,
    LOG_PAUSE_SECONDS,
    SAMPLE_SECONDS,
    ProviderClocks,
)
from tests.support.fakes import EPOCH, FakeClock

NOW = EPOCH.timestamp()


@pytest.fixture
def ours() -> FakeClock:
    return FakeClock()


@pytest.fixture
def clocks(ours: FakeClock) -> ProviderClocks:
    return ProviderClocks(ours)


@pytest.mark.parametrize(
    ("ahead", "took", "alerts"),
    [
        (0, 0.2, False),
        (59, 0.0, False),
        (62, 0.2, True),
        (-62, 0.2, True),
        (58, 10.0, False),  # an answer that took long may have been written any time
        (3600, 1.0, True),
    ],
)
def test_a_clock_that_is_a_minute_off_is_told(
    clocks: ProviderClocks, ahead: float, took: float, alerts: bool
) -> None:
    with capture_logs() as lines:
        clocks.heard("api.example", formatdate(NOW + ahead, usegmt=True), took_seconds=took)
    assert clocks.offsets()["api.example"] == pytest.approx(ahead, abs=took / 2 + 0.51)
    assert [(line["event"], line["alert"]) for line in lines] == (
        [("channel_clock_off", True)] if alerts else []
    )
    shown = REGISTRY.get_sample_value(
        "paymesh_channel_clock_offset_seconds", {"host": "api.example"}
    )
    assert shown == clocks.offsets()["api.example"]


@pytest.mark.parametrize(
    "date", ["", "nonsense", "Mon, 99 Nov 2026 20:33:08 GMT", "Mon, 30 Nov 99999999 20:33:08 GMT"]
)
def test_a_date_that_cannot_be_read_says_nothing(clocks: ProviderClocks, date: str) -> None:
    clocks.heard("api.example", date, took_seconds=0.1)
    assert clocks.offsets() == {}


def test_a_clock_is_looked_at_now_and_then_and_told_of_now_and_then(
    clocks: ProviderClocks, ours: FakeClock
) -> None:
    late = formatdate(NOW - 300, usegmt=True)
    with capture_logs() as lines:
        clocks.heard("a.example", late, took_seconds=0)
        clocks.heard("a.example", formatdate(NOW, usegmt=True), took_seconds=0)
        assert clocks.offsets()["a.example"] == -299.5
        ours.advance(SAMPLE_SECONDS)
        clocks.heard("a.example", late, took_seconds=0)
        assert len(lines) == 1
        ours.advance(LOG_PAUSE_SECONDS)
        clocks.heard("a.example", late, took_seconds=0)
        assert len(lines) == 2
    ours.advance(-7200)  # our own clock is set back: it is looked at again at once
    clocks.heard("a.example", late, took_seconds=0)
    assert clocks.offsets()["a.example"] > 3600


def test_hosts_are_bounded(clocks: ProviderClocks) -> None:
    for number in range(HOSTS_MAX + 1):
        clocks.heard(f"h{number}.example", formatdate(NOW, usegmt=True), took_seconds=0)
    assert len(clocks.offsets()) == HOSTS_MAX
