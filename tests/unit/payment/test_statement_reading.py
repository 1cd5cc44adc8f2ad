"""A statement that is read chunk by chunk, from wherever the comparison stands."""

from __future__ import annotations

import gc
from functools import partial

import pytest

from mesh.pacing import Pace, Stopped
from payment_rpc.domain.statement import LineType, StatementUnreadable, parse_statement
from payment_rpc.usecases.statement_reading import Reading
from tests.builders.statements import CAPTURE, statement

LINES = [CAPTURE.replace("ATT1", f"ATT{number}") for number in range(5)]


def reading(content: bytes, pace: Pace | None = None) -> Reading:
    return Reading("IMP1", partial(parse_statement, content), pace or Pace())


async def numbers(of: Reading, start: int, count: int) -> list[int]:
    return [line.line_no for line in await of.lines(start, count)]


async def test_lines_come_from_wherever_the_comparison_stands() -> None:
    of = await reading(statement(*LINES)).whole()
    assert of.index.lines == 5
    assert await numbers(of, 0, 2) == [1, 2]
    assert await numbers(of, 0, 2) == [1, 2]  # they were not compared
    assert await numbers(of, 3, 2) == [4, 5]  # another process compared some
    assert await numbers(of, 1, 3) == [2, 3, 4]
    assert await numbers(of, 5, 2) == []


async def test_the_first_of_equal_lines_is_known_wherever_reading_begins() -> None:
    of = await reading(statement(CAPTURE, LINES[2], CAPTURE)).whole()
    (again,) = await of.lines(2, 1)
    assert again.line_no == 3
    assert getattr(again, "type", None) is LineType.CAPTURE
    assert of.index.first(again) == 1  # type: ignore[arg-type]


async def test_nothing_is_read_of_a_file_that_was_cut_off() -> None:
    with pytest.raises(StatementUnreadable, match="cut off"):
        await reading(statement(*LINES)[:-6]).whole()


async def test_garbage_collections_do_not_go_through_what_is_known_of_the_lines() -> None:
    index = (await reading(statement(*LINES)).whole()).index
    hashes = (index._contents, index._trades, index._attempt_ids, index._refund_ids)
    assert index._trades
    assert not any(map(gc.is_tracked, hashes))


async def test_a_process_that_ends_stops_reading() -> None:
    pace = Pace(work_seconds=0)
    pace.stop()
    with pytest.raises(Stopped):
        await reading(statement(*LINES), pace).whole()
