"""What a search plays with: how many payments and attempts there are and which faults may happen.
Small scenarios are searched whole; the random one draws everything from its seed."""

from __future__ import annotations

import random
from dataclasses import dataclass

from payment_rpc.channels.capabilities import Close

CHARGE_ANSWERS = ("CAPTURED", "DECLINED", "OPEN", "TECH_FAILED")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One configuration.

    Attributes:
        kind: how the channel closes, where it is not the sandbox; then its steps are those of
            `kinds`, and `tombstones`, `closable`, `answers` and `punctual` say nothing.
        payments, attempts: how many payments the client may start, and attempts of each.
        calls: how many calls may be under way before nobody starts another.
        amount: of the order, in the smallest unit; a merchant refunds single units.
        tombstones, closable: whether the channel keeps a closed id from arriving, and whether it
            closes what waits for its buyer.
        revives: the merchant wants a cancelled order back when there is stock; otherwise late money
            always goes back.
        balance: number of the payment that is paid out of the wallet, -1 for none.
        answers: what the channel may answer to the first send; HELD where it holds the money for a
            capture of the shop's.
        merchant_refunds: how many refunds the merchant asks for, per payment.
        punctual: a lease outlives the call that it is for; otherwise it may end before (a frozen
            process wakes up and sends).
    """

    payments: int = 2
    attempts: int = 1
    calls: int = 2
    amount: int = 1
    tombstones: bool = True
    closable: bool = True
    revives: bool = False
    balance: int = -1
    answers: tuple[str, ...] = CHARGE_ANSWERS
    merchant_refunds: int = 0
    late_captures: bool = False  # the channel captures what it had closed or declined
    wrong_amounts: bool = False
    fails_later: bool = False  # the channel fails what it had accepted
    not_sent: bool = False  # a send that provably never left
    timeouts: bool = False  # an answer that cannot be read
    resends: bool = False
    other_buyers: bool = False  # who take the unit that a cancel freed
    bounces: bool = False  # refunds come back
    flips: bool = False  # refunds that were refused leave after all
    duplicates: bool = False  # messages of the outbox come again after they were answered
    repeated_keys: bool = False  # the client asks again with the same key
    ships: bool = False
    operator: bool = False  # resolves conflicts
    holds: bool = False  # what waits for its buyer ends as held money
    parts: bool = False  # the shop captures it in several parts, one unit each but for the last
    punctual: bool = False
    kind: Close | None = None
    unheard: bool = False  # with `kind`: the channel's messages get lost, all of them


SMALL: dict[str, Scenario] = {  # a few thousand states each: whole in every run
    "one": Scenario(payments=1, calls=1, late_captures=True, repeated_keys=True, resends=True),
    "balance": Scenario(balance=1),
    "wrong": Scenario(calls=1, wrong_amounts=True, answers=("CAPTURED",)),
    "held": Scenario(
        payments=1,
        calls=1,
        answers=("HELD", "OPEN"),
        holds=True,
        wrong_amounts=True,
        fails_later=True,
        timeouts=True,
        resends=True,
        repeated_keys=True,
    ),
    "held and taken in parts": Scenario(
        payments=1, calls=1, amount=2, answers=("HELD",), holds=True, parts=True
    ),
    "ship": Scenario(payments=1, calls=1, merchant_refunds=1, ships=True, answers=("CAPTURED",)),
}
LARGE: dict[str, Scenario] = {
    "held and paid otherwise": Scenario(
        answers=("HELD", "CAPTURED"), holds=True, late_captures=True
    ),
    "taken in three parts": Scenario(
        payments=1, amount=3, answers=("HELD",), holds=True, parts=True, timeouts=True
    ),
    "taken in parts and paid otherwise": Scenario(
        calls=1, amount=2, answers=("HELD", "CAPTURED"), holds=True, parts=True, late_captures=True
    ),
    "one with duplicates": Scenario(
        payments=1, resends=True, late_captures=True, repeated_keys=True, duplicates=True
    ),
    "one without tombstones": Scenario(
        payments=1,
        resends=True,
        late_captures=True,
        repeated_keys=True,
        tombstones=False,
        closable=False,
    ),
    "core": Scenario(),
    "core without tombstones": Scenario(tombstones=False, closable=False),
    "late": Scenario(late_captures=True, answers=("CAPTURED", "DECLINED")),
    "core with wrong amounts": Scenario(wrong_amounts=True),
    "wrong amount second": Scenario(
        payments=1,
        attempts=2,
        wrong_amounts=True,
        resends=True,
        answers=("CAPTURED", "TECH_FAILED"),
    ),
    "failover": Scenario(payments=1, attempts=2, resends=True, tombstones=False),
    "failover and refund": Scenario(payments=1, attempts=2, resends=True, merchant_refunds=1),
    "refunds": Scenario(
        payments=1, merchant_refunds=2, flips=True, bounces=True, answers=("CAPTURED",)
    ),
    "late refunds": Scenario(
        payments=1, merchant_refunds=1, late_captures=True, flips=True, answers=("DECLINED",)
    ),
    "partial refunds": Scenario(
        payments=1, merchant_refunds=2, amount=2, late_captures=True, answers=("DECLINED",)
    ),
    "revive": Scenario(
        payments=1, late_captures=True, revives=True, other_buyers=True, duplicates=True
    ),
    "revive refunded": Scenario(payments=1, late_captures=True, revives=True, merchant_refunds=1),
    "revive two": Scenario(revives=True, other_buyers=True),
    "timeouts": Scenario(payments=1, timeouts=True, not_sent=True, fails_later=True, resends=True),
    "second capture": Scenario(
        payments=1, attempts=2, answers=("CAPTURED", "OPEN"), fails_later=True, late_captures=True
    ),
    "second capture of a wrong amount": Scenario(
        payments=1,
        attempts=2,
        answers=("CAPTURED", "OPEN"),
        fails_later=True,
        late_captures=True,
        wrong_amounts=True,
    ),
    "second capture among refunds": Scenario(
        payments=1,
        attempts=2,
        answers=("CAPTURED", "OPEN"),
        fails_later=True,
        late_captures=True,
        merchant_refunds=1,
    ),
    "shipped": Scenario(payments=1, merchant_refunds=1, ships=True),
    "operator": Scenario(
        payments=1, wrong_amounts=True, operator=True, answers=("CAPTURED",), late_captures=True
    ),
}
for kind in (Close.KNOWN, Close.PROMISE, Close.DEADLINE, Close.NEVER):
    SMALL[kind.lower()] = Scenario(payments=1, kind=kind, calls=1, resends=True, late_captures=True)
    LARGE[f"{kind.lower()} at once"] = Scenario(payments=1, kind=kind, calls=3, resends=True)
SMALL["never, unheard"] = Scenario(payments=1, kind=Close.NEVER, calls=1, unheard=True)
LARGE["never, unheard, two payments"] = Scenario(kind=Close.NEVER, unheard=True)
SCENARIOS = SMALL | LARGE


def random_scenario(chance: random.Random) -> Scenario:
    """A large scenario with faults of every kind, each in some of the seeds."""
    payments, flag = chance.choice((1, 2, 3)), chance.random
    return Scenario(
        payments=payments,
        attempts=chance.choice((1, 2)),
        calls=chance.choice((2, 3, 6)),
        amount=2,
        tombstones=flag() < 0.6,
        closable=flag() < 0.7,
        revives=flag() < 0.5,
        balance=1 if payments > 1 and flag() < 0.33 else -1,
        merchant_refunds=2 * (flag() < 0.4),
        late_captures=flag() < 0.4,
        wrong_amounts=flag() < 0.4,
        fails_later=flag() < 0.3,
        not_sent=flag() < 0.3,
        timeouts=flag() < 0.3,
        resends=True,
        other_buyers=flag() < 0.4,
        bounces=flag() < 0.4,
        flips=flag() < 0.4,
        duplicates=flag() < 0.4,
        repeated_keys=True,
        ships=True,
        operator=flag() < 0.4,
    )
