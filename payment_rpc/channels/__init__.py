"""Payment channels: who moves money for us. A channel answers with facts about an attempt; it never
raises for trouble on the way.

A fact says no more than what was seen: NOT_SENT only when it is proven that the call never left,
UNKNOWN for everything that may have happened.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Protocol

from mesh.money import Money
from payment_rpc.domain.callback import Subject
from payment_rpc.domain.facts import ChannelFact
from payment_rpc.domain.refund_facts import RefundFact


@dataclass(frozen=True, slots=True, kw_only=True)
class CapturesPage:
    """A page of what a channel captured on one of its days.

    Attributes:
        captures: facts whose status is CAPTURED.
        unreadable: what stands there and cannot be understood, one sentence each.
        next_after: where the next page begins; "" after the last one.
    """

    captures: tuple[ChannelFact, ...]
    unreadable: tuple[str, ...]
    next_after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedRefund:
    """A refund as a channel lists it: what became of it, of which attempt it is, and how much."""

    fact: RefundFact
    attempt_id: str
    amount: Money


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundsPage:
    """A page of the refunds that were asked for on one of a channel's days, as they are now.
    Attributes as those of `CapturesPage`.
    """

    refunds: tuple[ListedRefund, ...]
    unreadable: tuple[str, ...]
    next_after: str


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


class Channel(Protocol):
    """One payment channel.

    Every call is idempotent by `attempt_id`, our own id. `timeout_seconds` bounds the whole call;
    when it is over the fact is UNKNOWN. A cancelled call raises CancelledError and leaves the same
    doubt. NOT_SENT speaks of one call: on a resend it says nothing about the first.
    """

    @property
    def name(self) -> str:
        """As in `channel` of a payment."""
        ...

    @property
    def closable(self) -> bool:
        """True when `close` works and leaves a tombstone for ids that the channel does not know."""
        ...

    async def charge(
        self,
        *,
        attempt_id: str,
        amount: Money,
        card: CardDetails,
        expires_at: datetime | None,
        timeout_seconds: float,
    ) -> ChannelFact:
        """Charges a card."""
        ...

    async def checkout(
        self,
        *,
        attempt_id: str,
        amount: Money,
        subject: str,
        return_url: str,
        expires_at: datetime,
        timeout_seconds: float,
        merchant_name: str = "",
        description: str = "",
    ) -> ChannelFact:
        """Opens a cashier page; the fact is PENDING with a next action.

        Args:
            merchant_name: whom the buyer pays, at most 100 characters; "": the channel's own name
                for the shop.
            description: what for, in the merchant's words, at most 500 characters; "": none.
        """
        ...

    async def query(self, attempt_id: str, *, timeout_seconds: float) -> ChannelFact:
        """What became of an attempt: never NOT_SENT, because a question that did not arrive says
        nothing about the attempt.
        """
        ...

    async def close(self, attempt_id: str, *, timeout_seconds: float) -> ChannelFact:
        """Closes an attempt: CLOSED, how it ended before, or NOT_CLOSABLE. Never NOT_SENT."""
        ...

    async def refund(
        self, *, refund_id: str, attempt_id: str, amount: Money, reason: str, timeout_seconds: float
    ) -> RefundFact:
        """Gives back a part of what was captured under an attempt. Idempotent by `refund_id`, our
        own id.
        """
        ...

    async def query_refund(self, refund_id: str, *, timeout_seconds: float) -> RefundFact:
        """What became of a refund: never NOT_SENT."""
        ...

    async def statement(self, date: date, *, timeout_seconds: float) -> bytes:
        """The channel's own file of one of its days, as it is; the reader knows the channel's
        format.

        Raises:
            ChannelUnavailable: there is none yet, or no usable answer; asking again is safe.
        """
        ...

    async def captures_of_day(
        self, date: date, *, after: str, timeout_seconds: float
    ) -> CapturesPage:
        """What the channel captured on one of its days, also on one that is not over: a page that
        begins after `after`, "" for the first.

        Raises:
            ChannelUnavailable: no usable answer; asking again is safe.
        """
        ...

    async def refunds_of_day(
        self, date: date, *, after: str, timeout_seconds: float
    ) -> RefundsPage:
        """The refunds that were asked for on one of the channel's days, as they are now, also those
        that we do not know. Pages as above.

        Raises:
            ChannelUnavailable: no usable answer; asking again is safe.
        """
        ...

    def verify_callback(
        self, *, body: bytes, timestamp: str, signature: str, now: datetime
    ) -> ChannelFact | RefundFact:
        """Reads a callback about an attempt or a refund after its signature over the raw bytes is
        checked in constant time.

        Args:
            timestamp: milliseconds since 1970 as digits; at most 5 minutes from `now`.

        Raises:
            SignatureInvalid: forged, altered, or too old or too new.
            InvalidArgument: genuine, but about neither an attempt nor a refund.
        """
        ...

    def subject_of(self, body: bytes) -> Subject:
        """The subject that a callback claims, for the log only. Empty where it cannot be read."""
        ...

    def verify_hint(
        self,
        *,
        payment_id: str,
        callback_status: str,
        timestamp: str,
        nonce: str,
        signature: str,
        now: datetime,
    ) -> None:
        """Checks a callback of source 001. A verified one is only a reason to query
        the channel.

        Args:
            timestamp: milliseconds since 1970 as 13 digits; at most 5 minutes from `now`.

        Raises:
            SignatureInvalid: forged, too old or too new, or a field is not of its fixed form.
        """
        ...

    def subject_of_hint(self, *, payment_id: str, timestamp: str, nonce: str) -> Subject:
        """What a callback of source 001 says that it is about, under the id by which source 001
        knows it.
        """
        ...

    async def sign(
        self,
        *,
        attempt_id: str,
        payment_id: str,
        callback_status: str,
        timestamp: str,
        nonce: str,
        timeout_seconds: float,
    ) -> str:
        """Lets the channel record an outcome as its truth and sign it for `verify_hint`.
        Development only.

        Raises:
            PaymentNotFound: the channel does not know the attempt.
            PaymentStateInvalid: the attempt ended otherwise.
            PermissionDenied: the channel does not do that.
            ChannelUnavailable: no usable answer; asking again is safe.
        """
        ...
