"""Activities as messages of the contract."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from paymesh.seckill.v1 import activity_pb2

from mesh.fingerprints import fingerprint
from mesh.money import Money
from mesh.times import moment_of, timestamp
from seckill_rpc.domain.activity import ActivityState, AdmissionMode
from seckill_rpc.usecases.activity_lifecycle.activities import ActivityView, LiveNumbers
from seckill_rpc.usecases.rebuild import Progress, RebuildStep

STATES = {
    state: activity_pb2.ActivityState.Value(f"ACTIVITY_STATE_{state}") for state in ActivityState
}
STATES_OF_MESSAGES = {value: state for state, value in STATES.items()}
_MODES = {
    mode: activity_pb2.AdmissionMode.Value(f"ADMISSION_MODE_{mode}") for mode in AdmissionMode
}
MODES_OF_MESSAGES = {value: mode for mode, value in _MODES.items()} | {
    activity_pb2.ADMISSION_MODE_UNSPECIFIED: AdmissionMode.FIRST_COME
}
_STEPS = {step: activity_pb2.RebuildStep.Value(f"REBUILD_STEP_{step}") for step in RebuildStep}


def activity_message(shown: ActivityView) -> activity_pb2.Activity:
    """An activity as shops see it."""
    activity = shown.activity
    return activity_pb2.Activity(
        activity_id=activity.activity_id,
        merchant_id=activity.merchant_id,
        sku_id=activity.sku_id,
        price=activity.price.format(),
        currency=activity.price.currency,
        total=activity.offered,
        limit_per_user=activity.limit_per_user,
        starts_at=timestamp(activity.starts_at),
        ends_at=timestamp(activity.ends_at),
        mode=_MODES[activity.mode],
        state=STATES[activity.state],
        sold=activity.sold,
        live=None if shown.live is None else _live_message(shown.live),
        created_at=timestamp(activity.created_at),
        updated_at=timestamp(activity.updated_at),
        problem=activity.problem,
    )


def progress_message(progress: Progress) -> activity_pb2.RebuildActivityResponse:
    """How far a rebuild is."""
    return activity_pb2.RebuildActivityResponse(
        step=_STEPS[progress.step], done=progress.done, total=progress.total, epoch=progress.epoch
    )


def moment(request: Any, field: str) -> datetime | None:
    """A time of a request in whole milliseconds, the precision of every stored time; None when it
    has none.

    Raises:
        InvalidArgument: no time that we can keep; names the field.
    """
    found = moment_of(request, field)
    return None if found is None else found.replace(microsecond=found.microsecond // 1000 * 1000)


def activity_fingerprint(
    request: activity_pb2.CreateActivityRequest, price: Money
) -> dict[str, str]:
    """The meaning of the request: "9.9" and "9.90" are one price, no currency is the default
    one.
    """
    return fingerprint(request) | {"price": price.format(), "currency": price.currency}


def _live_message(live: LiveNumbers) -> activity_pb2.LiveNumbers:
    return activity_pb2.LiveNumbers(
        stock=live.stock, queued=live.queued, entries=live.entries, is_admitting=live.is_admitting
    )
