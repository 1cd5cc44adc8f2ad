"""Showing wallets. They change in the transactions of payments and refunds."""

from __future__ import annotations

from collections.abc import Sequence

from mesh.db import Database
from mesh.money import DEFAULT_CURRENCY, currency_exponent
from payment_rpc.domain.wallet import Wallet, WalletEntry
from payment_rpc.store import wallets


class Wallets:
    """Reads wallets. Whose they may be was decided by the method's policy: the owner is in the
    request.
    """

    def __init__(self, *, db: Database) -> None:
        self._db = db

    async def get(self, *, merchant_id: str, user_id: str, currency: str) -> Wallet:
        """The wallet of a buyer, empty when nothing was ever paid in. `currency` "" means CNY.

        Raises:
            InvalidArgument: no such currency.
        """
        return await self._db.read(
            wallets.read_wallet, merchant_id=merchant_id, user_id=user_id, currency=_known(currency)
        )

    async def list_entries(
        self, *, merchant_id: str, user_id: str, currency: str, before: int | None, limit: int
    ) -> Sequence[WalletEntry]:
        """What changed it, newest first, before the entry number given."""
        return await self._db.read(
            wallets.list_entries,
            merchant_id=merchant_id,
            user_id=user_id,
            currency=_known(currency),
            before=before,
            limit=limit,
        )


def _known(currency: str) -> str:
    currency_exponent(currency or DEFAULT_CURRENCY)
    return currency or DEFAULT_CURRENCY
