"""Payment channels: who moves money for us. A channel answers with facts about an attempt; it never
raises for trouble on the way.

A fact says no more than what was seen: NOT_SENT only when it is proven that the call never left,
UNKNOWN for everything that may have happened. An adapter compares no amounts with ours, never
repeats a call that may move money, and never waits: the core decides what is asked next and when.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from typing import Protocol

from mesh.money import Money
from payment_rpc.channels.capabilities import Capabilities
from payment_rpc.channels.inbound import Ack, Inbound, Received
from payment_rpc.channels.requests import (
    CapturedAttempt,
    CardDetails,
    Checkout,
    PaymentToken,
    Remember,
)
from payment_rpc.domain.callback import Subject
from payment_rpc.domain.facts import ChannelFact
from payment_rpc.domain.refund_facts import RefundFact
from payment_rpc.domain.statement import Entry


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


class Channel(Protocol):
    """One account at one payment provider.

    Calls are idempotent by our own ids. `timeout_seconds` bounds a whole call; when it is over the
    fact is UNKNOWN. A cancelled call raises CancelledError and leaves the same doubt. NOT_SENT
    speaks of one call: on a resend it says nothing about the first. `ref` is the channel's own id
    of an attempt as its facts said it, "" while it is not known.
    """

    @property
    def name(self) -> str:
        """The account, as in `channel` of a payment."""
        ...

    @property
    def provider(self) -> str:
        """Whose account it is, e.g. "stripe"."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What it can do. They do not change while the channel is open."""
        ...

    async def charge(
        self,
        *,
        attempt_id: str,
        amount: Money,
        instrument: CardDetails | PaymentToken,
        expires_at: datetime | None,
        remember: Remember,
        timeout_seconds: float,
        capture: bool = True,
    ) -> ChannelFact:
        """Charges what the buyer gave. With `capture` False it only holds the money: AUTHORIZED.

        A provider that cannot be asked by our id is called twice: the first call creates, then
        `remember` commits its id, then the second call may move money. When `remember` raises, the
        second call is not made and the fact is UNKNOWN.
        """
        ...

    async def checkout(
        self,
        *,
        attempt_id: str,
        amount: Money,
        order: Checkout,
        expires_at: datetime,
        remember: Remember,
        timeout_seconds: float,
        capture: bool = True,
    ) -> ChannelFact:
        """Opens what a buyer pays with; the fact is PENDING with a next action. A provider that
        cannot be asked by our id has its own id committed by `remember` before the fact is
        returned.
        """
        ...

    async def advance(self, attempt_id: str, *, ref: str, timeout_seconds: float) -> ChannelFact:
        """Takes the step that is ours in an attempt that waits, e.g. the capture of what the buyer
        approved, and says what became of it. It may move money. The core calls it once at a time
        for an attempt, with its intention committed. Once the attempt is being closed no first step
        is taken; one whose answer was lost is repeated, under the same key. A channel without such
        a step answers as `query` does.
        """
        ...

    async def query(self, attempt_id: str, *, timeout_seconds: float, ref: str = "") -> ChannelFact:
        """What became of an attempt: never NOT_SENT, because a question that did not arrive says
        nothing about the attempt. It moves no money.
        """
        ...

    async def close(self, attempt_id: str, *, timeout_seconds: float, ref: str = "") -> ChannelFact:
        """Closes an attempt: CLOSED, how it ended before, or NOT_CLOSABLE. Never NOT_SENT."""
        ...

    async def capture(
        self,
        attempt_id: str,
        *,
        ref: str,
        capture_id: str,
        amount: Money,
        is_final: bool,
        timeout_seconds: float,
    ) -> ChannelFact:
        """Takes held money, or a part of it. `capture_id` is our key of this capture. The fact's
        amount is all that was taken under the attempt so far; while a rest is held, its `taken`.
        With `is_final` the rest is let go. AUTHORIZED that tells no more taken than before proves
        that this call took nothing. Only with `authorize`.
        """
        ...

    async def void(self, attempt_id: str, *, ref: str, timeout_seconds: float) -> ChannelFact:
        """Lets held money go: CLOSED, or how the attempt ended before. Only with `authorize`."""
        ...

    async def refund(
        self,
        *,
        refund_id: str,
        of: CapturedAttempt,
        amount: Money,
        reason: str,
        timeout_seconds: float,
    ) -> RefundFact:
        """Gives back a part of a capture. Idempotent by `refund_id`, our own id."""
        ...

    async def query_refund(
        self,
        refund_id: str,
        *,
        of: CapturedAttempt,
        amount: Money,
        timeout_seconds: float,
        refund_no: str = "",
    ) -> RefundFact:
        """What became of a refund: never NOT_SENT. `refund_no` is the channel's id of it, "" while
        it is not known.
        """
        ...

    def subject_of(self, inbound: Inbound) -> Subject:
        """The subject that a message claims, for the log only. Empty where it cannot be read."""
        ...

    def receive(self, inbound: Inbound, *, now: datetime) -> Received:
        """Reads a message after its signature over the raw bytes is checked in constant time.

        Raises:
            SignatureInvalid: forged, altered, too old or too new, or of another account or mode.
            InvalidArgument: genuine, but it cannot be read.
            KeyUnknown: signed with a key that `learn_key` has to fetch first.
        """
        ...

    def ack(self, *, accepted: bool) -> Ack | None:
        """The answer to a message: `accepted` ends its delivery, otherwise it comes again. None to
        refuse it with our own error.
        """
        ...

    async def learn_key(self, url: str, *, timeout_seconds: float) -> None:
        """Fetches the key of a `KeyUnknown`, from hosts of the provider only.

        Raises:
            SignatureInvalid: not a key of the provider's. ChannelUnavailable: no usable answer.
        """
        ...

    async def statement(
        self, date: date, *, timeout_seconds: float, until: datetime | None = None
    ) -> bytes:
        """The channel's own file of one of its days, as it is; pages are joined.

        Args:
            until: the present moment, for what a day that is not complete has so far; None for
                nothing less than the whole day.

        Raises:
            ChannelUnavailable: there is none yet, or no usable answer; asking again is safe.
        """
        ...

    def parse_statement(self, content: bytes, date: date) -> Iterator[Entry]:
        """Reads what `statement` gave, entry by entry: lines in their order, then wrong totals.
        Nothing of a file counts before it was read to its end. CPU only: the caller runs it in a
        thread.

        Raises:
            StatementUnreadable: cut off, or not a statement of this channel.
        """
        ...

    async def check(self, *, timeout_seconds: float) -> str:
        """Makes one harmless call. Returns what is wrong, in words for an operator, never with a
        secret; "" when the account can be used.
        """
        ...

    async def aclose(self) -> None:
        """Closes the connections."""
        ...


class ListingChannel(Channel, Protocol):
    """A channel that lists what it did on a day (`lists_days`); the audit compares with it."""

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


class HintChannel(Channel, Protocol):
    """The channel of source 001, whose callbacks are signed with MD5 over no amount."""

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
