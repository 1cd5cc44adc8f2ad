"""Reads what the books of one payment cannot show: wallets against their entries and accounts, and
rows without what they belong to. Read in pages, while payments go on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Column, ColumnElement, Row, case, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.db.keys import after_key, one_of_keys
from mesh.money import Money
from payment_rpc.domain.books import Problem
from payment_rpc.domain.ledger import Side, customer_wallet
from payment_rpc.tables import LEDGER_POSTING, LEDGER_TRANSACTION, PAYMENT, WALLET, WALLET_ENTRY

WalletKey = tuple[str, str, str]  # merchant, user, currency
_T, _P, _W, _E = LEDGER_TRANSACTION.c, LEDGER_POSTING.c, WALLET.c, WALLET_ENTRY.c
_KEY = (_W.merchant_id, _W.user_id, _W.currency)
_CREDIT = func.sum(case((_P.side == Side.CREDIT, _P.amount_minor), else_=-_P.amount_minor))


async def check_wallets(
    tx: AsyncConnection, *, after: WalletKey, limit: int, only: Sequence[WalletKey] | None = None
) -> tuple[list[Problem], list[WalletKey], WalletKey | None]:
    """A page of wallets against their entries and their accounts: what does not hold, the wallets
    that changed during the read, and the last one read.
    """
    condition = after_key(_KEY, after) if only is None else one_of_keys(_KEY, only)
    rows = (await tx.execute(select(WALLET).where(condition).order_by(*_KEY).limit(limit))).all()
    if not rows:
        return [], [], None
    keys = [(row.merchant_id, row.user_id, row.currency) for row in rows]
    entries, booked = await _entries(tx, keys), await _booked(tx, keys)
    now = {
        (row.merchant_id, row.user_id, row.currency): row.version
        for row in await tx.execute(select(*_KEY, _W.version).where(one_of_keys(_KEY, keys)))
    }
    problems: list[Problem] = []
    changed: list[WalletKey] = []
    for key, row in zip(keys, rows, strict=True):
        if now[key] != row.version:
            changed.append(key)
            continue
        account = customer_wallet(row.merchant_id, row.user_id)
        problems += _problems_of_wallet(
            row, account, entries.get(key, (0, 0)), booked.get((account, row.currency), 0)
        )
    return problems, changed, keys[-1]


async def _entries(
    tx: AsyncConnection, keys: Sequence[WalletKey]
) -> dict[WalletKey, tuple[int, int]]:
    """The sum of the entries of each wallet, and how many there are."""
    of_wallets = one_of_keys(
        (_E.merchant_id, _E.currency, _E.user_id), [(key[0], key[2], key[1]) for key in keys]
    )
    summed = (
        select(
            _E.merchant_id,
            _E.user_id,
            _E.currency,
            func.sum(_E.amount_minor).label("minor"),
            func.count().label("changes"),
        )
        .where(of_wallets)
        .group_by(_E.merchant_id, _E.user_id, _E.currency)
    )
    return {
        (row.merchant_id, row.user_id, row.currency): (int(row.minor), row.changes)
        for row in await tx.execute(summed)
    }


async def _booked(tx: AsyncConnection, keys: Sequence[WalletKey]) -> dict[tuple[str, str], int]:
    """What the ledger says of each wallet, by account and currency."""
    accounts = {customer_wallet(merchant_id, user_id) for merchant_id, user_id, _ in keys}
    return {
        (row.account, row.currency): int(row.minor)
        for row in await tx.execute(
            select(_P.account, _P.currency, _CREDIT.label("minor"))
            .where(_P.account.in_(accounts))
            .group_by(_P.account, _P.currency)
        )
    }


def _problems_of_wallet(
    row: Row[Any], account: str, entries: tuple[int, int], booked: int
) -> list[Problem]:
    minor, changes = entries
    problems = [
        Problem(
            invariant="wallet_balance",
            subject=account,
            detail=f"the wallet holds {Money(row.balance_minor, row.currency)}, "
            f"{what} {Money(other, row.currency)}",
        )
        for what, other in (("its entries add up to", minor), ("the ledger says", booked))
        if other != row.balance_minor
    ]
    if changes != row.version:
        problems.append(
            Problem(
                invariant="wallet_entries",
                subject=account,
                detail=f"{row.version} changes, {changes} entries",
            )
        )
    return problems


async def count_and_find_orphans(
    tx: AsyncConnection, kind: str, *, after: Any, limit: int
) -> tuple[int, list[Problem], Any]:
    """A page of the rows of one kind ("transaction", "posting", "entry"): how many there are, those
    without what they belong to, and the last key.
    """
    key, condition, subject, detail = _ORPHANS[kind]
    upper = (
        await tx.execute(select(key).where(key > after).order_by(key).limit(1).offset(limit - 1))
    ).scalar()
    within: ColumnElement[bool] = key > after if upper is None else (key > after) & (key <= upper)
    count = (
        await tx.execute(select(func.count()).select_from(key.table).where(within))
    ).scalar_one()
    rows = (await tx.execute(select(subject).where(within, ~condition).limit(limit))).scalars()
    return (
        count,
        [Problem(invariant=f"{kind}_belongs", subject=found, detail=detail) for found in rows],
        upper,
    )


_ORPHANS: dict[str, tuple[Column[Any], ColumnElement[bool], Column[Any], str]] = {
    "transaction": (
        _T.id,
        select(PAYMENT.c.payment_id).where(PAYMENT.c.payment_id == _T.payment_id).exists(),
        _T.business_key,
        "no payment has this transaction",
    ),
    "posting": (
        _P.business_key,
        select(_T.id).where(_T.business_key == _P.business_key).exists(),
        _P.business_key,
        "no transaction has this posting",
    ),
    "entry": (
        _E.entry_id,
        select(_W.version)
        .where(
            _W.merchant_id == _E.merchant_id, _W.user_id == _E.user_id, _W.currency == _E.currency
        )
        .exists(),
        _E.entry_id,
        "no wallet has this entry",
    ),
}
