"""User tokens that are no longer believed although their time is not over.

One JSON object per line of a file that every process reads again within a second of a change:

    {"jti": "T01…"}                                          this token
    {"sub": "alice", "merchant_id": "mall", "issued_before": 1764400000}
                                                             what this person got before that moment
                                                             (seconds since 1970)
    {"merchant_id": "acme", "issued_before": 1764400000}     what anybody of a shop got before
    {"issued_before": 1764400000}                            what anybody got before

`sub` is the claim or the id that we made of it; without `merchant_id` it counts in every shop.
Other fields are notes for people. Lines may go when the tokens that they mean have expired, at the
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
    """Which tokens are revoked."""

    __slots__ = ("_moments", "_tokens")

    def __init__(self, document: bytes = b"") -> None:
        """Raises ValueError that names the first line that says nothing."""
        self._tokens: set[str] = set()
        # (merchant, subject), "" for any -> issued before
        self._moments: dict[tuple[str, str], float] = {}
        for number, line in enumerate(document.splitlines(), 1):
            if line.strip() and not line.startswith(b"#"):
                self._read(number, line)

    @classmethod
    def of_file(cls, path: Path) -> Revocations:
        """What a file says; one that is not there says nothing.

        Raises:
            ValueError: a line that is not understood. OSError: it cannot be read.
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
