"""Reads the books of all payments in pages, while payments go on. Payments that changed during the
read are named, so that they are read again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

from sqlalchemy import Column, ColumnElement, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.db.packed import Values, packed_rows
from mesh.errors import Outcome
from mesh.money import Money, stored_currency
from payment_rpc.domain.attempt import AttemptState
from payment_rpc.domain.books import AttemptOfBooks, Booked, Books, PaymentOfBooks, RefundOfBooks
from payment_rpc.domain.ledger import Posting, Side
from payment_rpc.domain.payment import Disposition, PaymentState
from payment_rpc.domain.refund import RefundState
from payment_rpc.tables import (
    ATTEMPT,
    LEDGER_POSTING,
    LEDGER_TRANSACTION,
    PAYMENT,
    REFUND,
    WALLET,
    WALLET_ENTRY,
)

_PAY = PAYMENT.c
_A = ATTEMPT.c
_R = REFUND.c
_T = LEDGER_TRANSACTION.c
_P = LEDGER_POSTING.c
_W = WALLET.c
_E = WALLET_ENTRY.c
_OF_PAYMENT = (
    _PAY.payment_id,
    _PAY.merchant_id,
    _PAY.user_id,
    _PAY.payment_method,
    _PAY.channel,
    _PAY.channel_trade_no,
    _PAY.state,
    _PAY.outcome,
    _PAY.disposition,
    _PAY.currency,
    _PAY.amount_minor,
    _PAY.captured_minor,
    _PAY.refunded_minor,
    _PAY.refund_reserved_minor,
    _PAY.fee_minor,
    _PAY.ledger_head,
    _PAY.version,
)
_OF_ATTEMPT = (
    _A.payment_id,
    _A.attempt_id,
    _A.channel,
    _A.channel_trade_no,
    _A.state,
    _A.currency,
    _A.captured_minor,
    _A.captured_currency,
    _A.surplus_minor,
)
_OF_REFUND = (
    _R.payment_id,
    _R.refund_id,
    _R.channel,
    _R.state,
    _R.amount_minor,
    _R.currency,
    _R.stands_alone,
    _R.above_cap,
)
_OF_TRANSACTION = (_T.payment_id, _T.id, _T.business_key, _T.kind, _T.previous_hash, _T.hash)
_OF_POSTING = (_P.business_key, _P.seq, _P.account, _P.side, _P.amount_minor, _P.currency)
_OF_ENTRY = (_E.payment_id, _E.amount_minor, _E.currency)
# Looking a word up takes a tenth of the time of making an enum. An unknown word makes its row
# unreadable.
_STATES = {each.value: each for each in PaymentState}
_ATTEMPT_STATES = {each.value: each for each in AttemptState}
_SIDES = {each.value: each for each in Side}
_OUTCOMES = frozenset(each.value for each in Outcome)
_DISPOSITIONS = frozenset((None, *(each.value for each in Disposition)))
# a condition on the column of a table that names its payment
Within = Callable[[Column[str]], ColumnElement[bool]]


async def books_page(
    tx: AsyncConnection, *, after: str, limit: int
) -> tuple[list[Books], list[str], str]:
    """The books of a page of payments by their ids, the ids of those that changed during the read,
    and the last id; "" where there are no more.
    """
    _ids, upto = await ids_page(tx, after=after, limit=limit)
    ready, changed = (
        await _read_books(tx, lambda payment_id: (payment_id > after) & (payment_id <= upto))
        if upto
        else ([], [])
    )
    return ready, changed, upto


async def books_of(tx: AsyncConnection, payment_id: str) -> Books | None:
    """The books of one payment; None where it changed during the read."""
    ready, _changed = await _read_books(tx, lambda column: column == payment_id)
    return ready[0] if ready else None


async def ids_page(tx: AsyncConnection, *, after: str, limit: int) -> tuple[list[str], str]:
    """The ids of the payments that `books_page` reads, and the last one."""
    found = list(
        (
            await tx.execute(
                select(_PAY.payment_id)
                .where(_PAY.payment_id > after)
                .order_by(_PAY.payment_id)
                .limit(limit)
            )
        ).scalars()
    )
    return found, found[-1] if found else ""


async def _read_books(tx: AsyncConnection, within: Within) -> tuple[list[Books], list[str]]:
    """Books may be of two moments: every change of the ledger, of a refund's amount or of a capture
    changes the payment's version.
    """
    payments = sorted(
        map(_payment, await packed_rows(tx, PAYMENT, _OF_PAYMENT, within(_PAY.payment_id)))
    )
    transactions, postings = await _transactions(tx, within)
    by_attempt, by_refund, by_entry = defaultdict(list), defaultdict(list), defaultdict(list)
    for payment_id, *attempt in sorted(
        await packed_rows(tx, ATTEMPT, _OF_ATTEMPT, within(_A.payment_id))
    ):
        by_attempt[payment_id].append(_attempt(attempt))
    for payment_id, *refund in sorted(
        await packed_rows(tx, REFUND, _OF_REFUND, within(_R.payment_id))
    ):
        by_refund[payment_id].append(_refund(refund))
    for payment_id, minor, currency in await packed_rows(
        tx, WALLET_ENTRY, _OF_ENTRY, within(_E.payment_id)
    ):
        by_entry[payment_id].append(Money(minor, currency))
    now: dict[Any, Any] = dict(
        await packed_rows(tx, PAYMENT, (_PAY.payment_id, _PAY.version), within(_PAY.payment_id))
    )
    ready, changed = [], []
    for payment in payments:
        payment_id = payment.payment_id
        if now.get(payment_id) != payment.version:
            changed.append(payment_id)
            continue
        booked = tuple(
            Booked(
                key=key,
                kind=kind,
                previous_hash=previous,
                hash=its_hash,
                postings=tuple(postings[key]),
            )
            for _id, key, kind, previous, its_hash in transactions[payment_id]
        )
        ready.append(
            Books(
                payment=payment,
                attempts=tuple(by_attempt[payment_id]),
                refunds=tuple(by_refund[payment_id]),
                wallet_entries=tuple(by_entry[payment_id]),
                transactions=booked,
            )
        )
    return ready, changed


async def _transactions(
    tx: AsyncConnection, within: Within
) -> tuple[dict[str, list[Values]], dict[str, list[Posting]]]:
    transactions: dict[str, list[Values]] = defaultdict(list)
    for payment_id, *transaction in sorted(
        await packed_rows(tx, LEDGER_TRANSACTION, _OF_TRANSACTION, within(_T.payment_id))
    ):
        transactions[payment_id].append(transaction)
    postings: dict[str, list[Posting]] = defaultdict(list)
    lines = LEDGER_TRANSACTION.join(LEDGER_POSTING, _T.business_key == _P.business_key)
    for key, _seq, account, side, minor, currency in sorted(
        await packed_rows(tx, lines, _OF_POSTING, within(_T.payment_id))
    ):
        postings[key].append(
            Posting(account=account, side=_SIDES[side], amount=Money(minor, currency))
        )
    return transactions, postings


def _payment(row: Values) -> PaymentOfBooks:
    (
        payment_id,
        merchant_id,
        user_id,
        method,
        channel,
        trade_no,
        state,
        outcome,
        disposition,
        currency,
        amount,
        captured,
        refunded,
        reserved,
        fee,
        head,
        version,
    ) = row
    if outcome not in _OUTCOMES or disposition not in _DISPOSITIONS:
        raise ValueError(
            f"a payment has the outcome {outcome!r} and the disposition {disposition!r}"
        )
    stored_currency(currency)
    return PaymentOfBooks(
        payment_id,
        merchant_id,
        user_id,
        method,
        channel,
        trade_no,
        _STATES[state],
        Money(amount, currency),
        Money(captured, currency),
        Money(refunded, currency),
        Money(reserved, currency),
        Money(fee, currency),
        head,
        version,
    )


def _attempt(row: Values) -> AttemptOfBooks:
    attempt_id, channel, trade_no, state, own_currency, captured, currency, surplus = row
    stored_currency(own_currency)
    return AttemptOfBooks(
        attempt_id,
        channel,
        trade_no,
        _ATTEMPT_STATES[state],
        None if captured is None else Money(captured, currency),
        Money(surplus, currency) if surplus else None,
    )


def _refund(row: Values) -> RefundOfBooks:
    refund_id, channel, state, amount, currency, stands_alone, above_cap = row
    return RefundOfBooks(
        refund_id,
        channel,
        RefundState(state),
        Money(amount, stored_currency(currency)),
        bool(stands_alone),
        bool(above_cap),
    )
