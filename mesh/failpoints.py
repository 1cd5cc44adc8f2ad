"""Defines named points where a test makes a process die or fail, to prove that work left by a crash
is completed. A point is the line `failpoint("name")` in the code; there is no other list.

Armed by the setting `failpoints`, e.g. `payment.charge.after_tx1=kill` or
`payment.charge.before_tx2=kill:2;outbox.relay.after_send=raise` (the number is the hit that
triggers it). Refused unless environment is `test`; an unarmed point costs one dictionary look-up.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable

_POINT = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)+", re.ASCII)


class FailpointRaised(Exception):
    """An armed point was triggered with the action `raise`."""


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def _raise() -> None:
    raise FailpointRaised


_ACTIONS: dict[str, Callable[[], None]] = {"kill": _kill, "term": _terminate, "raise": _raise}
_armed: dict[str, tuple[Callable[[], None], list[int]]] = {}


def arm(specification: str, *, environment: str) -> None:
    """Arms points for this process; "" disarms all.

    Raises:
        ValueError: malformed, an unknown action, or an environment other than "test".
    """
    _armed.clear()
    for part in filter(None, (part.strip() for part in specification.split(";"))):
        if environment != "test":
            raise ValueError("failpoints are only for environment=test")
        point, _, action = part.partition("=")
        name, _, hit = action.partition(":")
        if _POINT.fullmatch(point) is None or name not in _ACTIONS:
            raise ValueError(f"unknown failpoint {part!r}")
        _armed[point] = (_ACTIONS[name], [int(hit or "1")])


def failpoint(point: str) -> None:
    """Triggers when this point is armed and this is the configured hit."""
    if point not in _armed:
        return
    action, remaining = _armed[point]
    remaining[0] -= 1
    if remaining[0] == 0:
        action()
