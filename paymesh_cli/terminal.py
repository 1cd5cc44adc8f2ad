"""The one way in which commands print: names and texts come from buyers, merchants and channels,
and a terminal obeys what it is sent.

Control characters, marks that turn the direction of writing and halves of characters are shown as
escapes (`\\x1b`), never sent.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import IO, Any

from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.table import Table
from rich.text import Text

from mesh.progress import progress_to

FILE_COLUMNS = 180  # a file is as wide as the text
PADDING = 2  # between columns, at most
NARROWEST_COLUMNS = 12  # of a column that may be folded
# C0, DEL, C1; marks of direction; line and paragraph separators; halves of surrogate pairs; tags,
# which nobody sees.
_DANGEROUS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\U000e0000-\U000e007f]"
)
_BREAKS = re.compile("[\t\n]")


def neutral(text: str) -> str:
    """A text without anything that a terminal obeys; line breaks and tabs stay."""
    return _DANGEROUS.sub(_escaped, text)


def shown(value: object) -> str:
    """What somebody else wrote, for a line or a cell: one line, neither obeyed by the terminal nor
    read as our markup.
    """
    return escape(_BREAKS.sub(_escaped, neutral(str(value))))


def _escaped(found: re.Match[str]) -> str:
    return found.group().encode("unicode_escape", "backslashreplace").decode("ascii")


class Terminal(Console):
    """Where commands print. As wide as the terminal; a file is as wide as FILE_COLUMNS."""

    def __init__(self, *, file: IO[str] | None = None, width: int | None = None) -> None:
        """
        Args:
            file: where to print instead of standard output.
            width: in columns, instead of what is seen.
        """
        seen = None if (file or sys.stdout).isatty() else FILE_COLUMNS
        super().__init__(highlight=False, emoji=False, file=file, width=width or seen)

    def render_str(self, text: str, **options: Any) -> Text:
        """Every string that is printed comes through here, also the cells of tables."""
        return super().render_str(neutral(text), **options)

    def show(self, table: Table) -> None:
        """Prints a table. One whose ids need more room than there is becomes wider than the
        terminal, which then breaks its lines: nothing is cut.
        """
        whole = [
            max(self.render_str(str(cell)).cell_len for cell in (column.header, *column.cells))
            for column in table.columns
            if column.no_wrap
        ]
        others = NARROWEST_COLUMNS * (len(table.columns) - len(whole))
        usual = self.width
        self.width = max(usual, sum(whole) + others + PADDING * len(table.columns))
        self.print(table, crop=False)
        self.width = usual


@contextmanager
def shown_progress(console: Terminal) -> Iterator[None]:
    """A line that says how far the work of this block is; gone afterwards, and not there where
    nobody looks (a file, the mail of cron).
    """
    if not console.is_terminal:
        yield
        return
    with console.status("") as line, progress_to(_Line(line)):
        yield


class _Line:
    def __init__(self, line: Status) -> None:
        self._line = line
        self._part = ""
        self._rows: Counter[str] = Counter()

    def begins(self, part: str) -> None:
        """Shows which part it is."""
        self._part = part
        self._rows.clear()
        self._line.update(shown(part))

    def looked_at(self, what: str, rows: int) -> None:
        """Shows how many rows of it."""
        self._rows[what] += rows
        self._line.update(shown(f"{self._part}: {what}, {self._rows[what]:,}"))


def table(*headings: str, whole: Collection[str] = ()) -> Table:
    """A table whose columns named in `whole` (ids, states, times) are never broken or cut; the
    others are folded.
    """
    made = Table(box=None, pad_edge=False)
    for heading in headings:
        if heading in whole:
            made.add_column(heading, no_wrap=True, overflow="ignore")
        else:
            made.add_column(heading, overflow="fold")
    return made
