"""What stands in a statement at all: it is read once to its end before a line of it is judged. Only
hashes are kept, so that a long statement fits into memory.
"""

from __future__ import annotations

from typing import TypeAlias

from payment_rpc.domain.statement import BadLine, BadTotal, Entry, Line, LineType

# A set of hashes. Unlike a set, a dict of integers is left out of garbage collections, which would
# go through all of it and keep every call waiting for tens of milliseconds.
Hashes: TypeAlias = dict[int, None]


class StatementIndex:
    """What stands in the statement of one day.

    Attributes:
        lines: how many there are. bad_totals: totals that differ from the sum of the lines.
    """

    def __init__(self) -> None:
        self.lines = 0
        self.bad_totals = list[BadTotal]()
        self._contents: Hashes = {}
        # contents that stand in more than one line, and their first line; 0 before it is reached
        self._repeated: dict[tuple[object, ...], int] = {}
        self._trades: Hashes = {}
        self._attempt_ids: Hashes = {}
        self._refund_ids: Hashes = {}
        self._sent_ids: Hashes = {}

    def see(self, entry: Entry) -> None:
        """Takes note of the next entry, the first time that the statement is read."""
        if isinstance(entry, BadTotal):
            self.bad_totals.append(entry)
            return
        self.lines += 1
        if isinstance(entry, Line):
            content = hash(entry.content)
            if content in self._contents:
                self._repeated[entry.content] = 0
            self._contents[content] = None
        if isinstance(entry, BadLine) or entry.type is LineType.CAPTURE:
            self._attempt_ids[hash(entry.attempt_id)] = None
        if isinstance(entry, Line) and entry.type is LineType.CAPTURE:
            self._trades[hash((entry.attempt_id, entry.trade_no))] = None
        self._refund_ids[hash(entry.refund_id)] = None
        if isinstance(entry, BadLine) or entry.type is LineType.REFUND:
            self._sent_ids[hash(entry.refund_id)] = None

    def saw_all(self) -> None:
        """The statement was read to its end; the next line is its first one again."""
        self._contents.clear()

    def pass_by(self, line: Line | BadLine) -> None:
        """Takes note of the next line, the second time, before it is judged."""
        if self._repeated and isinstance(line, Line) and self._repeated.get(line.content) == 0:
            self._repeated[line.content] = line.line_no

    def first(self, line: Line) -> int:
        """The number of the first line that says the same as a line that was passed."""
        return self._repeated.get(line.content, line.line_no)

    def lists_attempt(self, attempt_id: str) -> bool:
        """Whether there is a capture of an attempt, or a line about it that cannot be read."""
        return hash(attempt_id) in self._attempt_ids

    def lists_refund(self, refund_id: str) -> bool:
        """Whether there is a line of a refund."""
        return hash(refund_id) in self._refund_ids

    def lists_sent(self, refund_id: str) -> bool:
        """Whether there is a line by which a refund went out, or one about it that cannot be read.
        That it came back is another line.
        """
        return hash(refund_id) in self._sent_ids

    def lists_trade(self, attempt_id: str, trade_no: str) -> bool:
        """Whether there is a capture of an attempt under a number of the channel's."""
        return hash((attempt_id, trade_no)) in self._trades
