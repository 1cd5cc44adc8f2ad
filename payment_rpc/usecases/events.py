"""Events of payments for whoever listens, and the last moment at which the read cache hears of the
change that they tell of.
"""

from __future__ import annotations

from mesh.db import Database
from mesh.outbox import Destination, Message, Settlement
from payment_rpc.cache import PaymentCache
from payment_rpc.store import payments


class EventDestination:
    """Puts the payment of an event into the cache, then publishes the event. Whoever changed the
    payment did so too, unless he died right after his
    commit: then the cache would show for a day what the payment was before."""

    def __init__(self, *, stream: Destination, db: Database, cache: PaymentCache) -> None:
        self._stream = stream
        self._db = db
        self._cache = cache

    @property
    def name(self) -> str:
        """Value of `destination` in the outbox."""
        return self._stream.name

    async def send(self, message: Message) -> Settlement | None:
        """Publishes one event.

        Raises:
            Unavailable: the database does not answer, or the stream did not confirm it.
        """
        await self._cache.put_changed(
            await self._db.read(payments.read_payment, message.aggregate_id)
        )
        return await self._stream.send(message)
