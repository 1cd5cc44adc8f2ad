"""Whether a merchant may sell."""

from __future__ import annotations

from enum import StrEnum


class MerchantStatus(StrEnum):
    """What every service makes of the state of a merchant."""

    OPEN = "OPEN"
    NOT_LIVE = "NOT_LIVE"  # only its test sibling
    SUSPENDED = "SUSPENDED"  # or closed for ever
