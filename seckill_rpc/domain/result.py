"""What a buyer is told: a status, and a code that says why. The codes 2001 and 2002 are those that
buyers' clients already know.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from seckill_rpc.domain.order import BuyerStatus


class ResultCode(StrEnum):
    """Why."""

    BOUGHT = "2000"
    SOLD_OUT = "2001"
    QUEUED = "2002"
    LIMIT = "2003"
    NOT_STARTED = "2004"
    ENDED = "2005"
    PAUSED = "2006"
    NOT_DRAWN = "2007"
    NOT_SERVED = "2008"
    NO_CLICK = "2009"


class Result(NamedTuple):
    """An answer about one buyer and one product.

    Attributes:
        order_id: the order that the buyer holds, or will hold if QUEUED; "" otherwise.
        ticket: only in the answer to a click that is queued or has an order.
        request_id: of a click; "" when it came without one and was refused.
        retry_after_ms: when asking again makes sense; 0 when the answer is final.
        starts_in_ms: with NOT_STARTED, by the clock that admits.
    """

    status: BuyerStatus
    code: ResultCode
    activity_id: str
    sku_id: str
    order_id: str = ""
    ticket: str = ""
    request_id: str = ""
    retry_after_ms: int = 0
    starts_in_ms: int = 0

    @property
    def is_final(self) -> bool:
        """False while the buyer is queued."""
        return self.status is not BuyerStatus.QUEUED
