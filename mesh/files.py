"""Writes files atomically and reloads files (keys, certificates, lists) that are replaced while a
process runs.

A change is detected by one `stat` during a call, at most once a second. When a file cannot be read
the old value is kept: a half-done rotation must not stop a working process.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from time import monotonic
from typing import Generic, TypeVar

from mesh.logs import get_logger

LOOK_SECONDS = 1.0
PRIVATE_FILE = 0o600

Value = TypeVar("Value")
Signature = tuple[tuple[str, int, int, int, int] | tuple[str], ...]

log = get_logger()


def write_draft(path: Path, content: bytes, *, mode: int = PRIVATE_FILE) -> Path:
    """Writes a complete file beside `path` and syncs it to disk; the caller moves or links it
    there.

    Raises:
        OSError: it could not be written; no partial file remains.
    """
    # mkstemp: two processes that write at once must not write into one file
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    draft = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    return draft


def replace_file(path: Path, content: bytes, *, mode: int = PRIVATE_FILE) -> None:
    """Replaces a file in one step: readers see the whole old content or the whole new content.

    Raises:
        OSError: it could not be written; the old one is still there, and no draft remains.
    """
    draft = write_draft(path, content, mode=mode)
    try:
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def signature_of(files: Iterable[Path]) -> Signature:
    """A value that changes when one of these files is replaced, written or removed."""
    found: list[tuple[str, int, int, int, int] | tuple[str]] = []
    for file in files:
        try:
            status = file.stat()
        except OSError:
            found.append((str(file),))
        else:
            found.append(
                (str(file), status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino)
            )
    return tuple(found)


class Reloaded(Generic[Value]):
    """A value read from files. `version` counts the reads, for code that caches something derived
    from the value.
    """

    __slots__ = (
        "_files",
        "_look_at",
        "_look_seconds",
        "_name",
        "_now",
        "_read",
        "_signature",
        "value",
        "version",
    )

    def __init__(
        self,
        name: str,
        read: Callable[[], Value],
        files: Callable[[], Iterable[Path]],
        *,
        look_seconds: float | None = None,
        now: Callable[[], float] = monotonic,
    ) -> None:
        """
        Args:
            name: name of the value, for the log.
            read: reads the files; raises OSError or ValueError.
            files: lists the files; called at each check, because a directory may get new ones.
            look_seconds: shortest time between checks; None: LOOK_SECONDS.
            now: monotonic seconds.

        Raises:
            OSError, ValueError: raised by `read`. There is no earlier value to keep.
        """
        self._name = name
        self._read = read
        self._files = files
        self._now = now
        self._look_seconds = look_seconds
        self._look_at = now() + self._pause()
        # before reading, so that a change meanwhile is read again
        self._signature = signature_of(files())
        self.value = read()
        self.version = 1

    def get(self) -> Value:
        """The value, read again when a file changed."""
        if self._now() >= self._look_at:
            self._look()
        return self.value

    def _pause(self) -> float:
        return LOOK_SECONDS if self._look_seconds is None else self._look_seconds

    def _look(self) -> None:
        self._look_at = self._now() + self._pause()
        signature = signature_of(self._files())
        if signature == self._signature:
            return
        self._signature = signature
        try:
            self.value = self._read()
        except (OSError, ValueError) as problem:
            log.error("files_not_taken", alert=True, what=self._name, problem=str(problem))
            return
        self.version += 1
        log.info("files_read_again", what=self._name)


def fixed(value: Value) -> Reloaded[Value]:
    """A constant value that is not read from a file."""
    return Reloaded("", lambda: value, tuple)
