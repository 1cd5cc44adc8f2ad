"""The second factor: codes of an authenticator app (RFC 6238: six digits, SHA-1, 30 seconds, which
is what all apps can) and recovery codes for the day on which the app is lost.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable
from datetime import datetime
from typing import Final

STEP_SECONDS: Final = 30
DIGITS: Final = 6
SECRET_BYTES: Final = 20
RECOVERY_CODES: Final = 10
_DRIFT_STEPS: Final = 1  # a clock of an app may differ by one step either way
_ALPHABET: Final = "abcdefghjkmnpqrstuvwxyz23456789"  # without what looks alike
_CODE_CHARACTERS: Final = 16  # 16 of 31 letters: 79 bits

RandomBytes = Callable[[int], bytes]


def new_secret(random_bytes: RandomBytes) -> str:
    """A secret in base 32."""
    return base64.b32encode(random_bytes(SECRET_BYTES)).decode()


def step_at(moment: datetime) -> int:
    """The number of the 30 seconds in which a moment lies."""
    return int(moment.timestamp()) // STEP_SECONDS


def fitting_step(
    code: str, *, code_of: Callable[[int], str], now: datetime, used_step: int | None
) -> int | None:
    """The step whose code this is: now, the one before or the one after; None when it is none of
    them, or not later than the last step that was used. A code that somebody saw is worth nothing
    once it was used.

    Args:
        code_of: the code of a step.
    """
    if len(code) != DIGITS or not (code.isascii() and code.isdigit()):
        return None
    present = step_at(now)
    fitting = None
    # all steps are computed whatever fits, so that the time tells nothing
    for step in range(present - _DRIFT_STEPS, present + _DRIFT_STEPS + 1):
        if hmac.compare_digest(code_of(step), code):
            fitting = step
    if fitting is None or (used_step is not None and fitting <= used_step):
        return None
    return fitting


def new_recovery_codes(random_bytes: RandomBytes) -> tuple[str, ...]:
    """Ten codes, each like "abcd-efgh-jkmn-pqrs"."""
    return tuple(_new_code(random_bytes) for _ in range(RECOVERY_CODES))


def recovery_digest(member_id: str, code: str) -> str:
    """SHA-256, in hex, of a recovery code: what is kept. Blanks, dashes and capitals do not matter,
    because people copy them from paper.
    """
    plain = "".join(letter for letter in code.lower() if letter.isalnum())
    return hashlib.sha256(f"{member_id}|{plain}".encode()).hexdigest()


def _new_code(random_bytes: RandomBytes) -> str:
    letters = ""
    while len(letters) < _CODE_CHARACTERS:
        # 8 * 31 = 248: higher bytes are thrown away, so that every letter is as likely
        letters += "".join(
            _ALPHABET[byte % 31] for byte in random_bytes(_CODE_CHARACTERS) if byte < 248
        )
    return "-".join(letters[begin : begin + 4] for begin in range(0, _CODE_CHARACTERS, 4))
