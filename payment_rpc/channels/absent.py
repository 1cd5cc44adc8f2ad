"""What a channel does not do, for channels to inherit. Their capabilities say so, and the core does
not ask for it.
"""

from __future__ import annotations

from datetime import datetime

from mesh.money import Money
from payment_rpc.channels.requests import CardDetails, PaymentToken, Remember
from payment_rpc.domain.errors import SignatureInvalid
from payment_rpc.domain.facts import ChannelFact


class ChargesNothing:
    """A channel whose buyers pay by themselves."""

    async def charge(
        self,
        *,
        attempt_id: str,
        amount: Money,
        instrument: CardDetails | PaymentToken,
        expires_at: datetime | None,
        remember: Remember,
        timeout_seconds: float,
        capture: bool = True,
    ) -> ChannelFact:
        """Raises ValueError: nothing is charged here."""
        raise ValueError(f"{type(self).__name__} charges nothing; the buyer pays")


class HoldsNothing:
    """A channel that takes money at once or not at all."""

    async def capture(
        self,
        attempt_id: str,
        *,
        ref: str,
        capture_id: str,
        amount: Money,
        is_final: bool,
        timeout_seconds: float,
    ) -> ChannelFact:
        """Raises ValueError: nothing is held here."""
        raise ValueError(f"{type(self).__name__} holds no money")

    async def void(self, attempt_id: str, *, ref: str, timeout_seconds: float) -> ChannelFact:
        """Raises ValueError: nothing is held here."""
        raise ValueError(f"{type(self).__name__} holds no money")


class KeysConfigured:
    """A channel whose messages are verified with configured secrets and keys alone."""

    async def learn_key(self, url: str, *, timeout_seconds: float) -> None:
        """Raises SignatureInvalid: no key is fetched."""
        raise SignatureInvalid
