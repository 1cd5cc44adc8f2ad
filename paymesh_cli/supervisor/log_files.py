"""Opens the log files of the processes and reads them for display. A process writes to its file
itself, so no reader can block it.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

LOG_BYTES_MAX = 16 * 1024 * 1024
LINE_CHARACTERS_MAX = 2000  # of one displayed line
_TAIL_BYTES = 16_000
_TAIL_LINES = 15
_CHUNK_BYTES = 64 * 1024
_ROUTINE_LEVELS = frozenset({"debug", "info"})


def open_log(path: Path) -> int:
    """Opens a log for appending; one that is too long is renamed to `<name>.log.1` first."""
    if path.exists() and path.stat().st_size > LOG_BYTES_MAX:
        path.replace(path.with_name(f"{path.name}.1"))
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def tail(path: Path, *, since: int) -> list[str]:
    """The last relevant lines after the byte `since`. Routine lines (debug, info) are left out."""
    try:
        with path.open("rb") as file:
            begin = max(since, file.seek(0, os.SEEK_END) - _TAIL_BYTES)
            file.seek(begin)
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    lines = text.splitlines()
    if begin > since:
        lines = lines[1:]  # the first line is incomplete
    telling = [line for line in lines if line.strip() and not _is_routine(line)]
    return [shortened(line) for line in telling[-_TAIL_LINES:]]


def shortened(line: str) -> str:
    """A line shortened for display; the file has all of it."""
    return (
        line
        if len(line) <= LINE_CHARACTERS_MAX
        else f"{line[:LINE_CHARACTERS_MAX]} … ({len(line)} characters)"
    )


def _is_routine(line: str) -> bool:
    if not line.startswith("{"):
        return False
    try:
        facts = json.loads(line)
    except ValueError:
        return False
    return isinstance(facts, dict) and facts.get("level") in _ROUTINE_LEVELS


@dataclass(slots=True)
class Follower:
    """Reads new lines of a log. Its memory is bounded, however long a line is."""

    path: Path
    position: int
    _begun: str = ""
    _length: int = 0  # length of the unfinished line; may exceed the part that is kept

    def read(self) -> list[str]:
        """The complete lines added since the last call."""
        lines: list[str] = []
        try:
            with self.path.open("rb") as file:
                file.seek(self.position)
                while chunk := file.read(_CHUNK_BYTES):
                    self.position += len(chunk)
                    self._take(chunk.decode(errors="replace"), lines)
        # renamed: the process was restarted with a new file, which has its own follower
        except OSError:
            return lines
        return lines

    def rest(self) -> list[str]:
        """The last line of a process that ended without a line break."""
        lines = self.read()
        if self._length:
            lines.append(self._ended())
        return lines

    def _take(self, text: str, lines: list[str]) -> None:
        first, *others = text.split("\n")
        self._add(first)
        for part in others:
            lines.append(self._ended())
            self._add(part)

    def _add(self, text: str) -> None:
        self._length += len(text)
        self._begun += text[: LINE_CHARACTERS_MAX - len(self._begun)]

    def _ended(self) -> str:
        line = (
            self._begun
            if self._length <= len(self._begun)
            else f"{self._begun} … ({self._length} characters)"
        )
        self._begun, self._length = "", 0
        return line
