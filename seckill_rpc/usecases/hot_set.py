"""Which activities deserve a close look at the moment. One that sells nothing (not begun, paused,
sold out) costs
nothing until something happens to it: a click that is let in, news of a result, a change of its
row, or anything that does not agree. A hint that is lost costs the time until its turn comes in the
keeper's slow round."""

from __future__ import annotations

from collections.abc import Callable

from mesh.clock import Monotonic, Seconds

HOT_SECONDS = 10.0  # after the last event; what does not agree by then is looked at on


class HotSet:
    """Remembers what happened lately, in this process."""

    def __init__(self, *, monotonic: Monotonic) -> None:
        self._monotonic = monotonic
        self._until: dict[str, Seconds] = {}
        self._suspects: set[str] = set()
        self._wakes: list[Callable[[], None]] = []

    def on_first_touch(self, wake: Callable[[], None]) -> None:
        """Has `wake` called when there is something to look at after there was nothing."""
        self._wakes.append(wake)

    def touch(self, activity_id: str) -> None:
        """Something happened to an activity."""
        is_first = not self.has_any
        if not self.is_hot(activity_id):
            self._suspects.add(activity_id)
        self._until[activity_id] = self._monotonic() + HOT_SECONDS
        if is_first:
            for wake in self._wakes:
                wake()

    def is_hot(self, activity_id: str) -> bool:
        """Whether something happened to it lately."""
        return self._until.get(activity_id, 0.0) > self._monotonic()

    def suspect(self, activity_id: str) -> None:
        """Redis refused a command about it: its keys may be of another kind."""
        self._suspects.add(activity_id)
        self.touch(activity_id)

    def pop_suspect(self, activity_id: str) -> bool:
        """Whether its keys are to be checked, which is asked once after every quiet time and after
        every refusal.
        """
        if activity_id not in self._suspects:
            return False
        self._suspects.discard(activity_id)
        return True

    @property
    def has_any(self) -> bool:
        """Whether something happened to any activity lately."""
        now = self._monotonic()
        for activity_id in [each for each, until in self._until.items() if until <= now]:
            del self._until[activity_id]
        return bool(self._until)
