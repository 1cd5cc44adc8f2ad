"""Reads and writes wallets and their entries. A wallet is changed by one conditional UPDATE, in the
transaction that books the same amount in the ledger. Its row lock is taken after the payment's and
held until the commit."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, bindparam, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.bad_rows import readable_page
from mesh.db import insert_if_absent
from mesh.log_chain import chained
from mesh.money import Money
from payment_rpc.domain.errors import InsufficientBalance
from payment_rpc.domain.payment import Payment
from payment_rpc.domain.wallet import EntryKind, Wallet, WalletEntry
from payment_rpc.tables import WALLET, WALLET_ENTRY, WALLET_LOG

_KEY = (
    WALLET.c.merchant_id == bindparam("merchant"),
    WALLET.c.user_id == bindparam("user"),
    WALLET.c.currency == bindparam("money"),
)
_READ = select(WALLET).where(*_KEY)
_CHANGE = (
    update(WALLET)
    .where(*_KEY, WALLET.c.balance_minor >= bindparam("needed"))
    .values(
        balance_minor=WALLET.c.balance_minor + bindparam("change"),
        version=WALLET.c.version + 1,
        updated_at=bindparam("now"),
    )
)
_ENTRY = insert(WALLET_ENTRY)


async def spend(tx: AsyncConnection, payment: Payment, *, entry_id: str, at: datetime) -> None:
    """Debits the amount of a payment from its buyer's wallet.

    Raises:
        InsufficientBalance: the balance is too low; the caller's transaction must not commit.
    """
    await _change(
        tx,
        payment,
        Money(-payment.amount.minor, payment.amount.currency),
        kind=EntryKind.SPENT,
        entry_id=entry_id,
        refund_id="",
        at=at,
    )


async def credit(
    tx: AsyncConnection,
    payment: Payment,
    amount: Money,
    *,
    kind: EntryKind,
    entry_id: str,
    at: datetime,
    refund_id: str = "",
) -> None:
    """Credits money of a payment, or of a refund of it, to its buyer's wallet. A second credit for
    the same cause violates `uq_wallet_entry_cause`.
    """
    if amount.minor <= 0:
        raise ValueError("a credit is more than nothing")
    await insert_if_absent(
        tx,
        WALLET,
        {
            "merchant_id": payment.merchant_id,
            "user_id": payment.user_id,
            "currency": amount.currency,
            "balance_minor": 0,
            "version": 0,
            "updated_at": at,
        },
    )
    await _change(tx, payment, amount, kind=kind, entry_id=entry_id, refund_id=refund_id, at=at)


async def read_wallet(
    tx: AsyncConnection, *, merchant_id: str, user_id: str, currency: str
) -> Wallet:
    """The wallet of a buyer; an empty one when it never had an entry."""
    row = (
        await tx.execute(_READ, {"merchant": merchant_id, "user": user_id, "money": currency})
    ).first()
    if row is None:
        return Wallet(
            merchant_id=merchant_id,
            user_id=user_id,
            balance=Money.zero(currency),
            version=0,
            updated_at=None,
        )
    return Wallet(
        merchant_id=merchant_id,
        user_id=user_id,
        balance=Money(row.balance_minor, currency),
        version=row.version,
        updated_at=row.updated_at,
    )


async def list_entries(
    tx: AsyncConnection,
    *,
    merchant_id: str,
    user_id: str,
    currency: str,
    before: int | None,
    limit: int,
) -> Sequence[WalletEntry]:
    """At most `limit` entries of a wallet, newest first, with a `seq` below `before`."""
    query = select(WALLET_ENTRY).where(
        WALLET_ENTRY.c.merchant_id == merchant_id,
        WALLET_ENTRY.c.user_id == user_id,
        WALLET_ENTRY.c.currency == currency,
    )

    async def fetch(last: Any, wanted: int) -> Sequence[Any]:
        older = before if last is None else last.seq
        shown = query if older is None else query.where(WALLET_ENTRY.c.seq < older)
        return (await tx.execute(shown.order_by(WALLET_ENTRY.c.seq.desc()).limit(wanted))).all()

    return await readable_page(
        fetch, _entry, of="wallet_entry", key=lambda row: row.entry_id, limit=limit
    )


async def _change(
    tx: AsyncConnection,
    payment: Payment,
    amount: Money,
    *,
    kind: EntryKind,
    entry_id: str,
    refund_id: str,
    at: datetime,
) -> None:
    key = {"merchant": payment.merchant_id, "user": payment.user_id, "money": amount.currency}
    changed = await tx.execute(
        _CHANGE, {**key, "change": amount.minor, "needed": max(0, -amount.minor), "now": at}
    )
    if changed.rowcount != 1:
        raise InsufficientBalance
    # unchanged until the commit: the UPDATE locks the row
    after = (await tx.execute(_READ, key)).one()
    await tx.execute(
        _ENTRY,
        await chained(
            tx,
            WALLET_LOG,
            [
                {
                    "entry_id": entry_id,
                    "merchant_id": payment.merchant_id,
                    "user_id": payment.user_id,
                    "currency": amount.currency,
                    "seq": after.version,
                    "kind": kind,
                    "amount_minor": amount.minor,
                    "balance_after_minor": after.balance_minor,
                    "payment_id": payment.payment_id,
                    "refund_id": refund_id,
                    "created_at": at,
                }
            ],
            begins=after.version == 1,
        ),
    )


def _entry(row: Row[Any]) -> WalletEntry:
    return WalletEntry(
        entry_id=row.entry_id,
        merchant_id=row.merchant_id,
        user_id=row.user_id,
        seq=row.seq,
        kind=EntryKind(row.kind),
        amount=Money(row.amount_minor, row.currency),
        balance_after=Money(row.balance_after_minor, row.currency),
        payment_id=row.payment_id,
        refund_id=row.refund_id,
        created_at=row.created_at,
    )
