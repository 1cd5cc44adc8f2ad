"""Rows of payments."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, and_, bindparam, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.bad_rows import Quarantine
from mesh.call import Caller
from mesh.customers import is_order_id
from mesh.errors import Outcome
from mesh.idempotency import IdempotencyKey
from mesh.log_chain import plain
from mesh.money import Money, stored_currency
from payment_rpc.domain.card import CardSummary
from payment_rpc.domain.errors import PaymentNotFound
from payment_rpc.domain.hold import CaptureMode
from payment_rpc.domain.payment import (
    Disposition,
    Failure,
    NextAction,
    Payment,
    PaymentState,
)
from payment_rpc.store.versioned import VersionedRows, row_of
from payment_rpc.tables import PAYMENT

_ALL = tuple(PAYMENT.c)
_encode = json.JSONEncoder(separators=(",", ":")).encode


def with_index(query: Select[Any]) -> Select[Any]:
    """Makes MySQL read the payments of an order by `ix_payment_order`. It would choose the index of
    the slot and sort, or read all late money.
    """
    for dialect in ("mysql", "mariadb"):
        query = query.with_hint(PAYMENT, "FORCE INDEX (ix_payment_order)", dialect)
    return query


_INSERT = insert(PAYMENT)
_BY_ID = select(*_ALL).where(PAYMENT.c.payment_id == bindparam("id"))
_LOCK_BY_ID = _BY_ID.with_for_update()
_OF_ORDER = select(*_ALL).where(
    PAYMENT.c.merchant_id == bindparam("merchant"), PAYMENT.c.order_id == bindparam("order")
)
_HOLDER = _OF_ORDER.where(PAYMENT.c.live_slot == 1)
_LOCK_HOLDER = _HOLDER.with_for_update()
_ORDER_ID_OF = select(PAYMENT.c.order_id).where(
    PAYMENT.c.merchant_id == bindparam("merchant"), PAYMENT.c.order_no == bindparam("number")
)
_NEWEST = with_index(_OF_ORDER.order_by(PAYMENT.c.payment_id.desc()).limit(1))
# What never changes is not written again.
_FIXED = frozenset(
    {
        "payment_id",
        "receipt_digest",
        "merchant_id",
        "order_id",
        "user_id",
        "amount_minor",
        "currency",
        "payment_method",
        "channel",
        "card_brand",
        "card_last_four",
        "card_expiration_year",
        "card_expiration_month",
        "created_at",
        "order_no",
        "customer_digest",
        "capture_mode",
    }
)
# Columns that came after the seal are not under it: rows from before were sealed without them.
_UNSEALED = frozenset({"seal", "receipt_digest", "order_no", "customer_digest", "capture_mode"})
SEALED = tuple(column for column in _ALL if column.name not in _UNSEALED)
WITH_DEADLINE = (PaymentState.PAYING, PaymentState.AUTHORIZED)
_ROWS = VersionedRows(PAYMENT, PAYMENT.c.payment_id, fixed=_FIXED)


async def all_of_order(tx: AsyncConnection, *, merchant_id: str, order_id: str) -> list[Payment]:
    """Every payment of an order, of any owner, oldest first."""
    query = select(*_ALL).where(_of_order(merchant_id, order_id)).order_by(PAYMENT.c.payment_id)
    return [payment_of(row) for row in (await tx.execute(query)).all()]


async def insert_payment(
    tx: AsyncConnection, payment: Payment, *, idempotency_key: IdempotencyKey | None = None
) -> None:
    """Adds a payment, and the key of the call that began it. Violates `uq_payment_live_slot` when
    the order has a live one.
    """
    await tx.execute(
        _INSERT,
        {
            **_values(payment),
            "receipt_digest": None if idempotency_key is None else idempotency_key.digest,
        },
    )


async def save_payment(tx: AsyncConnection, payment: Payment, *, read_version: int) -> None:
    """Writes a payment that was read at `read_version`.

    Raises:
        StaleRow: it has changed since.
    """
    await _ROWS.save(tx, _values(payment), read_version=read_version)


async def erase_customer(tx: AsyncConnection, *, merchant_id: str, order_id: str) -> None:
    """Removes what the payments of an order are found by of its customer. No state changes, and no
    other statement ever writes that column of a row that is there.
    """
    await tx.execute(
        update(PAYMENT).where(_of_order(merchant_id, order_id)).values(customer_digest=None)
    )


async def lock_payment(tx: AsyncConnection, payment_id: str) -> Payment:
    """One payment of any owner, locked: for channel facts and answers of order_rpc.

    Raises:
        PaymentNotFound: there is none.
    """
    row = (await tx.execute(_LOCK_BY_ID, {"id": payment_id})).first()
    if row is None:
        raise PaymentNotFound
    return payment_of(row)


async def read_payment(tx: AsyncConnection, payment_id: str) -> Payment:
    """One payment of any owner, not locked: for workers.

    Raises:
        PaymentNotFound: there is none.
    """
    row = (await tx.execute(_BY_ID, {"id": payment_id})).first()
    if row is None:
        raise PaymentNotFound
    return payment_of(row)


async def lock_slot_holder(
    tx: AsyncConnection, *, merchant_id: str, order_id: str
) -> Payment | None:
    """The payment that holds the slot of an order, locked. Only for a transaction that has locked
    late money of that order: none locks a live payment and then waits for a late one, so there is
    no deadlock.
    """
    row = (await tx.execute(_LOCK_HOLDER, {"merchant": merchant_id, "order": order_id})).first()
    return None if row is None else payment_of(row)


async def get_payment(tx: AsyncConnection, payment_id: str, *, visible_to: Caller) -> Payment:
    """One payment of the caller's.

    Raises:
        PaymentNotFound: there is none, or it is not the caller's.
    """
    row = (await tx.execute(_BY_ID, {"id": payment_id})).first()
    if row is None or not may_see(payment_of(row), visible_to):
        raise PaymentNotFound
    return payment_of(row)


async def get_of_order(
    tx: AsyncConnection, *, merchant_id: str, order_id: str, visible_to: Caller
) -> Payment:
    """The live or successful payment of an order, else its newest.

    Raises:
        PaymentNotFound: there is none, or it is not the caller's.
    """
    order = {"merchant": merchant_id, "order": order_id}
    row = (await tx.execute(_HOLDER, order)).first() or (await tx.execute(_NEWEST, order)).first()
    if row is None or not may_see(payment_of(row), visible_to):
        raise PaymentNotFound
    return payment_of(row)


async def order_id_of(tx: AsyncConnection, *, merchant_id: str, order: str) -> str:
    """Our id of an order that a caller names by our id or by the merchant's number. What no payment
    has as a number stays as it is.
    """
    if is_order_id(order):
        return order
    query = _ORDER_ID_OF.order_by(PAYMENT.c.payment_id).limit(1)
    for dialect in ("mysql", "mariadb"):
        query = query.with_hint(PAYMENT, "FORCE INDEX (ix_payment_order_no)", dialect)
    found: str | None = (
        await tx.execute(query, {"merchant": merchant_id, "number": order})
    ).scalar_one_or_none()
    return found or order


def expired_statement(
    now: datetime, limit: int, state: PaymentState = PaymentState.PAYING
) -> Select[Any]:
    """The query that claims payments still in a state past their deadline; rows that another worker
    holds are passed over. A test reads its EXPLAIN. One state at a time: over two the database
    would sort.
    """
    return (
        select(*_ALL)
        .where(PAYMENT.c.state == state, PAYMENT.c.expires_at <= now)
        .order_by(PAYMENT.c.expires_at, PAYMENT.c.payment_id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )


def next_expiry_statement(state: PaymentState = PaymentState.PAYING) -> Select[Any]:
    """The query that finds the next deadline of a payment in a state; a test reads its EXPLAIN."""
    return (
        select(PAYMENT.c.expires_at)
        .where(PAYMENT.c.state == state)
        .order_by(PAYMENT.c.expires_at, PAYMENT.c.payment_id)
        .limit(1)
    )


async def next_expiry(tx: AsyncConnection, quarantine: Quarantine) -> datetime | None:
    """The next deadline of a payment that is under way; None when there is none. One question:
    idle workers ask it for ever.
    """
    of_states = [
        quarantine.narrow(next_expiry_statement(state)).scalar_subquery() for state in WITH_DEADLINE
    ]
    found = (await tx.execute(select(*of_states))).one()
    return min((expires_at for expires_at in found if expires_at is not None), default=None)


def may_see(payment: Payment, caller: Caller) -> bool:
    """Whether a payment is within the caller's scope."""
    scope = caller.scope()
    return scope.merchant_id in (None, payment.merchant_id) and scope.user_id in (
        None,
        payment.user_id,
    )


def _of_order(merchant_id: str, order_id: str) -> ColumnElement[bool]:
    return and_(PAYMENT.c.merchant_id == merchant_id, PAYMENT.c.order_id == order_id)


def payment_of(row: Row[Any]) -> Payment:
    """The payment of a row. Raises any exception when the row has an impossible value."""
    currency = stored_currency(row.currency)
    return Payment(
        payment_id=row.payment_id,
        merchant_id=row.merchant_id,
        order_id=row.order_id,
        user_id=row.user_id,
        amount=Money(row.amount_minor, currency),
        captured=Money(row.captured_minor, currency),
        refunded=Money(row.refunded_minor, currency),
        refund_reserved=Money(row.refund_reserved_minor, currency),
        disputed=Money(row.disputed_minor, currency),
        fee=Money(row.fee_minor, currency),
        state=PaymentState(row.state),
        holds_slot=row.live_slot == 1,
        payment_method=row.payment_method,
        channel=row.channel,
        channel_trade_no=row.channel_trade_no,
        outcome=Outcome(row.outcome),
        disposition=None if row.disposition is None else Disposition(row.disposition),
        failure=None
        if row.failure_reason is None
        else Failure(reason=row.failure_reason, message=row.failure_message),
        card=None
        if row.card_brand is None
        else CardSummary(
            brand=row.card_brand,
            last_four=row.card_last_four,
            expiration_year=row.card_expiration_year,
            expiration_month=row.card_expiration_month,
        ),
        next_action=None
        if row.next_action_kind is None
        else NextAction(kind=row.next_action_kind, value=row.next_action_value),
        ledger_head=row.ledger_head,
        version=row.version,
        paid_at=row.paid_at,
        expires_at=row.expires_at,
        created_at=row.created_at,
        updated_at=row.updated_at,
        order_no=row.order_no or "",
        customer_digest=row.customer_digest or "",
        capture_mode=CaptureMode(row.capture_mode),
    )


def seal_of(values: Mapping[str, Any]) -> str:
    """The seal of a row: its version, and a digest of everything that payment_rpc wrote."""
    return seal_over(values["version"], [plain(values[column.name]) for column in SEALED])


def seal_over(version: int, values: Sequence[Any]) -> str:
    """The seal over the plain values of the columns SEALED."""
    return f"{version}:{hashlib.sha256(_encode(values).encode()).hexdigest()}"


def _values(payment: Payment) -> dict[str, Any]:
    failure, card, action = payment.failure, payment.card, payment.next_action
    values = row_of(
        payment,
        PAYMENT,
        amount_minor=payment.amount.minor,
        currency=payment.amount.currency,
        captured_minor=payment.captured.minor,
        refunded_minor=payment.refunded.minor,
        refund_reserved_minor=payment.refund_reserved.minor,
        disputed_minor=payment.disputed.minor,
        fee_minor=payment.fee.minor,
        live_slot=1 if payment.holds_slot else None,
        failure_reason=failure.reason[:64] if failure else None,
        failure_message=failure.message[:200] if failure else None,
        card_brand=card.brand if card else None,
        card_last_four=card.last_four if card else None,
        card_expiration_year=card.expiration_year if card else None,
        card_expiration_month=card.expiration_month if card else None,
        next_action_kind=action.kind if action else None,
        next_action_value=action.value if action else None,
        receipt_digest=None,
        seal=None,
        order_no=payment.order_no or None,
        customer_digest=payment.customer_digest or None,
    )
    return {**values, "seal": seal_of(values)}
