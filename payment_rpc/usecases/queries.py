"""The RPCs that read payments and wallets. Sibling services always read payments from the rows;
everybody else may get them from the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from mesh.call import Caller, Role
from mesh.customers import email_digest, is_order_id
from mesh.db import Database
from mesh.errors import InvalidArgument, PermissionDenied
from mesh.money import DEFAULT_CURRENCY, currency_exponent
from mesh.paging import Key, PageTokens
from mesh.times import from_milliseconds, milliseconds
from payment_rpc.cache import PaymentCache
from payment_rpc.domain.errors import PaymentNotFound
from payment_rpc.domain.payment import Payment, PaymentState
from payment_rpc.domain.wallet import Wallet, WalletEntry
from payment_rpc.store import payment_pages, payments, wallets
from payment_rpc.store.payment_pages import PaymentPage


@dataclass(frozen=True, slots=True, kw_only=True)
class ListPayments:
    """Which payments to show."""

    merchant_id: str
    order: str = ""  # our id or the merchant's number; "" shows those of every order
    customer_email: str = field(default="", repr=False)  # "" shows those of every customer
    state: PaymentState | None = None  # None shows every state
    created_from: datetime | None = None
    created_before: datetime | None = None
    page_size: int = 0  # 0 means the default
    page_token: str = ""  # "" means the first page


class PaymentQueries:
    """Reads payments."""

    def __init__(self, *, db: Database, cache: PaymentCache, page_tokens: PageTokens) -> None:
        self._db = db
        self._cache = cache
        self._page_tokens = page_tokens

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
        """The live or successful payment of an order, else the newest one. `order_id` is our id
        or the merchant's number.

        Raises:
            PaymentNotFound: there is none, or it is not the caller's.
        """
        if not is_order_id(order_id):
            order_id = await self._db.read(
                payments.order_id_of, merchant_id=merchant_id, order=order_id
            )
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
        self, query: ListPayments, caller: Caller
    ) -> tuple[tuple[Payment, ...], str]:
        """One page of payments, newest first, and the token of the next one, "" after the last.

        Raises:
            InvalidArgument: only a merchant may look at more than one order. PermissionDenied: only
                a merchant looks for customers. PageTokenInvalid.
        """
        searches = caller.role in (Role.MERCHANT, Role.ADMIN)
        if query.customer_email and not searches:
            raise PermissionDenied(fields={"customer_email": "only a merchant may send it"})
        if not query.order and not searches:
            raise InvalidArgument.of("order_id", "is required")
        order_id = (
            await self._db.read(
                payments.order_id_of, merchant_id=query.merchant_id, order=query.order
            )
            if query.order
            else ""
        )
        digest = email_digest(query.merchant_id, query.customer_email)
        whole = PaymentPage(
            merchant_id=query.merchant_id,
            order_id=order_id,
            customer_digest=digest,
            state=query.state,
            created_from=query.created_from,
            created_before=query.created_before,
            limit=0,
        )

        async def read(after: tuple[Key, ...] | None, limit: int) -> Sequence[Payment]:
            start = None if after is None else (from_milliseconds(int(after[0])), str(after[1]))
            page = replace(whole, after=start, limit=limit)
            return await self._db.read(payment_pages.list_payments, page, visible_to=caller)

        return await self._page_tokens.page(
            read,
            list_name="ListPayments",
            filter={
                "merchant_id": query.merchant_id,
                "order_id": query.order,
                "customer": digest,
                "state": query.state or "",
                "created_from": _text(query.created_from),
                "created_before": _text(query.created_before),
            },
            types=(int, str),
            size=query.page_size,
            token=query.page_token,
            key=lambda payment: (milliseconds(payment.created_at), payment.payment_id),
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


def _text(moment: datetime | None) -> str:
    return "" if moment is None else moment.isoformat()


def _known_currency(currency: str) -> str:
    currency_exponent(currency or DEFAULT_CURRENCY)
    return currency or DEFAULT_CURRENCY
