"""What the scan logged about a payment: what we did by ourselves, what the channel said, and what
it changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import assert_never

from mesh.audit.explain import Actor, TimelineEntry
from payment_rpc.domain.scan import ScanAction, ScanEntry


def scan_entries(entries: Sequence[ScanEntry]) -> Iterator[TimelineEntry]:
    """What happened. What was done again and again with the same result is one line, at the time of
    its first.
    """
    for _, group in groupby(
        entries,
        key=attrgetter("action", "subject", "state_before", "state_after", "result", "reason"),
    ):
        same = list(group)
        first = same[0]
        again = (
            f" So it was {len(same)} times, the last one at "
            f"{same[-1].at.isoformat(timespec='seconds')}."
            if len(same) > 1
            else ""
        )
        who = (
            Actor.MESSAGE
            if first.action is ScanAction.NOTIFY
            else Actor.REFUND
            if first.subject.refund_id
            else Actor.CHANNEL
        )
        yield TimelineEntry(at=first.at, actor=who, text=f"{_done(first)}{_changed(first)}{again}")


def _done(entry: ScanEntry) -> str:
    subject = entry.subject
    thing = f"refund {subject.refund_id}" if subject.refund_id else f"attempt {subject.attempt_id}"
    because = f" ({entry.reason})" if entry.reason else ""
    match entry.action:
        case ScanAction.QUERY:
            return f"The scan asked the channel what became of {thing}: {entry.result}{because}"
        case ScanAction.CLOSE if entry.result:
            return f"The scan closed {thing} at the channel: {entry.result}{because}"
        case ScanAction.CLOSE if subject.attempt_id:
            return f"The scan closed {thing} here, for the channel cannot{because}"
        case ScanAction.CLOSE:
            return f"The scan found that the time to pay is over{because}"
        case ScanAction.ADVANCE:
            return f"The scan took the step of {thing} that is ours: {entry.result}{because}"
        case ScanAction.SUBMIT:
            return f"The scan sent {thing} to the channel: {entry.result}{because}"
        case ScanAction.NOTIFY:
            return f"What the scan found goes to {entry.result} as message {entry.reason}"
        case _:
            assert_never(entry.action)


def _changed(entry: ScanEntry) -> str:
    if entry.action is ScanAction.NOTIFY:
        return "."
    what = "refund" if entry.subject.refund_id else "payment"
    if entry.state_after == entry.state_before:
        return f"; the {what} stayed {entry.state_before}."
    return f"; the {what} went from {entry.state_before} to {entry.state_after}."
