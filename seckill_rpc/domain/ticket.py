"""The signed proof of a click. It gives the buyer a definite answer even after Redis has lost the
click, and nobody else can ask for it (docs/protocols.md 5).
"""

from __future__ import annotations

import binascii
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import NamedTuple

from seckill_rpc.domain.errors import TicketInvalid

SECRET_BYTES_MIN = 32  # a shorter key is weaker than the hash (RFC 7518, 3.2)
_VERSION = "1"
_SEPARATOR = "\x1f"  # no id may hold a control character
_FIELDS = 9
_MAC_BYTES = 32


class Ticket(NamedTuple):
    """Who clicked what, and under which order id. `clicked_at_ms` is milliseconds since 1970 by the
    clock of the process that admitted.
    """

    activity_id: str
    merchant_id: str
    sku_id: str
    user_id: str
    request_id: str
    order_id: str
    epoch: int
    clicked_at_ms: int


class Tickets:
    """Signs and reads tickets. All replicas share the secrets."""

    def __init__(self, secret: bytes, *others: bytes) -> None:
        """The first secret signs, all of them verify.

        Raises:
            ValueError: a secret has fewer than 32 bytes.
        """
        if any(len(each) < SECRET_BYTES_MIN for each in (secret, *others)):
            raise ValueError(f"a secret for tickets has at least {SECRET_BYTES_MIN} bytes")
        self._secrets = (secret, *others)

    def sign(self, ticket: Ticket) -> str:
        """The ticket as the buyer keeps it: URL-safe text."""
        payload = _SEPARATOR.join(
            (
                _VERSION,
                ticket.activity_id,
                ticket.merchant_id,
                ticket.sku_id,
                ticket.user_id,
                ticket.request_id,
                ticket.order_id,
                str(ticket.epoch),
                str(ticket.clicked_at_ms),
            )
        ).encode()
        return urlsafe_b64encode(_mac(self._secrets[0], payload) + payload).rstrip(b"=").decode()

    def read(self, text: str) -> Ticket:
        """The content of a ticket.

        Raises:
            TicketInvalid: we never signed it.
        """
        try:
            content = urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
        except (binascii.Error, ValueError):
            raise TicketInvalid from None
        mac, payload = content[:_MAC_BYTES], content[_MAC_BYTES:]
        if not any(hmac.compare_digest(mac, _mac(secret, payload)) for secret in self._secrets):
            raise TicketInvalid
        fields = payload.decode().split(_SEPARATOR)
        if len(fields) != _FIELDS or fields[0] != _VERSION:
            raise TicketInvalid  # of a later version
        _, activity_id, merchant_id, sku_id, user_id, request_id, order_id, epoch, clicked_at_ms = (
            fields
        )
        return Ticket(
            activity_id,
            merchant_id,
            sku_id,
            user_id,
            request_id,
            order_id,
            int(epoch),
            int(clicked_at_ms),
        )


def _mac(secret: bytes, payload: bytes) -> bytes:
    return hmac.digest(secret, payload, "sha256")
