"""Which activities deserve a close look at the moment. One that sells nothing (not begun, paused,
sold out) costs
nothing until something happens to it: a click that is let in, news of a result, a change of its
row, or anything that does not agree. A hint that is lost costs the time until its turn comes in the
keeper's slow round."""

from __future__ import annotations

from collections.abc import Callable

from mesh.clock import Monotonic, Seconds

ATTENTION_SECONDS = 10.0  # after the last event; what does not agree by then is looked at on


class Attention:
    """Remembers what happened lately, in this process."""

    def __init__(self, *, monotonic: Monotonic) -> None:
        self._monotonic = monotonic
        self._until: dict[str, Seconds] = {}
        self._suspects: set[str] = set()
        self._wakes: list[Callable[[], None]] = []

    def on_first(self, wake: Callable[[], None]) -> None:
        """Has `wake` called when there is something to look at after there was nothing."""
        self._wakes.append(wake)

    def look_at(self, activity_id: str) -> None:
        """Something happened to an activity."""
        is_first = not self.is_needed
        if not self.is_on(activity_id):
            self._suspects.add(activity_id)
        self._until[activity_id] = self._monotonic() + ATTENTION_SECONDS
        if is_first:
            for wake in self._wakes:
                wake()

    def is_on(self, activity_id: str) -> bool:
        """Whether something happened to it lately."""
        return self._until.get(activity_id, 0.0) > self._monotonic()

    def suspect(self, activity_id: str) -> None:
        """Redis refused a command about it: its keys may be of another kind."""
        self._suspects.add(activity_id)
        self.look_at(activity_id)

    def take_suspicion(self, activity_id: str) -> bool:
        """Whether its keys are to be checked, which is asked once after every quiet time and after
        every refusal.
        """
        if activity_id not in self._suspects:
            return False
        self._suspects.discard(activity_id)
        return True

    @property
    def is_needed(self) -> bool:
        """Whether something happened to any activity lately."""
        now = self._monotonic()
        for activity_id in [each for each, until in self._until.items() if until <= now]:
            del self._until[activity_id]
        return bool(self._until)
