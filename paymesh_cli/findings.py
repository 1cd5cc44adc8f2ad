"""What `paymesh doctor` prints: one finding per thing that was looked at."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad a finding is."""

    OK = "safe"
    WARNING = "doubtful"  # it runs, but not as it should
    UNSAFE = "unsafe"  # it runs, and somebody may read, forge or lose something
    FAILURE = "not there"  # it does not run, or not with this


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the table.

    Attributes:
        what: the thing.
        level: how it is.
        fact: what was seen.
        advice: what to do; "" when all is well.
    """

    what: str
    level: Level
    fact: str
    advice: str = ""


def ok(what: str, fact: str) -> Finding:
    """All is well."""
    return Finding(what=what, level=Level.OK, fact=fact)


def warning(what: str, fact: str, advice: str) -> Finding:
    """It runs, but not as it should."""
    return Finding(what=what, level=Level.WARNING, fact=fact, advice=advice)


def unsafe(what: str, fact: str, advice: str) -> Finding:
    """It runs, and somebody may read, forge or lose something."""
    return Finding(what=what, level=Level.UNSAFE, fact=fact, advice=advice)


def failure(what: str, fact: str, advice: str) -> Finding:
    """It does not run, or loses something."""
    return Finding(what=what, level=Level.FAILURE, fact=fact, advice=advice)
