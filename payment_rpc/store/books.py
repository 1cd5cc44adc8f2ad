"""Reading the whole ledger in pages, beside payments that go on meanwhile: what changed while it was read is told, and read again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Column, ColumnElement, case, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.db.keys import after_key, among_keys, one_of_keys
from mesh.money import Money
from payment_rpc.domain.books import Booked, Books, Problem
from payment_rpc.domain.ledger import Posting, Side, customer_wallet
from payment_rpc.domain.payment import Payment
from payment_rpc.store import attempts, payments, refunds
from payment_rpc.tables import LEDGER_POSTING, LEDGER_TRANSACTION, PAYMENT, WALLET, WALLET_ENTRY

_T, _P, _W, _E = LEDGER_TRANSACTION.c, LEDGER_POSTING.c, WALLET.c, WALLET_ENTRY.c
_KEY = (_W.merchant_id, _W.user_id, _W.currency)
_CREDIT = func.sum(case((_P.side == Side.CREDIT, _P.amount_minor), else_=-_P.amount_minor))
WalletKey = tuple[str, str, str]


async def read_books(tx: AsyncConnection, found: Sequence[Payment]) -> tuple[list[Books], list[str]]:
    """The books of payments that were just read, neighbours by their ids, and the ids of those that changed meanwhile: their books may be of two
    moments. Every change of the ledger, of a refund's amount or of a capture changes the payment's version."""
    ids = [payment.payment_id for payment in found]
    transactions, postings = await _transactions_of(tx, ids)
    by_attempt, by_refund, by_entry = defaultdict(list), defaultdict(list), defaultdict(list)
    for attempt in await attempts.attempts_of_payments(tx, ids, neighbours=True):
        by_attempt[attempt.payment_id].append(attempt)
    for refund in await refunds.refunds_of_payments(tx, ids, neighbours=True):
        by_refund[refund.payment_id].append(refund)
    for row in await tx.execute(select(_E.payment_id, _E.amount_minor, _E.currency).where(_among(_E.payment_id, ids))):
        by_entry[row.payment_id].append(Money(row.amount_minor, row.currency))
    versions = await payments.versions_of(tx, ids)
    changed = [payment.payment_id for payment in found if versions[payment.payment_id] != payment.version]
    return [Books(
        payment=payment, attempts=tuple(by_attempt[payment.payment_id]), refunds=tuple(by_refund[payment.payment_id]),
        wallet_entries=tuple(by_entry[payment.payment_id]),
        transactions=tuple(Booked(key=row.business_key, kind=row.kind, previous_hash=row.previous_hash, hash=row.hash,
                                  postings=tuple(postings[row.business_key])) for row in transactions[payment.payment_id]))
        for payment in found if payment.payment_id not in changed], changed


async def _transactions_of(tx: AsyncConnection, ids: Sequence[str]) -> tuple[dict[str, list[Any]], dict[str, list[Posting]]]:
    transactions: dict[str, list[Any]] = defaultdict(list)
    for row in await tx.execute(select(LEDGER_TRANSACTION).where(_among(_T.payment_id, ids)).order_by(_T.payment_id, _T.id)):
        transactions[row.payment_id].append(row)
    postings: dict[str, list[Posting]] = defaultdict(list)
    lines = (select(LEDGER_POSTING).join(LEDGER_TRANSACTION, _T.business_key == _P.business_key).where(_among(_T.payment_id, ids))
             .order_by(_P.business_key, _P.seq))
    for row in await tx.execute(lines):
        postings[row.business_key].append(Posting(account=row.account, side=Side(row.side), amount=Money(row.amount_minor, row.currency)))
    return transactions, postings


def _among(column: Column[str], ids: Sequence[str]) -> ColumnElement[bool]:
    return among_keys((column,), [(each,) for each in ids])


async def check_wallets(tx: AsyncConnection, *, after: WalletKey, limit: int, only: Sequence[WalletKey] | None = None,
                        ) -> tuple[list[Problem], list[WalletKey], WalletKey | None]:
    """A page of wallets against their entries and their accounts: what does not hold, the wallets that changed meanwhile, and the last one read."""
    condition = after_key(_KEY, after) if only is None else one_of_keys(_KEY, only)
    rows = (await tx.execute(select(WALLET).where(condition).order_by(*_KEY).limit(limit))).all()
    if not rows:
        return [], [], None
    keys = [(row.merchant_id, row.user_id, row.currency) for row in rows]
    of_wallets = one_of_keys((_E.merchant_id, _E.currency, _E.user_id), [(key[0], key[2], key[1]) for key in keys])
    summed = (select(_E.merchant_id, _E.user_id, _E.currency, func.sum(_E.amount_minor).label("minor"), func.count().label("changes"))
              .where(of_wallets).group_by(_E.merchant_id, _E.user_id, _E.currency))
    entries = {(row.merchant_id, row.user_id, row.currency): (int(row.minor), row.changes) for row in await tx.execute(summed)}
    accounts = {customer_wallet(merchant_id, user_id) for merchant_id, user_id, _ in keys}
    booked = {(row.account, row.currency): int(row.minor) for row in await tx.execute(
        select(_P.account, _P.currency, _CREDIT.label("minor")).where(_P.account.in_(accounts)).group_by(_P.account, _P.currency))}
    now = {(row.merchant_id, row.user_id, row.currency): row.version for row in await tx.execute(
        select(*_KEY, _W.version).where(one_of_keys(_KEY, keys)))}
    problems, changed = [], []
    for key, row in zip(keys, rows, strict=True):
        if now[key] != row.version:
            changed.append(key)
            continue
        minor, changes = entries.get(key, (0, 0))
        account = customer_wallet(row.merchant_id, row.user_id)
        for what, other in (("its entries add up to", minor), ("the ledger says", booked.get((account, row.currency), 0))):
            if other != row.balance_minor:
                problems.append(Problem(invariant="wallet_balance", subject=account,
                                        detail=f"the wallet holds {Money(row.balance_minor, row.currency)}, {what} {Money(other, row.currency)}"))
        if changes != row.version:
            problems.append(Problem(invariant="wallet_entries", subject=account, detail=f"{row.version} changes, {changes} entries"))
    return problems, changed, keys[-1]


async def count_and_find_orphans(tx: AsyncConnection, kind: str, *, after: Any, limit: int) -> tuple[int, list[Problem], Any]:
    """A page of the rows of one kind ("transaction", "posting", "entry"): how many there are, those without what they belong to, and the last key."""
    key, condition, subject, detail = _ORPHANS[kind]
    upper = (await tx.execute(select(key).where(key > after).order_by(key).limit(1).offset(limit - 1))).scalar()
    within: ColumnElement[bool] = key > after if upper is None else (key > after) & (key <= upper)
    count = (await tx.execute(select(func.count()).select_from(key.table).where(within))).scalar_one()
    rows = (await tx.execute(select(subject).where(within, ~condition).limit(limit))).scalars()
    return count, [Problem(invariant=f"{kind}_belongs", subject=found, detail=detail) for found in rows], upper


_ORPHANS: dict[str, tuple[Column[Any], ColumnElement[bool], Column[Any], str]] = {
    "transaction": (_T.id, select(PAYMENT.c.payment_id).where(PAYMENT.c.payment_id == _T.payment_id).exists(), _T.business_key,
                    "no payment has this transaction"),
    "posting": (_P.business_key, select(_T.id).where(_T.business_key == _P.business_key).exists(), _P.business_key,
                "no transaction has this posting"),
    "entry": (_E.entry_id, select(_W.version).where(_W.merchant_id == _E.merchant_id, _W.user_id == _E.user_id,
                                                    _W.currency == _E.currency).exists(), _E.entry_id, "no wallet has this entry"),
}
