"""Time and identifiers: what every stored row relies on."""

from __future__ import annotations

import os
import re
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from mesh.clock import SystemClock
from mesh.ids import Ids, UlidIds
from tests.support.fakes import EPOCH, FakeClock, FakeIds

# Crockford's base 32 has no I, L, O, U
IDENTIFIER = re.compile(r"[A-Z]{1,6}[0-9A-HJKMNP-TV-Z]{26}", re.ASCII)


def test_the_system_clock_is_aware_utc_and_cut_to_milliseconds() -> None:
    before = datetime.now(UTC)
    now = SystemClock().now()
    assert now.tzinfo is UTC
    assert now.microsecond % 1000 == 0
    assert before - timedelta(milliseconds=1) <= now <= datetime.now(UTC)


@pytest.mark.parametrize("ids", [UlidIds(FakeClock()), FakeIds()], ids=["real", "fake"])
@pytest.mark.parametrize("prefix", ["PAY", "ORD", "RF", "ATTEMP"])
def test_an_identifier_is_its_prefix_and_a_ulid_of_at_most_32_characters(
    ids: Ids, prefix: str
) -> None:
    made = ids.new(prefix)
    assert made.startswith(prefix)
    assert len(made) <= 32
    assert IDENTIFIER.fullmatch(made)


@pytest.mark.parametrize("ids", [UlidIds(FakeClock()), FakeIds()], ids=["real", "fake"])
def test_ten_thousand_identifiers_of_one_moment_are_different(ids: Ids) -> None:
    assert len({ids.new("PAY") for _ in range(10_000)}) == 10_000


def test_identifiers_sort_by_the_time_of_their_creation() -> None:
    clock = FakeClock()
    ids = UlidIds(clock)
    made = []
    for _ in range(50):
        made.append(ids.new("PAY"))
        clock.advance(0.001)
    assert made == sorted(made)


def test_an_identifier_carries_the_time_of_its_clock_and_not_of_the_machine() -> None:
    then = UlidIds(FakeClock(datetime(2030, 1, 1, tzinfo=UTC))).new("PAY")
    now = UlidIds(FakeClock(EPOCH)).new("PAY")
    assert now < then
    assert now[3:13] == UlidIds(FakeClock(EPOCH)).new("ORD")[3:13]


def test_the_time_in_an_identifier_is_that_of_the_ulid_specification() -> None:
    # the specification's own example
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=1469918176385)
    assert UlidIds(FakeClock(moment)).new("PAY")[3:13] == "01ARYZ6S41"
    assert UlidIds(FakeClock(datetime(1970, 1, 1, tzinfo=UTC))).new("PAY")[3:13] == "0000000000"


def test_every_digit_of_the_random_part_is_as_likely_as_any_other() -> None:
    ids = UlidIds(FakeClock())
    counts = Counter(digit for _ in range(20_000) for digit in ids.new("PAY")[13:])
    assert len(counts) == 32
    assert all(9_000 < count < 11_000 for count in counts.values())  # 10 000 expected, deviation 98


def test_a_forked_process_makes_identifiers_of_its_own() -> None:
    ids = UlidIds(FakeClock())
    ids.new("PAY")  # there is chance left over, which the child inherits
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, ids.new("PAY").encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 100).decode() != ids.new("PAY")
    os.close(reading)
    os.close(writing)


def test_the_fake_clock_moves_only_when_told() -> None:
    clock = FakeClock()
    assert clock.now() == clock.now() == EPOCH
    clock.advance(90)
    assert clock.now() - EPOCH == timedelta(seconds=90)
    clock.advance(-90)
    assert clock.now() == EPOCH
    clock.set(datetime(2027, 1, 1, tzinfo=UTC))
    assert clock.now().year == 2027
