"""Finds environment variables that look like settings but are not: a misspelt one would otherwise
be silently ignored.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points

from mesh.settings import COMMON_PREFIX, MeshSettings

# Each service names its class of settings in this group of pyproject.toml.
ENTRY_POINTS = "paymesh.settings"
# Read by the command line, the tests and tools, not by a process of the mesh.
OTHERS = frozenset({"PAYMESH_REDIS_PORT", "PAYMESH_PROOF"})
_LIKELY = 0.7  # of difflib's ratio


@dataclass(frozen=True, slots=True)
class StrangeVariable:
    """A variable that no process reads, and the similar one that was probably meant ("" when there
    is none).
    """

    name: str
    likely: str


def installed_settings() -> list[type[MeshSettings]]:
    """The settings classes of all installed services."""
    return [point.load() for point in entry_points(group=ENTRY_POINTS)]


def known_variables(settings: Iterable[type[MeshSettings]]) -> frozenset[str]:
    """All variables that a process with one of these settings reads."""
    known = set(OTHERS)
    for kind in settings:
        for name in kind.model_fields:
            known |= {f"{_prefix(kind)}{name.upper()}", f"{COMMON_PREFIX}{name.upper()}"}
    return frozenset(known)


def strange_variables(
    environment: Mapping[str, str],
    own: Iterable[type[MeshSettings]],
    *,
    every: Callable[[], Iterable[type[MeshSettings]]] = installed_settings,
) -> Iterator[StrangeVariable]:
    """Environment variables that look like a setting but are none.

    Args:
        own: settings to check: their variables and those of the whole mesh.
        every: all settings of the mesh; called only when there is a suspicious variable.
    """
    own = tuple(own)
    prefixes = (COMMON_PREFIX, *map(_prefix, own))
    suspects = {name for name in environment if name.startswith(prefixes)} - known_variables(own)
    if not suspects:
        return  # the usual case, without loading the settings of the other services
    known = known_variables(every())
    for name in sorted(suspects - known):
        yield StrangeVariable(
            name, next(iter(difflib.get_close_matches(name, known, n=1, cutoff=_LIKELY)), "")
        )


def _prefix(settings: type[MeshSettings]) -> str:
    return f"{settings.model_fields['service'].default}_".upper()
