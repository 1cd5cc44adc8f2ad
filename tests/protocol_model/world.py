"""The state of the model: rows of payment_rpc, rows of order_rpc, what the channel knows, and calls
under way. Mutable, because a search works on
copies: `World.key` freezes everything into one hashable value and `World.of` thaws it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import StrEnum
from operator import attrgetter
from typing import Any

from order_rpc.domain.order import OrderState
from payment_rpc.domain.attempt import AttemptState
from payment_rpc.domain.payment import Disposition, PaymentState
from payment_rpc.domain.refund import RefundState
from tests.protocol_model.rules import Rules
from tests.protocol_model.scenario import Scenario

Call = tuple[Any, ...]  # its name, then its arguments; see moves.FINISH
# payment, version, state, captured, refunded, reserved
Snapshot = tuple[int, int, PaymentState, int, int, int]
Edge = tuple[str, str, str]  # kind of row, from, to
Key = tuple[Any, ...]

UNDECIDED = (PaymentState.PAYING, PaymentState.AUTHORIZED, PaymentState.CLOSING)
WITHOUT_MONEY = (PaymentState.FAILED, PaymentState.CLOSED)
MONEY = (PaymentState.SUCCESS, PaymentState.LATE_SUCCESS)
OPEN = (
    AttemptState.SENT,
    AttemptState.PENDING,
    AttemptState.UNKNOWN,
    AttemptState.AUTHORIZED,
)
REFUND_OPEN = (RefundState.CREATED, RefundState.SUBMITTED, RefundState.PENDING, RefundState.UNKNOWN)
PAID = (OrderState.PAID, OrderState.SHIPPED, OrderState.COMPLETED)
REFUSALS = (Disposition.REFUSED_CANCELLED, Disposition.REFUSED_PAID_BY_OTHER)


class AtChannel(StrEnum):
    """What the channel knows of an attempt."""

    NOTHING = "NOTHING"
    CREATED = "CREATED"  # exists there, and nobody can pay it yet
    OPEN = "OPEN"  # waits for the buyer
    HELD = "HELD"  # holds the money until we capture it
    APPROVED = "APPROVED"  # by the buyer: the step that moves money is ours
    CAPTURED = "CAPTURED"
    WRONG = "WRONG"  # captured an amount that is not ours
    DECLINED = "DECLINED"
    FAILED = "FAILED"  # its own fault, after it had accepted
    CLOSED = "CLOSED"
    TOMBSTONE = "TOMBSTONE"  # closed before it arrived; keeps it from arriving


class Fact(StrEnum):
    """What the channel tells of an attempt."""

    CAPTURED = "CAPTURED"
    WRONG = "WRONG"
    DECLINED = "DECLINED"
    TECH_FAILED = "TECH_FAILED"
    NOT_ATTEMPTED = "NOT_ATTEMPTED"  # proven not sent
    PENDING = "PENDING"
    HELD = "HELD"
    NOT_FOUND = "NOT_FOUND"
    CLOSED = "CLOSED"
    LOST = "LOST"  # a tombstone
    UNKNOWN = "UNKNOWN"  # no readable answer


class Stock(StrEnum):
    """A reservation of the order's unit; each revival makes a new one."""

    RESERVED = "RESERVED"
    COMMITTED = "COMMITTED"
    RELEASED = "RELEASED"


@dataclass(slots=True)
class Order:
    """Order row, its reservations, and what it knows of each payment."""

    state: OrderState
    paid_by: int  # a payment, -1 for none
    stock: tuple[Stock, ...]
    dispositions: tuple[Disposition | None, ...]
    seen: tuple[int, ...]  # newest version heard, per payment
    heard_refunded: tuple[int, ...]  # per payment
    held: int = -1  # the payment whose money is held, -1 for none
    lets_go: bool = False  # its shop cancels it, and wants no held money


@dataclass(slots=True)
class Payment:
    """Payment row, its receipt, and what its client was told."""

    state: PaymentState | None = None  # None: not inserted
    slot: bool = False
    version: int = 0
    captured: int = 0
    reserved: int = 0
    refunded: int = 0
    disposition: Disposition | None = None
    attention: bool = False  # a person looks at it
    receipt: str = ""  # the first final answer
    told: str = ""  # what the client got for its key


@dataclass(slots=True)
class Attempt:
    """Attempt row and the channel's record under its id."""

    payment: int
    state: AttemptState | None = None
    leased: bool = False
    sent_again: bool = False
    captured: bool = False
    at_channel: AtChannel = AtChannel.NOTHING
    capturing: bool = False  # its capture is intended
    named: bool = False  # the channel's own id of it is remembered
    steps: int = 0  # of ours, that were begun
    handed: bool = False  # a page is in the hands of the buyer
    taken: int = 0  # how often the channel took the money
    units: int = 0  # of held money, that are booked
    units_at_channel: int = 0  # of held money, that the channel took
    keeps_rest: bool = False  # the capture that is intended takes one unit and no more
    captures_sent: int = 0  # how often that capture was sent


@dataclass(slots=True)
class Refund:
    """Refund row and the channel's record under its id."""

    payment: int
    attempt: int  # of a second capture; -1: of the payment
    amount: int
    stands_alone: bool  # capped by its attempt alone
    state: RefundState = RefundState.CREATED
    above_cap: bool = False  # booked to loss
    at_channel: RefundState | None = None
    times_out: int = 0  # how often the channel moved the money, less bounces


@dataclass(slots=True)
class Shop:
    """What is not the order's: the shelf, the gate at payment_rpc, what should never have
    happened.
    """

    available: int = 1
    taken: int = 0  # units that other buyers hold
    gate_closed: bool = False
    wrongs: tuple[str, ...] = ()


def _freezer(kind: type[Any]) -> Callable[[Any], tuple[Any, ...]]:
    return attrgetter(*(part.name for part in fields(kind)))


_ORDER, _PAYMENT, _ATTEMPT, _REFUND, _SHOP = (
    _freezer(kind) for kind in (Order, Payment, Attempt, Refund, Shop)
)


class World:
    """Everything, in one scenario under some rules. `edges` collects every step of a state that was
    ever made, here and in copies.
    """

    __slots__ = (
        "attempts",
        "calls",
        "edges",
        "order",
        "outbox",
        "payments",
        "refunds",
        "rules",
        "scenario",
        "shop",
    )

    def __init__(self, scenario: Scenario, rules: Rules, edges: set[Edge]) -> None:
        count = scenario.payments
        self.scenario = scenario
        self.rules = rules
        self.edges = edges
        self.order = Order(
            OrderState.PENDING_PAYMENT,
            -1,
            (Stock.RESERVED,),
            (None,) * count,
            (0,) * count,
            (0,) * count,
        )
        self.payments = [Payment() for _ in range(count)]
        self.attempts = [
            Attempt(number // scenario.attempts) for number in range(count * scenario.attempts)
        ]
        self.refunds: dict[str, Refund] = {}
        self.shop = Shop()
        self.outbox: list[tuple[Snapshot, bool]] = []  # and whether it was answered
        self.calls: list[Call] = []

    @property
    def key(self) -> Key:
        """All of it, frozen; two worlds with the same key behave alike."""
        self.calls.sort()
        self.outbox.sort()
        return (
            _ORDER(self.order),
            _SHOP(self.shop),
            tuple(map(_PAYMENT, self.payments)),
            tuple(map(_ATTEMPT, self.attempts)),
            tuple([(name, _REFUND(self.refunds[name])) for name in sorted(self.refunds)]),
            tuple(self.outbox),
            tuple(self.calls),
        )

    def of(self, key: Key) -> World:
        """The world that a key of this one's scenario freezes."""
        world: World = object.__new__(World)
        world.scenario, world.rules, world.edges = self.scenario, self.rules, self.edges
        order, shop, payments, attempts, refunds, outbox, calls = key
        world.order, world.shop = Order(*order), Shop(*shop)
        world.payments = [Payment(*row) for row in payments]
        world.attempts = [Attempt(*row) for row in attempts]
        world.refunds = {name: Refund(*row) for name, row in refunds}
        world.outbox, world.calls = list(outbox), list(calls)
        return world

    def attempts_of(self, payment: int) -> range:
        """Numbers of the attempts of a payment."""
        count = self.scenario.attempts
        return range(payment * count, payment * count + count)

    def none_open(self, payment: int) -> bool:
        """True when no attempt of a payment waits for a result."""
        return all(self.attempts[a].state not in OPEN for a in self.attempts_of(payment))

    def call(self, *call: Any) -> None:
        """A call or a message that is under way from now on."""
        self.calls.append(call)

    def wrong(self, what: str) -> None:
        """Something that may never happen happened."""
        self.shop.wrongs = (*self.shop.wrongs, what)

    def order_to(self, state: OrderState) -> None:
        """A step of the order."""
        self.edges.add(("order", self.order.state, state))
        self.order.state = state

    def payment_to(self, payment: Payment, state: PaymentState) -> None:
        """A step of a payment; a state that is not live gives up the slot."""
        if payment.state is not None and payment.state is not state:
            self.edges.add(("payment", payment.state, state))
        payment.state = state
        if state not in UNDECIDED and state is not PaymentState.SUCCESS:
            payment.slot = False

    def attempt_to(self, attempt: Attempt, state: AttemptState) -> None:
        """A step of an attempt."""
        if attempt.state is not None and attempt.state is not state:
            self.edges.add(("attempt", attempt.state, state))
        attempt.state = state

    def refund_to(self, refund: Refund, state: RefundState) -> None:
        """A step of a refund."""
        self.edges.add(("refund", refund.state, state))
        refund.state = state
