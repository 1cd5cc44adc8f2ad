"""Variables of the environment that look like ours and are no setting: a misspelt one would
otherwise be ignored in silence.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from mesh.settings import COMMON_PREFIX, MeshSettings

SERVICES = ("payment_rpc", "order_rpc", "seckill_rpc", "gateway", "sandbox")
# Read by the command line, the tests and tools, not by a process of the mesh.
OTHERS = frozenset({"PAYMESH_REDIS_PORT", "PAYMESH_PROOF"})
_LIKELY = 0.7  # of difflib's ratio


@dataclass(frozen=True, slots=True)
class StrangeVariable:
    """A variable that no process reads, and the one that was probably meant ("" when none is like
    it).
    """

    name: str
    likely: str


def settings_of(service: str) -> type[MeshSettings]:
    """The class of the settings of one of SERVICES."""
    module = importlib.import_module(f"{service}.settings")
    return next(
        kind
        for kind in vars(module).values()
        if isinstance(kind, type)
        and issubclass(kind, MeshSettings)
        and kind.__module__ == module.__name__
    )


def known_variables(services: Iterable[str] = SERVICES) -> frozenset[str]:
    """Every variable that some process reads."""
    known = set(OTHERS)
    for service in services:
        for name in settings_of(service).model_fields:
            known |= {f"{service}_{name}".upper(), f"{COMMON_PREFIX}{name.upper()}"}
    return frozenset(known)


def strange_variables(
    environment: Mapping[str, str], *, service: str = ""
) -> Iterator[StrangeVariable]:
    """What looks like a setting and is none.

    Args:
        service: look at its variables and those of the whole mesh only; "" looks at those of all
            services.
    """
    services = (service,) if service else SERVICES
    prefixes = (COMMON_PREFIX, *(f"{name.upper()}_" for name in services))
    suspects = {name for name in environment if name.startswith(prefixes)} - known_variables(
        services
    )
    if not suspects:
        return  # the usual case, without loading the settings of the other services
    known = known_variables()
    for name in sorted(suspects - known):
        yield StrangeVariable(
            name, next(iter(difflib.get_close_matches(name, known, n=1, cutoff=_LIKELY)), "")
        )
