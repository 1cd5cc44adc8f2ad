"""The refusals of seckill_rpc. Each `reason` is a value of `paymesh.seckill.v1.ErrorReason`, which
says what it means on the wire. A docstring here is the default message on the wire: it is contract.
"""

from __future__ import annotations

from mesh.errors import InvalidArgument, MeshError, NotFound


class ActivityNotFound(NotFound):
    """There is no such activity, or it is not the caller's; for buyers: the product has none."""

    reason = "ACTIVITY_NOT_FOUND"


class ActivityStateInvalid(MeshError):
    """The activity's state does not allow this step. `metadata` has state and verb."""

    reason = "ACTIVITY_STATE_INVALID"


class ActivityAlreadyOpen(MeshError):
    """The product has another activity that is not closed. `metadata` has activity_id."""

    reason = "ACTIVITY_ALREADY_OPEN"


class SeckillBusy(MeshError):
    """Too many are in the queue, or too many calls of one buyer; nothing was taken.
    `retry_after_seconds` says when to come back.
    """

    reason = "SECKILL_BUSY"


class SeckillNotReady(MeshError):
    """The activity is being published or rebuilt, or Redis does not answer: whether the click
    counted is unknown. The same request_id finds out.
    """

    reason = "SECKILL_NOT_READY"


class TicketInvalid(InvalidArgument):
    """Not a ticket of ours, or another buyer's, or another product's."""

    reason = "TICKET_INVALID"


class SeckillOrderNotFound(NotFound):
    """There is no such order of a flash sale."""

    reason = "SECKILL_ORDER_NOT_FOUND"


class MerchantSuspended(MeshError):
    """The merchant is suspended or closed: no new orders."""

    reason = "MERCHANT_SUSPENDED"


class MerchantNotLive(MeshError):
    """The merchant may only use its test sibling."""

    reason = "MERCHANT_NOT_LIVE"
