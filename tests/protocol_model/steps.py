"""Transactions out of random runs of the model: what was before, what was done, what was after. The
product does the same on the same rows (integration/services/test_model_and_product.py)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from payment_rpc.domain.payment import Disposition, PaymentState
from tests.protocol_model import moves, payment_rpc, refunds
from tests.protocol_model.rules import ALL
from tests.protocol_model.scenario import SCENARIOS, Scenario
from tests.protocol_model.search import walk_seed
from tests.protocol_model.world import MONEY, REFUSALS, WITHOUT_MONEY, World

START, FACT, REFUND_FACT = "start", "fact", "refund fact"
CLOSE, CLOSE_ANSWER, DISPOSITION, ASK_REFUND = (
    "close payments",
    "close answer",
    "disposition",
    "ask refund",
)
KINDS = (START, FACT, REFUND_FACT, CLOSE, CLOSE_ANSWER, DISPOSITION, ASK_REFUND)
_BESIDE: list[tuple[PaymentState, bool, Disposition | None]] = [
    (PaymentState.PAYING, True, None),
    (PaymentState.CLOSING, True, None),
    (PaymentState.CLOSING, False, None),
    (PaymentState.SUCCESS, True, None),
    (PaymentState.SUCCESS, True, Disposition.APPLIED),
    (PaymentState.LATE_SUCCESS, False, None),
    *((PaymentState.LATE_SUCCESS, False, refusal) for refusal in REFUSALS),
    *(
        (state, False, None)
        for state in (*WITHOUT_MONEY, PaymentState.CONFLICTED, PaymentState.LATE_REFUNDED)
    ),
]
_DIRECT = {
    payment_rpc.apply_fact: FACT,
    refunds.apply_refund_fact: REFUND_FACT,
    payment_rpc.ask_refund: ASK_REFUND,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """One transaction: its kind, what it was about, and the world before and after it."""

    kind: str
    args: tuple[Any, ...]
    before: World
    after: World

    @property
    def shape(self) -> tuple[Any, ...]:
        """Equal for transactions that decide by the same: what they are about, the payment that it
        concerns, and whether somebody asked for refunds of it. Of those without such a payment: all
        payments."""
        world = self.before
        about = tuple(
            each for each in self.args if not isinstance(each, int) and each not in world.refunds
        )
        p = self._subject()
        rows = world.payments if p is None else [world.payments[p]]
        states = sorted(
            (
                str(row.state),
                row.slot,
                str(row.disposition),
                _part(row.captured, row.refunded),
                _part(row.captured, row.reserved),
            )
            for row in rows
        )
        asked = sorted(
            {
                str(row.state)
                for name, row in world.refunds.items()
                if row.payment == p and not name.startswith("auto")
            }
        )
        others = p is not None and any(
            row.slot for each, row in enumerate(world.payments) if each != p
        )
        name = self.args[0] if self.kind == REFUND_FACT else ""
        own = (
            (name[:4] == "auto", str(world.refunds[name].state), world.refunds[name].stands_alone)
            if name
            else ()
        )
        if self.kind == FACT:
            attempt = world.attempts[self.args[0]]
            own = (str(attempt.state), attempt.captured, attempt.sent_again)
            if world.scenario.parts:
                intended = attempt.capturing, attempt.keeps_rest
                own = (*own, attempt.units, *intended, *self.args[2:])
        gate = (
            world.shop.gate_closed
            if self.kind == START
            else world.order.state
            if self.kind == CLOSE_ANSWER
            else ""
        )
        return self.kind, about, gate, states, asked, others, own

    def _subject(self) -> int | None:
        match self.kind:
            case "fact":
                return int(self.before.attempts[self.args[0]].payment)
            case "refund fact":
                return int(self.before.refunds[self.args[0]].payment)
            case "disposition" | "ask refund":
                return int(self.args[0])
            case _:
                return None


def sample(seeds: range, *, per_kind: int) -> list[Done]:
    """Transactions of different shapes out of the runs of some seeds, at most so many of each
    kind.
    """
    found: dict[str, dict[str, Done]] = {kind: {} for kind in KINDS}
    for seed in seeds:
        for scenario in (None, list(SCENARIOS.values())[seed % len(SCENARIOS)]):
            for done in _transactions(seed, scenario):
                found[done.kind].setdefault(repr(done.shape), done)
    return [done for of_kind in found.values() for done in _spread(of_kind, per_kind)]


def every_start() -> list[Done]:
    """The start of a payment beside another one in each state, whether a run comes there or not."""
    done = []
    for state, slot, disposition in _BESIDE:
        for gate_closed in (False, True):
            world = World(Scenario(), ALL, set())
            first = world.payments[0]
            first.state, first.slot, first.disposition = state, slot, disposition
            first.captured = 1 if state in (*MONEY, PaymentState.LATE_REFUNDED) else 0
            first.refunded = 1 if state is PaymentState.LATE_REFUNDED else 0
            world.shop.gate_closed = gate_closed
            before = world.of(world.key)
            payment_rpc.start(world, 1)
            done.append(Done(kind=START, args=(1,), before=before, after=world))
    return done


def _transactions(seed: int, scenario: Scenario | None) -> Iterator[Done]:
    run = walk_seed(seed, scenario=scenario)
    if run.scenario.balance >= 0:  # a wallet is its own transaction; its tests are elsewhere
        return
    world = World(run.scenario, ALL, set())
    for _, act, args in run.steps:
        world.calls.sort()
        kind, about = _DIRECT.get(act, ""), args
        if act is moves._finish:
            kind, *rest = world.calls[args[0]]
            about = tuple(rest)
        before = world.of(world.key)
        act(world, *args)
        if kind in KINDS:
            yield Done(kind=kind, args=about, before=before, after=world.of(world.key))


def _spread(done: dict[str, Done], count: int) -> list[Done]:
    """So many of them, at even distances in the order of their shapes."""
    shapes = sorted(done)
    return (
        [done[shapes[place * len(shapes) // count]] for place in range(count)]
        if len(shapes) > count
        else list(done.values())
    )


def _part(whole: int, part: int) -> str:
    return "none" if part == 0 else "some" if part < whole else "all"
