"""API keys of merchants."""

from __future__ import annotations

from enum import StrEnum


class ApiKeyKind(StrEnum):
    """What a key is for."""

    SECRET = "SECRET"  # noqa: S105  a kind of key
    RESTRICTED = "RESTRICTED"
    PUBLISHABLE = "PUBLISHABLE"
