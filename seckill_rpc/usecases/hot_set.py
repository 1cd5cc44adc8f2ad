"""Which activities need a close look now. An activity without traffic (not begun, paused, sold out)
costs nothing. It becomes hot by an admitted click, a result, a change of its row, or a
difference between Redis and the row. A lost hint costs the time until the slow round of the
reconciler.
"""

from __future__ import annotations

from collections.abc import Callable

from mesh.clock import Monotonic, Seconds

HOT_SECONDS = 10.0  # after the last touch; a difference that lasts touches it again


class HotSet:
    """The hot activities of this process."""

    def __init__(self, *, monotonic: Monotonic) -> None:
        self._monotonic = monotonic
        self._until: dict[str, Seconds] = {}
        self._suspects: set[str] = set()
        self._wakes: list[Callable[[], None]] = []

    def on_first_touch(self, wake: Callable[[], None]) -> None:
        """Has `wake` called when an activity becomes hot after none was."""
        self._wakes.append(wake)

    def touch(self, activity_id: str) -> None:
        """Makes an activity hot."""
        is_first = not self.has_any
        if not self.is_hot(activity_id):
            self._suspects.add(activity_id)
        self._until[activity_id] = self._monotonic() + HOT_SECONDS
        if is_first:
            for wake in self._wakes:
                wake()

    def is_hot(self, activity_id: str) -> bool:
        """Whether it was touched lately."""
        return self._until.get(activity_id, 0.0) > self._monotonic()

    def suspect(self, activity_id: str) -> None:
        """Redis refused a command about it: its keys may be of another type."""
        self._suspects.add(activity_id)
        self.touch(activity_id)

    def pop_suspect(self, activity_id: str) -> bool:
        """Whether to check its keys: once after every quiet time and every refusal."""
        if activity_id not in self._suspects:
            return False
        self._suspects.discard(activity_id)
        return True

    @property
    def has_any(self) -> bool:
        """Whether any activity is hot."""
        now = self._monotonic()
        for activity_id in [each for each, until in self._until.items() if until <= now]:
            del self._until[activity_id]
        return bool(self._until)
