"""How BTCPay Server signs a notice: HMAC-SHA256 over the bytes of an indented JSON text."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any


def written(body: Any) -> bytes:
    """The text of a notice: two spaces a level, no line end at its end."""
    return json.dumps(body, indent=2, ensure_ascii=False).encode()


def signature(secret: str, body: bytes) -> str:
    """The value of the header BTCPay-Sig."""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
