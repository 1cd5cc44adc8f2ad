"""Reads the list of user tokens that are revoked before they expire.

One JSON object per line of a file that every process reads again within a second of a change:

    {"jti": "T01…"}                                          this token
    {"sub": "alice", "merchant_id": "mall", "issued_before": 1764400000}
                                                             tokens of this person issued before
                                                             that moment (seconds since 1970)
    {"merchant_id": "acme", "issued_before": 1764400000}     tokens of a shop issued before it
    {"issued_before": 1764400000}                            all tokens issued before it

`sub` is the claim or the id that we derive from it. Without `merchant_id` it applies to every shop.
Other fields are notes for people. Lines may be removed when their tokens have expired, at the
latest after a day.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from mesh.claims import Claims, subject_of


class _Line(msgspec.Struct, frozen=True):
    jti: str = ""
    sub: str = ""
    merchant_id: str = ""
    issued_before: int | float | None = None


class Revocations:
    """The revoked tokens."""

    __slots__ = ("_moments", "_tokens")

    def __init__(self, document: bytes = b"") -> None:
        """Raises ValueError that names the first invalid line."""
        self._tokens: set[str] = set()
        # (merchant, subject), "" for any -> revoked when issued before
        self._moments: dict[tuple[str, str], float] = {}
        for number, line in enumerate(document.splitlines(), 1):
            if line.strip() and not line.startswith(b"#"):
                self._read(number, line)

    @classmethod
    def of_file(cls, path: Path) -> Revocations:
        """Reads a file; a missing file revokes nothing.

        Raises:
            ValueError: a line is invalid.
            OSError: the file cannot be read.
        """
        try:
            document = path.read_bytes()
        except FileNotFoundError:
            return cls()
        try:
            return cls(document)
        except ValueError as problem:
            raise ValueError(f"{path}: {problem}") from None

    def _read(self, number: int, text: bytes) -> None:
        try:
            line = msgspec.json.decode(text, type=_Line)
        except msgspec.MsgspecError as problem:
            raise ValueError(f"line {number}: {problem}") from None
        if line.jti:
            self._tokens.add(line.jti)
        elif line.issued_before is not None:
            for subject in {line.sub, subject_of(line.sub) if line.sub else ""}:
                key = (line.merchant_id, subject)
                self._moments[key] = max(self._moments.get(key, 0), line.issued_before)
        else:
            raise ValueError(f"line {number}: expected jti or issued_before")

    def hold(self, claims: Claims, *, subject: str, merchant_id: str) -> bool:
        """Whether a token with these claims is revoked."""
        if claims.jti and claims.jti in self._tokens:
            return True
        moments: Any = self._moments
        return bool(moments) and any(
            claims.iat < moments.get(key, 0)
            for key in ((merchant_id, subject), ("", subject), (merchant_id, ""), ("", ""))
        )
