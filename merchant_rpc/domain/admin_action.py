"""What somebody did to a merchant, as it is kept."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

DONE = "DONE"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminAction:
    """One entry of the log of actions."""

    action_id: int  # 0 before it is stored
    merchant_id: str  # "" for the installation
    actor: str
    method: str
    target: str
    before_json: str  # "" where there was nothing
    after_json: str
    reason: str
    client_address: str
    trace_id: str
    outcome: str  # DONE, or the reason of a refusal
    created_at: datetime
