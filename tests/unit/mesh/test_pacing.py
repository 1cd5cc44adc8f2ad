from __future__ import annotations

import pytest

from mesh.pacing import Pace, Stopped


class _Rests(Pace):
    """Remembers after which item it rested."""

    def __init__(self) -> None:
        self.time = 0.0
        self.rests: list[float] = []
        super().__init__(work_seconds=2.0, seconds=lambda: self.time)

    def rest(self) -> None:
        self.rests.append(self.time)
        self.time += 100


def test_work_rests_whenever_it_has_worked_for_its_time() -> None:
    pace = _Rests()
    done = []
    for item in pace.paced(range(5)):
        done.append(item)
        pace.time += 1
    assert done == [0, 1, 2, 3, 4]
    assert pace.rests == [2, 104]


def test_stopped_work_ends_at_its_next_rest() -> None:
    pace = Pace(work_seconds=0, rest_seconds=60)
    work = pace.paced(range(5))
    assert next(work) == 0
    pace.stop()
    with pytest.raises(Stopped):
        next(work)
