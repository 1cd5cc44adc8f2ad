"""What the end of a test run tells about the sales that held."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SaleRun:
    """One sale that held. `rest_seconds`: from the end of the crowd until everything was sold and
    checked. `lost`: acknowledged admissions that Redis forgot and the database refused. `note`:
    what the scenario wants told."""

    name: str
    seconds: float
    rest_seconds: float
    clicks: int
    cancelled: int
    lost: int
    note: str = ""


RUNS: list[SaleRun] = []


def table(runs: list[SaleRun]) -> list[str]:
    """Scenarios x runs."""
    names = list(dict.fromkeys(run.name for run in runs))
    width = max(map(len, names), default=0)
    lines = [f"{'':{width}}  runs   seconds  of them rest    clicks  cancelled  places lost"]
    for name in names:
        own = [run for run in runs if run.name == name]
        note = "; ".join(run.note for run in own if run.note)
        lines.append(
            f"{name:{width}}  {len(own):4}  {sum(run.seconds for run in own) / len(own):8.1f}  "
            f"{sum(run.rest_seconds for run in own) / len(own):12.1f}  "
            f"{sum(run.clicks for run in own):8}  "
            f"{sum(run.cancelled for run in own):9}  {sum(run.lost for run in own):11}  {note}".rstrip()
        )
    return [*lines, f"{len(runs)} sales of {len(names)} scenarios"]
