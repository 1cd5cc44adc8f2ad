"""The protocol holds in its model, the model takes the steps of the product's tables, and it would
notice if a rule were missing.

docs/protocol_model.md explains the model; `python -m tests.protocol_model` tells the way to
whatever a test here complains about.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from order_rpc.domain.order import ORDER_STATES, OrderState
from payment_rpc.domain.attempt import ATTEMPT_STATES
from payment_rpc.domain.payment import PAYMENT_STATES
from payment_rpc.domain.refund import REFUND_STATES
from tests.protocol_model.mutants import CAUGHT_IN, COUNTED_IN, HIDDEN_IN, OUTSIDE
from tests.protocol_model.rules import ALL, SENTENCES
from tests.protocol_model.scenario import LARGE, SMALL, Scenario
from tests.protocol_model.search import explore, walk_seed, walk_steps
from tests.protocol_model.story import tell
from tests.protocol_model.world import Edge, World

# seconds of work, all of it processor time: on a machine that is busy with others it may take long
pytestmark = pytest.mark.timeout(3600)

Rounds = Callable[[int, int], int]
STATES_MAX = 1_000_000

TABLE: set[Edge] = {
    *(("payment", state, after) for state, after in PAYMENT_STATES.causes),
    *(("attempt", state, after) for state, after in ATTEMPT_STATES.causes),
    *(("refund", state, after) for state, after in REFUND_STATES.causes),
    *(("order", state, after) for state, after in ORDER_STATES.causes),
}
NOT_MODELLED: dict[Edge, str] = {
    (
        "payment",
        "INIT",
        "PAYING",
    ): "a payment is inserted PAYING, with its attempt, in one transaction",
    (
        "payment",
        "INIT",
        "CLOSED",
    ): "a payment is inserted PAYING, with its attempt, in one transaction",
    (
        "order",
        "PAID",
        "CANCELLED",
    ): "only an order that cost nothing; the orders of the model cost money",
    ("attempt", "PENDING", "PENDING"): "no change",
    ("attempt", "UNKNOWN", "UNKNOWN"): "no change",
    (
        "attempt",
        "PENDING",
        "UNKNOWN",
    ): "what the channel has accepted is not doubted again: it waits for the result",
    ("attempt", "PENDING", "NOT_ATTEMPTED"): "what the channel has accepted was sent",
    (
        "attempt",
        "NOT_ATTEMPTED",
        "CAPTURED",
    ): "what provably never left is not sent again, and after a second send nothing proves it",
    ("refund", "PENDING", "PENDING"): "no change",
    ("refund", "CREATED", "CANCELED"): "nobody takes a refund back",
}


# Too rare for chance: the amount that was owed comes in after one that was not, cannot be given
# back, and an operator keeps it.
KEPT_CONFLICT = Scenario(
    payments=1,
    attempts=2,
    calls=1,
    answers=("OPEN",),
    wrong_amounts=True,
    fails_later=True,
    late_captures=True,
    operator=True,
)
KEPT_CONFLICT_STEPS = (
    ("client pays",),
    ("start arrives",),
    ("charge arrives", "OPEN"),
    ("fact arrives",),
    ("channel decides", "FAILED"),
    ("channel calls back",),
    ("fail over",),
    ("charge arrives", "WRONG"),
    ("fact arrives",),
    ("channel captures late", "CAPTURED"),
    ("channel calls back",),
    ("worker submits a refund",),
    ("refund arrives", "FAILED"),
    ("refund fact arrives",),
    ("operator keeps a capture",),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """What the random runs and the small searches found."""

    edges: set[Edge]  # every step of a state that was made
    stories: list[str]
    ends: Counter[OrderState]


@pytest.fixture(scope="module")
def searched(rounds: Rounds) -> Searched:
    edges: set[Edge] = set()
    stories, ends = [], Counter[OrderState]()
    for seed in range(rounds(3_000, 64_000)):
        run = walk_seed(seed, edges=edges)
        ends[run.end.order.state] += 1
        if run.broken:
            stories.append(f"seed {seed}\n{tell(run)}")
    for name, scenario in SMALL.items():
        explored = explore(scenario, limit=STATES_MAX, edges=edges)
        assert explored.complete, name
        stories += [f"{name}\n{tell(run)}" for run in explored.found.values()]
    for run in (
        walk_steps(KEPT_CONFLICT, KEPT_CONFLICT_STEPS, seed, edges=edges) for seed in range(20)
    ):
        stories += [tell(run)] if run.broken else []
    return Searched(edges=edges, stories=stories, ends=ends)


# --- the protocol holds ---------------------------------------------------------------------------


def test_no_random_run_and_no_state_of_a_small_scenario_breaks_an_invariant(
    searched: Searched,
) -> None:
    assert searched.stories == []


def test_random_runs_end_in_every_state_that_an_order_may_end_in(searched: Searched) -> None:
    final = set(OrderState) - {OrderState.PENDING_PAYMENT, OrderState.CANCELLING}
    assert set(searched.ends) == final
    assert min(searched.ends.values()) > 50


@pytest.mark.parametrize("name", LARGE)
def test_no_state_of_a_larger_scenario_breaks_an_invariant(name: str, rounds: Rounds) -> None:
    limit = rounds(2_000, STATES_MAX)
    explored = explore(LARGE[name], limit=limit)
    assert [tell(run) for run in explored.found.values()] == []
    assert explored.complete or explored.states >= limit


def test_a_seed_is_always_the_same_run() -> None:
    first, again = walk_seed(7), walk_seed(7)
    assert (first.steps, first.end.key) == (again.steps, again.end.key)
    assert len({tuple(name for name, _, _ in walk_seed(seed).steps) for seed in range(50)}) == 50


# --- its states are those of the product ----------------------------------------------------------


def test_the_model_takes_no_step_that_the_tables_refuse(searched: Searched) -> None:
    assert searched.edges - TABLE == set()


def test_every_step_of_the_tables_is_taken_by_the_model_or_listed_with_its_reason(
    searched: Searched,
) -> None:
    assert TABLE - searched.edges == set(NOT_MODELLED)


# --- and no rule is too many ----------------------------------------------------------------------


def test_every_rule_is_tested_in_one_of_the_ways_below() -> None:
    ways = [*CAUGHT_IN, *COUNTED_IN, *HIDDEN_IN, *OUTSIDE]
    assert sorted(ways) == sorted(SENTENCES)


def assert_breaks(names: tuple[str, ...], scenario: Scenario, seed: int, rounds: Rounds) -> None:
    """By the seed that is known to, and in `make proof` by looking for one; with every rule in
    force neither breaks anything.
    """
    hint = f"python -m tests.protocol_model --scenario 'without {names[0]}' {' '.join(f'--without {name}' for name in names)} --seeds 10000"
    assert walk_seed(seed, ALL.without(*names), scenario=scenario).broken, (
        f"the model has changed; a seed that breaks now: {hint}"
    )
    looked = (
        walk_seed(other, ALL.without(*names), scenario=scenario)
        for other in range(rounds(0, 10_000))
    )
    assert rounds(1, 0) or any(run.broken for run in looked)
    for other in (seed, *range(rounds(20, 5_000))):
        run = walk_seed(other, scenario=scenario)
        assert not run.broken, tell(run)


@pytest.mark.parametrize("rule", CAUGHT_IN)
def test_without_this_rule_the_model_finds_a_bad_end(rule: str, rounds: Rounds) -> None:
    scenario, seed = CAUGHT_IN[rule]
    assert_breaks((rule,), scenario, seed, rounds)


@pytest.mark.parametrize("rule", HIDDEN_IN)
def test_this_rule_stands_alone_when_those_in_front_of_it_are_gone(
    rule: str, rounds: Rounds
) -> None:
    front, scenario, seed = HIDDEN_IN[rule]
    assert_breaks((rule, *front), scenario, seed, rounds)
    for other in (seed, *range(rounds(200, 5_000))):
        run = walk_seed(other, ALL.without(*front), scenario=scenario)
        assert not run.broken, tell(run)


@pytest.mark.parametrize("rule", COUNTED_IN)
def test_without_this_rule_the_end_is_good_and_a_count_is_not_zero(
    rule: str, rounds: Rounds
) -> None:
    scenario, count = COUNTED_IN[rule].scenario, COUNTED_IN[rule].count
    rules, runs = ALL.without(rule), range(rounds(300, 10_000))

    def one(world: World) -> list[str]:
        return [rule] if count(world) else []

    kept = explore(scenario, limit=STATES_MAX, now=one)
    assert (kept.complete, kept.found) == (True, {})
    assert explore(scenario, rules, limit=STATES_MAX, now=one, first_only=True).found
    with_it = sum(count(walk_seed(seed, scenario=scenario).end) for seed in runs)
    ends = [walk_seed(seed, rules, scenario=scenario) for seed in runs]
    assert with_it == 0
    assert COUNTED_IN[rule].too_rare_for_chance or sum(count(run.end) for run in ends) > 0
    # the other rules repair what it lets through
    assert [tell(run) for run in ends if run.broken] == []


@pytest.mark.parametrize("rule", OUTSIDE)
def test_without_this_rule_the_model_takes_a_step_that_no_table_has(rule: str) -> None:
    edges: set[Edge] = set()
    explore(SMALL["one"], ALL.without(rule), limit=2_000, edges=edges)
    assert edges - TABLE == {("order", "PENDING_PAYMENT", "CANCELLED")}


# --- the trace ------------------------------------------------------------------------------------


def test_a_counterexample_is_told_step_by_step() -> None:
    explored = explore(CAUGHT_IN["gate"][0], ALL.without("gate"), limit=STATES_MAX, first_only=True)
    story = tell(explored.found["a cancelled order was charged"]).splitlines()
    assert story[1] == f"  without gate: {SENTENCES['gate']}"
    steps = [line.strip() for line in story if line[:4].strip().isdigit()]
    assert sorted(step.split(" ", 1)[1] for step in steps) == [
        "cancel or expiry: CANCELLING",
        "client pays: start 0",
        "close answer arrives: close answer CLOSED",
        "close payments arrives: close payments",
        "order asks ClosePayment: close payments",
        "start arrives: start 0",
    ]
    assert "       order: state CANCELLING -> CANCELLED" in story
    assert story[-1] == "BROKEN: a cancelled order was charged"
