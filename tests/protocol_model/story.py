"""A run as a person reads it: one line per step, and under it what the step changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from tests.protocol_model.rules import SENTENCES
from tests.protocol_model.scenario import Scenario
from tests.protocol_model.search import Run, Step
from tests.protocol_model.world import World


def tell(run: Run) -> str:
    """The whole run, from the start to what is broken at its end."""
    world = World(run.scenario, run.rules, set())
    taken = [
        f"  without {name}: {SENTENCES[name]}" for name in SENTENCES if not getattr(run.rules, name)
    ]
    lines = [f"scenario: {_differing(run.scenario)}", *taken]
    for number, step in enumerate(run.steps, 1):
        world.calls.sort()  # as when the step was chosen
        lines.append(f"{number:4} {_spelled(world, step)}")
        before = _rows(world)
        _, act, args = step
        act(world, *args)
        lines += [f"       {line}" for line in _changes(before, _rows(world))]
    return "\n".join([*lines, *(f"BROKEN: {what}" for what in run.broken)])


def _differing(scenario: Scenario) -> str:
    """What makes a scenario another one than the plainest."""
    plain = Scenario()
    said = [
        f"{part.name}={getattr(scenario, part.name)}"
        for part in fields(Scenario)
        if getattr(scenario, part.name) != getattr(plain, part.name)
    ]
    return ", ".join(said) or "the plain one"


def _spelled(world: World, step: Step) -> str:
    name, _, args = step
    # the first argument is a place among the calls
    if name.endswith("arrives") or name in ("a call is lost", "an answer is unreadable"):
        call = " ".join(str(part) for part in world.calls[args[0]])
        answer = f" -> {args[1]}" if len(args) > 1 and args[1] else ""
        return f"{name}: {call}{answer}"
    said = " ".join(str(arg) for arg in args)
    return f"{name}: {said}" if said else name


def _rows(world: World) -> dict[str, Any]:
    """Every field by a name that says whose it is."""
    rows: dict[str, Any] = {"order": world.order, "shop": world.shop}
    rows |= {f"payment {p}": payment for p, payment in enumerate(world.payments)}
    rows |= {f"attempt {a}": attempt for a, attempt in enumerate(world.attempts)}
    rows |= {f"refund {name}": refund for name, refund in world.refunds.items()}
    values = {
        f"{name}: {part.name}": getattr(row, part.name)
        for name, row in rows.items()
        for part in fields(row)
    }
    values |= {
        f"message {message}": "answered" if done else "due"
        for message, done in map(_message, world.outbox)
    }
    return values | {
        f"under way {' '.join(str(part) for part in call)}": "yes" for call in world.calls
    }


def _message(row: tuple[Any, bool]) -> tuple[str, bool]:
    (p, version, state, captured, refunded, reserved), done = row
    return (
        (
            f"of payment {p} version {version} ({state}, captured {captured}, refunded {refunded}, "
            f"reserved {reserved})"
        ),
        done,
    )


def _changes(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    for name in [*before, *(name for name in after if name not in before)]:
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        if name.startswith("under way"):
            yield f"+ {name}" if old is None else f"- {name}"
        else:
            yield f"{name} {_shown(old)} -> {_shown(new)}"


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(_shown(part) for part in value)})"
    return "-" if value is None or value == "" else str(value)
