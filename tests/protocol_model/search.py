"""Two ways through the model: `walk`, one random run to its end, and `explore`, every state of a
small scenario, nearest first.
"""

from __future__ import annotations

import gc
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.protocol_model.invariants import Broken, broken_at_rest, broken_now
from tests.protocol_model.moves import Act, Move, moves
from tests.protocol_model.rules import ALL, Rules
from tests.protocol_model.scenario import Scenario, random_scenario
from tests.protocol_model.world import Edge, Key, World

FREE_STEPS = 90  # of a random run, with faults
REPAIR_STEPS = 400  # after them, without new input, until it rests
# of these, until repairs that change nothing (a callback that is ignored for ever) count as none
PATIENCE = 80
_TASTES = (0.01, 0.1, 1.0, 1.0, 5.0)
_RARE = {
    "cancel or expiry": 0.02,
    "a call is lost": 0.1,
    "lease ends": 0.1,
    "client pays": 8.0,
    "no attempt is left": 0.2,
    "fail over": 4.0,
    "channel captures late": 8.0,
}

Step = tuple[str, Act, tuple[Any, ...]]
Judge = Callable[[World], list[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One way through the model. `broken` is empty when every invariant held to the end."""

    scenario: Scenario
    rules: Rules
    steps: tuple[Step, ...]
    broken: tuple[str, ...]
    end: World


@dataclass(frozen=True, slots=True, kw_only=True)
class Explored:
    """What a search over all states found. `found` has the shortest way to each broken invariant.

    Attributes:
        complete: every state was seen; False when the limit came first, or a counterexample was
            enough.
        at_rest: how many states have nothing left to repair.
    """

    states: int
    at_rest: int
    complete: bool
    found: dict[str, Run]


def walk_seed(
    seed: int,
    rules: Rules = ALL,
    *,
    scenario: Scenario | None = None,
    edges: set[Edge] | None = None,
) -> Run:
    """The run of a seed, which decides the scenario too unless one is given."""
    chance = random.Random(seed)
    drawn = random_scenario(chance)
    return walk(scenario or drawn, chance, rules, edges=edges)


def walk_steps(
    scenario: Scenario,
    script: Sequence[tuple[str, ...]],
    seed: int,
    rules: Rules = ALL,
    *,
    edges: set[Edge] | None = None,
) -> Run:
    """A run that begins with given steps, each a name and what it is about where that is not the
    only one, and goes on by chance to rest.

    Raises:
        StopIteration: a step is not possible.
    """
    world = World(scenario, rules, set() if edges is None else edges)
    steps: list[Step] = []
    broken: list[str] = []
    for name, *about in script:
        broken = broken or _do(
            world,
            next(move for move in moves(world) if move[0] == name and set(about) <= set(move[3])),
            steps,
        )
    return _run(world, steps, broken or _repair(world, random.Random(seed), steps))


def walk(
    scenario: Scenario, chance: random.Random, rules: Rules = ALL, *, edges: set[Edge] | None = None
) -> Run:
    """Steps by chance, then repairs by chance until nothing is left to repair. Every run has its
    own taste for some steps and against others, which finds more than even odds do."""
    world = World(scenario, rules, set() if edges is None else edges)
    steps: list[Step] = []
    tastes: dict[str, float] = {}
    for _ in range(FREE_STEPS):
        possible = moves(world)
        if not possible:
            break
        weights = []
        for move in possible:
            name = move[0]
            if name not in tastes:
                tastes[name] = chance.choice(_TASTES) * _RARE.get(name, 1.0)
            weights.append(tastes[name])
        if broken := _do(world, chance.choices(possible, weights)[0], steps):
            return _run(world, steps, broken)
    return _run(world, steps, _repair(world, chance, steps))


def _repair(world: World, chance: random.Random, steps: list[Step]) -> list[str]:
    """No new input any more; returns what is broken, at the latest at rest."""
    for number in range(REPAIR_STEPS):
        possible = [move for move in moves(world) if move[1]]
        if number > PATIENCE:
            possible = [move for move in possible if _changes(world, move)]
        if not possible:
            return broken_at_rest(world)
        if broken := _do(world, chance.choice(possible), steps):
            return broken
    return [Broken.NO_REST]


def _run(world: World, steps: list[Step], broken: Sequence[str]) -> Run:
    return Run(
        scenario=world.scenario,
        rules=world.rules,
        steps=tuple(steps),
        broken=tuple(dict.fromkeys(broken)),
        end=world,
    )


def _do(world: World, move: Move, steps: list[Step]) -> list[str]:
    name, _, act, args = move
    act(world, *args)
    steps.append((name, act, args))
    return broken_now(world)


def _changes(world: World, move: Move) -> bool:
    key = world.key
    _, _, act, args = move
    after = world.of(key)
    act(after, *args)
    return after.key != key


def explore(
    scenario: Scenario,
    rules: Rules = ALL,
    *,
    limit: int,
    first_only: bool = False,
    edges: set[Edge] | None = None,
    now: Judge = broken_now,
    at_rest: Judge = broken_at_rest,
) -> Explored:
    """Every state that can be reached, nearest first.

    Args:
        limit: how many states are seen at most.
        first_only: one counterexample is enough.
        now, at_rest: what must hold in every state and in those without a move that repairs.
    """
    start = World(scenario, rules, set() if edges is None else edges)
    # equal parts of states are one object: a million states fit into memory
    pool: dict[Any, Any] = {}
    first = start.key
    known: dict[Key, tuple[Key, int] | None] = {first: None}
    queue = deque([first])
    found: dict[str, tuple[Key, tuple[str, ...]]] = {}
    rests = 0
    with _without_garbage_collection():
        while queue and len(known) < limit and not (found and first_only):
            key = queue.popleft()
            world = start.of(key)
            is_resting = True
            for number, (_, repairs, act, args) in enumerate(moves(world)):
                after = start.of(key)
                act(after, *args)
                after_key = after.key
                if after_key == key:
                    continue
                is_resting = is_resting and not repairs
                if after_key in known:
                    continue
                after_key = tuple([pool.setdefault(part, part) for part in after_key])
                known[after_key] = (key, number)
                if broken := now(after):
                    for what in broken:
                        found.setdefault(what, (after_key, tuple(broken)))
                else:
                    queue.append(after_key)
            if is_resting:
                rests += 1
                broken = at_rest(world)
                for what in broken:
                    found.setdefault(what, (key, tuple(broken)))
    runs = {
        what: Run(
            scenario=scenario,
            rules=rules,
            steps=_way(start, known, key),
            broken=broken,
            end=start.of(key),
        )
        for what, (key, broken) in found.items()
    }
    return Explored(states=len(known), at_rest=rests, complete=not queue, found=runs)


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """States hold no cycles, and looking for some in a million of them takes longer than the
    search.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _way(start: World, known: dict[Key, tuple[Key, int] | None], key: Key) -> tuple[Step, ...]:
    steps: list[Step] = []
    while (before := known[key]) is not None:
        key, number = before
        name, _, act, args = moves(start.of(key))[number]
        steps.append((name, act, args))
    return tuple(reversed(steps))
