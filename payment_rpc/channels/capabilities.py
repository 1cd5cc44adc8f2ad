"""What a channel can and cannot do, as data: the core refuses what a channel cannot before anything
is sent, and closes an attempt in the way that its channel allows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo

from mesh.money import Money
from payment_rpc.domain.statement import ChannelDay

UTC_DAY = ChannelDay(time_zone=ZoneInfo("UTC"), cut_off=time(0))
# A channel counts the life of an attempt from when our request has arrived.
ON_THE_WAY = timedelta(seconds=10)


class Close(StrEnum):
    """How an attempt can be brought to an end without money. What each kind asks of the core stands
    in docs/protocols.md.
    """

    # works also for ids that the channel never saw, and keeps them from arriving later
    TOMBSTONE = "TOMBSTONE"
    # ends what the channel knows; what it does not know cannot be paid, because its id or code was
    # never handed to anybody
    KNOWN = "KNOWN"
    # money moves only by a later call of ours: closing is our committed promise not to make it
    PROMISE = "PROMISE"
    # it ends at the deadline that the channel was told; before that it may always be paid
    DEADLINE = "DEADLINE"
    NEVER = "NEVER"  # it may be paid for ever


class Instrument(StrEnum):
    """What a buyer pays with, or what he is handed to pay."""

    CARD = "CARD"  # a card number; the sandbox only
    TOKEN = "TOKEN"  # noqa: S105  a payment method of the provider's, e.g. `pm_...`
    REDIRECT = "REDIRECT"
    QR = "QR"
    CLIENT_SECRET = "CLIENT_SECRET"  # noqa: S105  the name of a kind
    CLIENT_PARAMS = "CLIENT_PARAMS"  # a JSON object for the provider's own script


class StatementKind(StrEnum):
    """What a statement lists."""

    NONE = "NONE"  # there is none
    TRADES = "TRADES"  # captures and refunds
    LEDGER = "LEDGER"  # every movement of the account, fees and payouts too


class FeeKnown(StrEnum):
    """When the channel's fee of a capture is known."""

    NONE = "NONE"  # it keeps none
    AT_CAPTURE = "AT_CAPTURE"  # the fact of the capture says it, or a later question does
    STATEMENT = "STATEMENT"  # only the statement does


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Amounts of one currency that a channel takes, in minor units of `mesh.money`.

    Attributes:
        minimum_minor, maximum_minor: both are taken; None for no maximum.
        step_minor: amounts are multiples of it.
    """

    minimum_minor: int = 1
    maximum_minor: int | None = None
    step_minor: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a channel does.

    Attributes:
        currencies: what it takes; None for every currency that `mesh.money` knows, in any amount.
        authorize: it can hold money and take it later (`capture`, `void`).
        multiple_captures: it can take a hold in several parts.
        refunds_max: of one capture; None for no limit.
        refund_window: after the capture; None for no limit.
        refund_spacing: between two refunds of one capture.
        expires: shortest and longest life of an attempt that the channel takes; None: any.
        resend_window: how long a call that may move money can be repeated under the same key; None
            for ever.
        watch: how long after the deadline of an attempt the channel sees money that comes to it,
            whatever result the attempt has; it is asked until then. None: it needs no asking.
        ask_by_own_id: `query` works with our attempt id alone. Otherwise it needs `ref`, and says
            NOT_FOUND without one.
        lists_days: it is a `ListingChannel`.
        statement_day: how it counts the days of its statements.
        statement_ready: how long after the end of a day its statement is complete.
    """

    instruments: frozenset[Instrument]
    currencies: Mapping[str, Limits] | None
    close: Close
    authorize: bool = False
    multiple_captures: bool = False
    partial_refunds: bool = True
    refunds_max: int | None = None
    refund_window: timedelta | None = None
    refund_spacing: timedelta = timedelta()
    expires: tuple[timedelta, timedelta] | None = None
    resend_window: timedelta | None = None
    watch: timedelta | None = None
    ask_by_own_id: bool = True
    lists_days: bool = False
    statement: StatementKind = StatementKind.NONE
    statement_day: ChannelDay = UTC_DAY
    statement_ready: timedelta = timedelta()
    fee_known: FeeKnown = FeeKnown.NONE

    def may_repeat(self, *, since: datetime, at: datetime) -> bool:
        """Whether a call that may move money can be repeated under its key, which was used at
        `since` or later for the first time. Afterwards it could move money once more.
        """
        return self.resend_window is None or at < since + self.resend_window

    def end_of_attempt(self, wanted: datetime, *, at: datetime) -> datetime | None:
        """When an attempt that begins at `at` ends at the channel, `wanted` or earlier; None: the
        channel takes no attempt that ends so soon.
        """
        if self.expires is None:
            return wanted
        shortest, longest = self.expires
        if wanted < at + shortest + ON_THE_WAY:
            return None
        return min(wanted, at + longest)

    def problem_with(self, amount: Money) -> str:
        """Why the channel does not take an amount, for the caller; "" when it takes it."""
        if self.currencies is None:
            return ""
        limits = self.currencies.get(amount.currency)
        if limits is None:
            return f"the channel does not take {amount.currency}"
        if amount.minor < limits.minimum_minor:
            return f"the channel takes no less than {Money(limits.minimum_minor, amount.currency)}"
        if limits.maximum_minor is not None and amount.minor > limits.maximum_minor:
            return f"the channel takes no more than {Money(limits.maximum_minor, amount.currency)}"
        if amount.minor % limits.step_minor:
            return (
                f"the channel takes multiples of {Money(limits.step_minor, amount.currency)} only"
            )
        return ""
