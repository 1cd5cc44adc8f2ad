"""Amounts and times at Alipay and WeChat Pay, both ways."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.money import CURRENCIES, Money
from payment_rpc.channels.alipay.amounts import LIMITS, read_amount, write_amount
from payment_rpc.channels.alipay.channel import CAPABILITIES
from payment_rpc.channels.china import china_moment, china_text, yuan
from payment_rpc.channels.doubt import Unclear


@given(st.integers(min_value=0, max_value=10**12))
def test_what_is_written_is_read(minor):
    assert read_amount(write_amount(Money(minor, "CNY"))) == Money(minor, "CNY")


@pytest.mark.parametrize(
    ("text", "minor"), [("99.99", 9999), ("99.9", 9990), ("99", 9900), ("0.01", 1), ("1.000", 100)]
)
def test_amounts_are_compared_as_decimals(text, minor):
    assert read_amount(text) == Money(minor, "CNY")


@pytest.mark.parametrize(
    "text",
    ["", "-1.00", "1.001", "1e3", " 1.00", "1.00\n", "１.00", "NaN", "1,000.00", ".5", "9" * 13],
)
def test_what_is_no_amount_is_unclear(text):
    with pytest.raises(Unclear):
        read_amount(text)


@pytest.mark.parametrize("currency", [code for code in CURRENCIES if code != "CNY"])
def test_other_currencies_are_refused_before_anything_is_sent(currency):
    assert "does not take" in CAPABILITIES.problem_with(Money(100, currency))
    with pytest.raises(ValueError):
        write_amount(Money(100, currency))


def test_the_limits_are_those_of_alipay():
    most = LIMITS["CNY"].maximum_minor
    assert most is not None
    assert write_amount(Money(most, "CNY")) == "100000000.00"
    assert CAPABILITIES.problem_with(Money(most, "CNY")) == ""
    assert "no more" in CAPABILITIES.problem_with(Money(most + 1, "CNY"))
    assert "no less" in CAPABILITIES.problem_with(Money(0, "CNY"))


@pytest.mark.parametrize(
    ("text", "minor"), [("0.05940", 6), ("-0.00600", -1), ("0.00499", 0), ("0.005", 1)]
)
def test_parts_of_a_fen_are_rounded_half_up_where_that_is_asked_for(text, minor):
    assert yuan(text, round_half_up=True) == Money(minor, "CNY")
    assert yuan(text) is None


def test_a_deadline_is_written_in_china_time_and_never_later():
    moment = datetime(2026, 11, 20, 16, 30, 59, 999_999, tzinfo=UTC)
    assert china_text(moment) == "2026-11-21 00:30:59"
    assert china_text(moment.astimezone(timezone(timedelta(hours=-5)))) == "2026-11-21 00:30:59"
    assert china_moment(china_text(moment)) == moment.replace(microsecond=0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-11-20",
        "2026-11-20T20:00:00",
        "2026-13-20 20:00:00",
        "2026-11-20 20:00:00 ",
        "0001-01-01 00:00:00",
        "9999-12-31 23:59:59",
    ],
)
def test_what_is_no_time_of_our_age_is_none(text):
    assert china_moment(text) is None
