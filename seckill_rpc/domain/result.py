"""What a buyer is told: a status that means the same everywhere (0 waiting, 1 holds an order, 2
neither) and a code that says why. The codes 2001 and 2002 are those of source 001."""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import NamedTuple


class Status(IntEnum):
    """The contract of `SeckillResult`."""

    QUEUED = 0
    HOLDER = 1
    NEITHER = 2


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
        order_id: the order that he holds, or will hold while he is QUEUED; "" otherwise.
        ticket: only in the answer to a click that stands in the line or won.
        request_id: of a click; "" when it came without one and was refused.
        retry_after_ms: when asking again makes sense; 0 when the answer is final.
        starts_in_ms: with NOT_STARTED, by the clock that admits.
    """

    status: Status
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
        """False while the buyer stands in the line."""
        return self.status is not Status.QUEUED
