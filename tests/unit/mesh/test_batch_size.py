"""A batch that does not fit into its unit's time gets smaller until it does, and grows again."""

from __future__ import annotations

import pytest

from mesh.batch_size import BatchSize
from mesh.errors import Conflict, MeshError, OutcomeUnknown, Unavailable


@pytest.mark.parametrize("error", [Unavailable, OutcomeUnknown, Conflict])
async def test_a_batch_is_halved_until_it_fits_and_grows_again(error: type[MeshError]) -> None:
    size, fits, tried = BatchSize(100), 7, []

    async def work(rows: int) -> int:
        tried.append(rows)
        if rows > fits:
            raise error
        return rows

    for _ in range(4):
        with pytest.raises(error):
            await size.run(work)
    assert await size.run(work) == 6
    fits = 1000
    assert [await size.run(work) for _ in range(5)] == [12, 24, 48, 96, 100]
    assert tried == [100, 50, 25, 12, 6, 12, 24, 48, 96, 100]


async def test_one_row_is_always_tried_and_other_errors_change_nothing() -> None:
    size = BatchSize(2)

    async def fail(rows: int) -> int:
        raise Unavailable(str(rows))

    for _ in range(3):
        with pytest.raises(Unavailable):
            await size.run(fail)
    assert size.rows == 1

    async def break_down(rows: int) -> int:
        raise ZeroDivisionError(rows)

    size = BatchSize(8)
    with pytest.raises(ZeroDivisionError):
        await size.run(break_down)
    assert size.rows == 8
