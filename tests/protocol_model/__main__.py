"""`python -m tests.protocol_model`: runs seeds or searches scenarios whole, with or without some
rules, and tells the way to what broke.
"""

from __future__ import annotations

import sys
import time
from collections import Counter

import click

from tests.protocol_model.mutants import CAUGHT_IN, HIDDEN_IN
from tests.protocol_model.rules import ALL, SENTENCES, Rules
from tests.protocol_model.scenario import LARGE, SCENARIOS, SMALL
from tests.protocol_model.search import Run, explore, walk_seed
from tests.protocol_model.story import tell

# "without gate" is the scenario in which the loss of that rule shows.
NAMED = SCENARIOS | {f"without {rule}": scenario for rule, (scenario, _) in CAUGHT_IN.items()}
NAMED |= {f"without {rule}": scenario for rule, (_, scenario, _) in HIDDEN_IN.items()}


@click.command()
@click.option("--seeds", default=1000, help="How many random runs.")
@click.option("--seed", type=int, help="This one alone, with its story.")
@click.option(
    "--explore", "search", is_flag=True, help="Search scenarios whole instead of running seeds."
)
@click.option(
    "--scenario",
    type=click.Choice(sorted(NAMED)),
    help="This one alone; else seeds draw theirs and searches take all.",
)
@click.option("--limit", default=1_000_000, help="How many states a search sees at most.")
@click.option(
    "--without",
    multiple=True,
    type=click.Choice(sorted(SENTENCES)),
    help="Take a rule away. May be repeated.",
)
@click.option("--rules", "list_rules", is_flag=True, help="List the rules with their sentences.")
def main(
    *,
    seeds: int,
    seed: int | None,
    search: bool,
    scenario: str | None,
    limit: int,
    without: tuple[str, ...],
    list_rules: bool,
) -> None:
    """Looks for a way to break the protocol of payments and orders. Exit code 1 when it found
    one.
    """
    rules = ALL.without(*without)
    if list_rules:
        for name, sentence in SENTENCES.items():
            click.echo(f"{name:24} {sentence}")
        return
    if search:
        found = _search([scenario] if scenario else [*SMALL, *LARGE], rules, limit)
    else:
        found = _run(
            [seed] if seed is not None else range(seeds),
            rules,
            scenario,
            always_tell=seed is not None,
        )
    for run in found:
        click.echo(f"\n{tell(run)}")
    sys.exit(1 if any(run.broken for run in found) else 0)


def _search(names: list[str], rules: Rules, limit: int) -> list[Run]:
    found: dict[str, Run] = {}
    for name in names:
        started = time.monotonic()
        explored = explore(NAMED[name], rules, limit=limit, first_only=rules != ALL)
        click.echo(
            f"{name:32} {explored.states:8} states, {explored.at_rest:4} at rest, "
            f"{'all' if explored.complete else 'not all'} of them, "
            f"{time.monotonic() - started:.0f} s, broken: {len(explored.found)}"
        )
        found = {**explored.found, **found}
    return list(found.values())


def _run(
    seeds: range | list[int], rules: Rules, scenario: str | None, *, always_tell: bool
) -> list[Run]:
    broken: Counter[str] = Counter()
    shortest: dict[str, Run] = {}
    first: dict[str, int] = {}
    bad = 0
    for seed in seeds:
        run = walk_seed(seed, rules, scenario=NAMED[scenario] if scenario else None)
        if always_tell:
            return [run]
        bad += bool(run.broken)
        for what in run.broken:
            broken[what] += 1
            first.setdefault(what, seed)
            if what not in shortest or len(run.steps) < len(shortest[what].steps):
                shortest[what] = run
    click.echo(f"{bad} of {len(seeds)} runs broke something")
    for what, count in broken.most_common():
        click.echo(f"{count:6} {what} (first with seed {first[what]})")
    return list({id(run): run for run in shortest.values()}.values())


if __name__ == "__main__":
    main()
