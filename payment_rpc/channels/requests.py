"""What the core hands to a channel with a call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from mesh.logs import get_logger
from mesh.money import Money

log = get_logger()

# Commits the channel's own id of an attempt. A channel awaits it between the call that creates
# something there and the call that may move money. It raises when the attempt may not be sent any
# more, or when nothing could be committed.
Remember = Callable[[str], Awaitable[None]]


class CardDetails(Protocol):
    """What a card channel needs of a card."""

    @property
    def number(self) -> str:
        """Digits only."""
        ...

    @property
    def cvv(self) -> str:
        """Three or four digits."""
        ...

    @property
    def expiration_year(self) -> int:
        """Four digits."""
        ...

    @property
    def expiration_month(self) -> int:
        """1 to 12."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentToken:
    """A payment method that the buyer's browser left at the provider.

    Attributes:
        value: the provider's id of it, e.g. `pm_...`.
        return_url: where the buyer goes after the provider's own page; "": there is no buyer, and a
            payment that needs one is declined.
    """

    value: str = field(repr=False)
    return_url: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkout:
    """A page, code or secret that a buyer pays with.

    Attributes:
        subject: what is paid, for the buyer; one line.
        return_url: where the buyer goes afterwards; "" for nowhere.
        merchant_name: whom the buyer pays, at most 100 characters; "": the channel's own name.
        description: what for, in the merchant's words, at most 500 characters; "": none.
        method: which of the channel's ways, e.g. `native`, `h5`, `jsapi`, `page`, `wap`, `qr`,
            `hosted`; "" for the channel's usual one.
        buyer_address: network address of the buyer; "" where unknown.
        buyer_openid: of WeChat's jsapi; "" where unknown.
        locale: BCP 47, "" where unknown.
    """

    subject: str
    return_url: str
    merchant_name: str = ""
    description: str = ""
    method: str = ""
    buyer_address: str = ""
    buyer_openid: str = ""
    locale: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CapturedAttempt:
    """The capture that a refund gives back.

    Attributes:
        ref, trade_no: the channel's ids of the attempt and of its capture, as its facts said them.
        amount: all that was captured.
    """

    attempt_id: str
    amount: Money
    ref: str = ""
    trade_no: str = ""


async def is_remembered(remember: Remember, ref: str, *, attempt_id: str) -> bool:
    """Commits `ref`. False when that failed: then the channel may not be called any further."""
    try:
        await remember(ref)
    except Exception:
        log.exception("channel_ref_not_remembered", attempt_id=attempt_id)
        return False
    return True
