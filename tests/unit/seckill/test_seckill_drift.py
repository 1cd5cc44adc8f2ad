"""What the keeper concludes from what Redis and the rows say; what it does about it is tested with
both.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from mesh.money import Money
from seckill_rpc.domain.activity import Activity, ActivityVerb, AdmissionMode
from seckill_rpc.domain.drift import (
    ABANDONED_AFTER,
    EXPLAINED_GAP_AFTER,
    GAP_AFTER,
    SAMPLES_MIN,
    Counted,
    DriftDetector,
    Published,
    Trigger,
)
from tests.support.fakes import EPOCH

STEP = timedelta(milliseconds=100)
DRAFT = Activity.plan(
    activity_id="ACT1",
    merchant_id="mall",
    sku_id="mug",
    price=Money(100, "CNY"),
    mode=AdmissionMode.FIRST_COME,
    limit_per_user=1,
    offered=10,
    starts_at=EPOCH,
    ends_at=EPOCH + timedelta(hours=1),
    at=EPOCH,
)
OPEN = DRAFT.step(ActivityVerb.PUBLISH, at=EPOCH).step(ActivityVerb.OPEN, at=EPOCH)
RIGHT = Published(
    epoch=OPEN.epoch,
    rev=OPEN.rev,
    run_id="run",
    is_held=False,
    stock=8,
    out=0,
    is_being_rebuilt=False,
)
ROWS = Counted(total=10, sold=2, giving_back=0)


def looked(published: Published | None, *, after: timedelta = timedelta(0)) -> Trigger | None:
    """What a second look says, some time after the first."""
    watch = DriftDetector()
    watch.check_state(OPEN, published, run_id="run", at=EPOCH)
    return watch.check_state(OPEN, published, run_id="run", at=EPOCH + after)


@pytest.mark.parametrize(
    ("published", "after", "trigger"),
    [
        (RIGHT, ABANDONED_AFTER * 9, None),
        (None, timedelta(0), Trigger.META_MISSING),
        (replace(RIGHT, run_id="another"), timedelta(0), Trigger.RUN_ID),
        (replace(RIGHT, epoch=OPEN.epoch - 1), ABANDONED_AFTER - STEP, None),
        (replace(RIGHT, epoch=OPEN.epoch - 1), ABANDONED_AFTER, Trigger.EPOCH),
        (replace(RIGHT, epoch=OPEN.epoch + 1), ABANDONED_AFTER, Trigger.EPOCH),
        (replace(RIGHT, is_held=True), ABANDONED_AFTER - STEP, None),
        (replace(RIGHT, is_held=True), ABANDONED_AFTER, Trigger.HOLD),
        (replace(RIGHT, rev=OPEN.rev - 1), timedelta(0), Trigger.STATE),
        (replace(RIGHT, rev=OPEN.rev + 1), ABANDONED_AFTER * 9, None),
    ],
)
def test_a_look_at_redis_says_what_is_to_be_done(
    published: Published | None, after: timedelta, trigger: Trigger | None
) -> None:
    assert looked(published, after=after) is trigger


@pytest.mark.parametrize(
    "change", [{"run_id": "another"}, {"epoch": 0}, {"is_held": True}, {"rev": 0}]
)
def test_a_rebuilder_who_lives_is_left_alone_and_the_clocks_begin_after_him(
    change: dict[str, object],
) -> None:
    published = replace(RIGHT, is_being_rebuilt=True, **change)  # type: ignore[arg-type]  # fields of it
    assert looked(published, after=ABANDONED_AFTER * 9) is None
    watch = DriftDetector()
    watch.check_state(OPEN, replace(RIGHT, is_held=True), run_id="run", at=EPOCH)
    watch.check_state(
        OPEN,
        replace(RIGHT, is_held=True, is_being_rebuilt=True),
        run_id="run",
        at=EPOCH + ABANDONED_AFTER,
    )
    assert (
        watch.check_state(
            OPEN, replace(RIGHT, is_held=True), run_id="run", at=EPOCH + ABANDONED_AFTER
        )
        is None
    )


def weighed(
    published: Published, rows: Counted = ROWS, later: Counted | None = None, *, seconds: float
) -> tuple[Trigger | None, int]:
    """What is concluded after looking every tenth of a second for so long, and the gap that is
    shown.
    """
    watch, trigger = DriftDetector(), None
    for number in range(int(seconds * 10) + 1):
        trigger = (
            watch.check_units(
                OPEN, published, before=rows, after=later or rows, at=EPOCH + number * STEP
            )
            or trigger
        )
    return trigger, watch.gap


def test_units_that_are_too_many_or_missing_are_a_gap_when_it_lasts() -> None:
    for change in (3, -3):
        wrong = replace(RIGHT, stock=RIGHT.stock + change)
        assert weighed(wrong, seconds=GAP_AFTER.total_seconds() - 0.2) == (None, change)
        assert weighed(wrong, seconds=GAP_AFTER.total_seconds()) == (Trigger.CONSERVATION, change)


def test_only_what_both_readings_of_the_rows_show_is_a_gap() -> None:
    """Between two readings units were sold, or came back: one of them fits."""
    for moved in (replace(ROWS, sold=3), replace(ROWS, sold=1)):
        for before, after in ((ROWS, moved), (moved, ROWS)):
            assert weighed(RIGHT, before, after, seconds=30) == (None, 0)


def test_units_on_their_way_back_explain_what_is_missing_and_what_a_rebuild_counted_already() -> (
    None
):
    back = Counted(total=10, sold=1, giving_back=1)
    assert weighed(RIGHT, back, seconds=30) == (None, 0)
    assert weighed(replace(RIGHT, stock=9), back, seconds=30) == (None, 0)
    assert weighed(replace(RIGHT, stock=10), back, seconds=30)[0] is Trigger.CONSERVATION
    assert weighed(replace(RIGHT, stock=7), back, seconds=30)[0] is Trigger.CONSERVATION


def test_orders_that_are_written_and_not_published_explain_a_surplus_for_longer() -> None:
    busy = replace(RIGHT, out=2)
    assert weighed(busy, seconds=EXPLAINED_GAP_AFTER.total_seconds() - 0.2) == (None, 2)
    assert weighed(busy, seconds=EXPLAINED_GAP_AFTER.total_seconds())[0] is Trigger.CONSERVATION
    assert (
        weighed(replace(busy, stock=9), seconds=GAP_AFTER.total_seconds())[0]
        is Trigger.CONSERVATION
    ), "more than the line explains"


def test_what_changes_sides_or_epochs_or_is_held_begins_anew() -> None:
    watch = DriftDetector()
    for number in range(100):
        wrong = replace(RIGHT, stock=RIGHT.stock + (1 if number // 10 % 2 else -1))
        assert (
            watch.check_units(OPEN, wrong, before=ROWS, after=ROWS, at=EPOCH + number * STEP)
            is None
        )
    assert weighed(replace(RIGHT, stock=0, is_held=True), seconds=30) == (None, 0)
    assert weighed(replace(RIGHT, stock=0, epoch=OPEN.epoch + 1), seconds=30) == (None, 0)


def test_a_keeper_that_looks_seldom_needs_its_samples_all_the_same() -> None:
    watch = DriftDetector()
    wrong = replace(RIGHT, stock=0)
    seen = [
        watch.check_units(
            OPEN, wrong, before=ROWS, after=ROWS, at=EPOCH + number * timedelta(seconds=1)
        )
        for number in range(SAMPLES_MIN)
    ]
    assert seen == [None] * (SAMPLES_MIN - 1) + [Trigger.CONSERVATION]
