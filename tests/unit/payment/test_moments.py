"""Times from outside: what no channel means is left out before it is stored, and what is stored
already can be read.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from sqlalchemy.dialects import sqlite

from mesh.db import UtcMillis
from payment_rpc.channels.doubt import Unclear
from payment_rpc.channels.sandbox.answers import read_refund, read_transaction
from payment_rpc.domain.statement import COLUMNS, BadLine, Line, is_plausible_day, parse_statement

STRANGE = [
    "0001-01-01T00:00:00+08:00",
    "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59-01:00",
    "9999-12-31T23:59:59Z",
    "1970-01-01T00:00:00Z",
    "1999-12-31T23:59:59Z",
    "2200-01-01T00:00:00Z",
]
GOOD = "2026-11-20T12:00:00+08:00"


def transaction(**changes: Any) -> bytes:
    return msgspec.json.encode(
        {
            "attempt_id": "ATT1",
            "trade_no": "T1",
            "status": "CAPTURED",
            "amount": "100.00",
            "currency": "CNY",
            **changes,
        }
    )


@pytest.mark.parametrize("strange", STRANGE)
def test_a_fact_with_a_strange_time_is_a_fact_without_a_time(strange: str) -> None:
    fact = read_transaction(transaction(occurred_at=strange), attempt_id="ATT1")
    assert (fact.status, fact.occurred_at) == ("CAPTURED", None)
    fact = read_transaction(transaction(finished_at=strange, occurred_at=GOOD), attempt_id="ATT1")
    assert fact.occurred_at == datetime(2026, 11, 20, 4, tzinfo=UTC)
    refund = read_refund(
        msgspec.json.encode(
            {
                "refund_id": "RF1",
                "attempt_id": "ATT1",
                "refund_no": "R1",
                "status": "SUCCESS",
                "amount": "1.00",
                "currency": "CNY",
                "occurred_at": strange,
            }
        ),
        refund_id="RF1",
    )
    assert (refund.status, refund.occurred_at) == ("SUCCESS", None)


@pytest.mark.parametrize("strange", STRANGE)
def test_a_line_of_a_statement_with_a_strange_time_is_a_bad_line_and_the_others_go_on(
    strange: str,
) -> None:
    lines = [
        f"1,CAPTURE,T1,ATT1,,100.00,CNY,0.60,{strange}",
        f"2,CAPTURE,T2,ATT2,,100.00,CNY,0.60,{GOOD}",
    ]
    content = "\n".join([",".join(COLUMNS), *lines, "SUM,CAPTURE,CNY,2,200.00,1.20", "END,2"])
    bad, good = parse_statement(content.encode())
    assert isinstance(bad, BadLine)
    assert bad.problem.startswith("occurred_at")
    assert isinstance(good, Line)


@pytest.mark.parametrize(
    "changes",
    [
        {"duplicate_of": "ATT1é"},
        {"duplicate_of": "A" * 33},
        {"duplicate_of": "ATT 1"},
        {"trade_no": "x" * 65},
    ],
)
def test_ids_from_a_channel_are_ids(changes: dict[str, Any]) -> None:
    with pytest.raises(Unclear):
        read_transaction(transaction(**changes), attempt_id="ATT1")


@pytest.mark.parametrize("stored", [-62135625600000, -(2**63), 2**63 - 1, 253402304399000])
def test_a_time_that_is_in_the_database_can_be_read(stored: int) -> None:
    moment = UtcMillis().process_result_value(stored, sqlite.dialect())
    assert moment is not None
    assert moment.tzinfo is UTC


def test_a_time_beyond_the_years_of_utc_is_stored_as_the_nearest_in_them() -> None:
    column = UtcMillis()
    for moment in (
        datetime.min.replace(tzinfo=timezone(timedelta(hours=8))),
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-8))),
    ):
        stored = column.process_bind_param(moment, sqlite.dialect())
        assert stored is not None
        assert column.process_result_value(stored, sqlite.dialect()) is not None


def test_days_have_bounds_too() -> None:
    assert [is_plausible_day(day) for day in (date.min, date(2026, 11, 20), date.max)] == [
        False,
        True,
        False,
    ]
