"""What keys and members of a merchant may be allowed to do: the names that policies of methods,
tokens and roles share. Pure.
"""

from __future__ import annotations

SCOPE_AREAS = (
    "payments",
    "refunds",
    "orders",
    "catalog",
    "seckill",
    "webhooks",
    "events",
    "reports",
    "settings",
    "members",
    "keys",
    "routing",
    "limits",
    "channel_accounts",
)
SCOPES = frozenset(f"{area}:{right}" for area in SCOPE_AREAS for right in ("read", "write"))
