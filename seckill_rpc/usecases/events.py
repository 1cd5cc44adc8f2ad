"""The events of seckill_rpc on SECKILL_TOPIC. Payloads are the messages of `paymesh.events.v1` as
JSON with snake_case names.
"""

from __future__ import annotations

from mesh.events import destination
from mesh.outbox import Message
from mesh.times import rfc3339
from seckill_rpc.domain.activity import Activity, ActivityState

TOPIC = "SECKILL_TOPIC"
# States that have an event.
TAGS = {
    ActivityState.OPEN: "ACTIVITY_OPENED",
    ActivityState.PAUSED: "ACTIVITY_PAUSED",
    ActivityState.CLOSING: "ACTIVITY_CLOSING",
    ActivityState.CLOSED: "ACTIVITY_CLOSED",
}
_VERSION = "1.0"


def activity_changed(activity: Activity, *, event_id: str, trace_id: str) -> Message:
    """The event of the state that an activity has just come to; one of `TAGS`."""
    at = activity.updated_at
    payload = {
        "event_id": event_id,
        "activity_id": activity.activity_id,
        "merchant_id": activity.merchant_id,
        "sku_id": activity.sku_id,
        "state": str(activity.state),
        "rev": str(activity.rev),
        "sold": str(activity.sold),
        "total": str(activity.offered),
        "event_time": rfc3339(at),
        "trace_id": trace_id,
        "version": _VERSION,
    }
    return Message(
        event_id=event_id,
        destination=destination(TOPIC),
        tag=TAGS[activity.state],
        aggregate_id=activity.activity_id,
        payload=payload,
        trace_id=trace_id,
        due_at=at,
        created_at=at,
    )
