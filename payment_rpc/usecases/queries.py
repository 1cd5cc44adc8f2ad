"""The RPCs that read payments and wallets. Sibling services always read payments from the rows;
everybody else may get them from the cache.
"""

from __future__ import annotations

from collections.abc import Sequence

from mesh.call import Caller, Role
from mesh.db import Database
from mesh.money import DEFAULT_CURRENCY, currency_exponent
from payment_rpc.cache import PaymentCache
from payment_rpc.domain.errors import PaymentNotFound
from payment_rpc.domain.payment import Payment
from payment_rpc.domain.wallet import Wallet, WalletEntry
from payment_rpc.store import payments, wallets


class PaymentQueries:
    """Reads payments."""

    def __init__(self, *, db: Database, cache: PaymentCache) -> None:
        self._db = db
        self._cache = cache

    async def get_payment(self, payment_id: str, caller: Caller) -> Payment:
        """One payment.

        Raises:
            PaymentNotFound: there is none, or it is not the caller's.
        """
        if (
            caller.role is not Role.SERVICE
            and (cached := await self._cache.get(payment_id)) is not None
        ):
            return _owned(cached, caller)
        payment = await self._db.read(payments.get_payment, payment_id, visible_to=caller)
        await self._cache.put(payment)
        return payment

    async def get_payment_by_order_id(
        self, *, merchant_id: str, order_id: str, caller: Caller
    ) -> Payment:
        """The live or successful payment of an order, else the newest one.

        Raises:
            PaymentNotFound: there is none, or it is not the caller's.
        """
        if (
            caller.role is not Role.SERVICE
            and (cached := await self._cache.get_of_order(merchant_id, order_id)) is not None
        ):
            return _owned(cached, caller)
        payment = await self._db.read(
            payments.get_of_order, merchant_id=merchant_id, order_id=order_id, visible_to=caller
        )
        await self._cache.put_of_order(payment)
        return payment

    async def list_payments(
        self, *, merchant_id: str, order_id: str, before: str | None, limit: int, caller: Caller
    ) -> Sequence[Payment]:
        """Payments of an order, newest first, older than the payment id `before`."""
        return await self._db.read(
            payments.list_of_order,
            merchant_id=merchant_id,
            order_id=order_id,
            before=before,
            limit=limit,
            visible_to=caller,
        )


class WalletQueries:
    """Reads wallets. The owner is in the request; the policy of the method decides who may ask."""

    def __init__(self, *, db: Database) -> None:
        self._db = db

    async def get_wallet(self, *, merchant_id: str, user_id: str, currency: str) -> Wallet:
        """The wallet of a buyer, empty when nothing was ever paid in. `currency` "" means CNY.

        Raises:
            InvalidArgument: no such currency.
        """
        return await self._db.read(
            wallets.read_wallet,
            merchant_id=merchant_id,
            user_id=user_id,
            currency=_known_currency(currency),
        )

    async def list_wallet_entries(
        self, *, merchant_id: str, user_id: str, currency: str, before: int | None, limit: int
    ) -> Sequence[WalletEntry]:
        """Its entries, newest first, older than the entry number `before`."""
        return await self._db.read(
            wallets.list_entries,
            merchant_id=merchant_id,
            user_id=user_id,
            currency=_known_currency(currency),
            before=before,
            limit=limit,
        )


def _owned(payment: Payment, caller: Caller) -> Payment:
    if not payments.may_see(payment, caller):
        raise PaymentNotFound
    return payment


def _known_currency(currency: str) -> str:
    currency_exponent(currency or DEFAULT_CURRENCY)
    return currency or DEFAULT_CURRENCY
