"""Files that are replaced while a process runs: keys, certificates, lists. They are written whole
or not at all, and read again when they change.

Whether a file changed is found out by one `stat`, on the way of a call, at most once a second. What
cannot be read keeps the value that was there: a rotation that is half done must not stop a process
that works.
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
    """A complete file beside `path`, on the disk already; the caller moves or links it there.

    Raises:
        OSError: it could not be written; nothing is left of it.
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
    """Replaces a file in one step: whoever reads it finds the old content or the new, whole.

    Raises:
        OSError: it could not be written; the old one is still there.
    """
    write_draft(path, content, mode=mode).replace(path)


def signature_of(files: Iterable[Path]) -> Signature:
    """What differs when one of these files was replaced, written or removed."""
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
    """What files hold. `version` counts how often it was read, for whoever keeps something that
    follows from it.
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
            name: what it is, for the log.
            read: reads the files; raises OSError or ValueError.
            files: which files they are; asked at each look, because a directory may get new ones.
            look_seconds: how seldom they are looked at; None: LOOK_SECONDS.
            now: monotonic seconds.

        Raises:
            OSError, ValueError: what `read` raises. There is no earlier value to keep.
        """
        self._name = name
        self._read = read
        self._files = files
        self._now = now
        self._look_seconds = look_seconds
        self._look_at = now() + self._pause()
        # before reading: what changes meanwhile is read again
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
    """A value that comes from no file."""
    return Reloaded("", lambda: value, tuple)
