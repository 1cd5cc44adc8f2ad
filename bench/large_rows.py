"""The rows that one paid order leaves in both databases, as the code writes them, and the
statements that copy them under other ids.

A copy says what the code would have said of it: ids, times and buyers follow its number, and every
hash is computed again over what the code hashed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any
from unittest import mock

from sqlalchemy import Table

import order_rpc.tables as of_orders
import payment_rpc.tables as of_payments
from mesh.idempotency import MONEY_RETENTION, RECEIPT, IdempotencyKey
from mesh.inbox import INBOX
from mesh.log_chain import LOG_CHAIN, entry_hash
from mesh.money import Money
from mesh.outbox import OUTBOX
from order_rpc.domain.statistics import quarter_of
from payment_rpc.domain import ledger
from payment_rpc.store.payments import seal_of

PRICE = 1000
SKUS = 100
BUYERS = 1000
SPREAD = timedelta(seconds=20)  # between two orders: a million are 231 days
PAYING = timedelta(minutes=15)
MESSAGES_KEPT = timedelta(days=14)  # the defaults of the settings
INBOX_KEPT = 2 * MESSAGES_KEPT
EXAMPLE = 987_654_321  # of a copy: long enough that its digits occur nowhere else
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
Rows = Iterator[tuple[Table, dict[str, Any]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One order by its number. `keeps` is what is not purged yet: "messages", "inbox",
    "receipts".
    """

    number: int
    begins: datetime
    keeps: frozenset[str] = frozenset()

    @property
    def at(self) -> datetime:
        """When everything happened."""
        return self.begins + self.number * SPREAD

    @property
    def user_id(self) -> str:
        """Its buyer."""
        return f"u{self.number % BUYERS}"

    def id(self, prefix: str) -> str:
        """An id of something of it."""
        return f"{prefix}{self.number:026d}"

    def message(self, prefix: str, to: str, tag: str, about: str) -> dict[str, Any]:
        """A delivered message."""
        return {
            "event_id": self.id(prefix),
            "destination": to,
            "tag": tag,
            "aggregate_id": about,
            "payload": '{"state":"SUCCESS"}',
            "trace_id": f"{self.number:032x}",
            "state": "DONE",
            "due_at": self.at,
            "attempts": 1,
            "last_error": "",
            "created_at": self.at,
        }

    def receipt(self, key: IdempotencyKey, resource_id: str) -> dict[str, Any]:
        """An answered idempotency record."""
        return {
            "merchant_id": key.merchant_id,
            "caller": key.caller,
            "method": key.method,
            "idempotency_key": key.key,
            "state": "DONE",
            "fingerprint": '{"amount":"10.00"}',
            "resource_id": resource_id,
            "answer": '{"state":"SUCCESS"}',
            "created_at": self.at,
            "expires_at": self.at + MONEY_RETENTION,
        }


def order_rows(order: Order) -> Rows:
    """The rows of order_rpc of one paid order, and those that its messages left."""
    at, order_id, payment_id, sku_id = (
        order.at,
        order.id("ORD"),
        order.id("PAY"),
        f"SKU{order.number % SKUS}",
    )
    key = {"merchant_id": "mall", "order_id": order_id}
    yield (
        of_orders.ORDERS,
        {
            **key,
            "user_id": order.user_id,
            "state": "PAID",
            "amount_minor": PRICE,
            "captured_minor": PRICE,
            "currency": "CNY",
            "paid_payment_id": payment_id,
            "version": 2,
            "created_at": at,
            "expires_at": at + PAYING,
            "paid_at": at,
            "updated_at": at,
        },
    )
    yield (
        of_orders.ORDER_ITEM,
        {
            **key,
            "sku_id": sku_id,
            "name": "Mug",
            "unit_price_minor": PRICE,
            "quantity": 1,
            "amount_minor": PRICE,
        },
    )
    yield (
        of_orders.RESERVATION,
        {
            **key,
            "sku_id": sku_id,
            "generation": 1,
            "quantity": 1,
            "state": "COMMITTED",
            "created_at": at,
            "updated_at": at,
        },
    )
    yield (
        of_orders.PAYMENT_DISPOSITION,
        {
            **key,
            "payment_id": payment_id,
            "payment_version": 2,
            "payment_state": "SUCCESS",
            "disposition": "APPLIED",
            "created_at": at,
            "updated_at": at,
        },
    )
    yield from _history(order, key)
    if "messages" in order.keeps:
        for tag in ("ORDER_CREATED", "ORDER_PAID"):
            yield OUTBOX, order.message(f"EVT{tag[6]}", "stream:ORDER_TOPIC", tag, order_id)
    if "inbox" in order.keeps:
        yield INBOX, {"consumer": "payment_rpc", "event_id": order.id("EVTO"), "handled_at": at}
    if "receipts" in order.keeps:
        made = IdempotencyKey(
            merchant_id="mall",
            caller=f"mall/{order.user_id}",
            method="CreateOrder",
            key=order.id("K"),
        )
        yield RECEIPT, order.receipt(made, order_id)


def _history(order: Order, key: dict[str, Any]) -> Rows:
    before = ""
    steps = (("", "PENDING_PAYMENT", "CREATE"), ("PENDING_PAYMENT", "PAID", "PAY"))
    for seq, (from_state, to_state, event) in enumerate(steps, 1):
        step = {
            **key,
            "from_state": from_state,
            "to_state": to_state,
            "event": event,
            "event_id": order.id("EVT"),
            "operator": f"user:{order.user_id}",
            "remark": "",
            "trace_id": f"{order.number:032x}",
            "needs_attention": False,
            "created_at": order.at,
        }
        before = entry_hash(of_orders.AUDIT_LOG, step, seq=seq, before=before)
        yield of_orders.ORDER_AUDIT, {**step, "chain_seq": seq, "chain_hash": before}
    yield (
        LOG_CHAIN,
        {
            "log": "order_audit",
            "entity": f"mall/{key['order_id']}",
            "length": len(steps),
            "purged": 0,
            "hash": before,
        },
    )


def payment_rows(order: Order) -> Rows:
    """The rows of payment_rpc of the payment of one order."""
    at, payment_id, attempt_id, trade_no = (
        order.at,
        order.id("PAY"),
        order.id("ATT"),
        order.id("SBX"),
    )
    paid = IdempotencyKey(
        merchant_id="mall", caller=f"mall/{order.user_id}", method="Charge", key=order.id("K")
    )
    booking = ledger.captured(
        attempt_id=attempt_id,
        payment_id=payment_id,
        channel="sandbox",
        merchant_id="mall",
        amount=Money(PRICE, "CNY"),
    )
    payment: dict[str, Any] = dict.fromkeys(
        (column.name for column in of_payments.PAYMENT.c), None
    ) | {
        "payment_id": payment_id,
        "merchant_id": "mall",
        "order_id": order.id("ORD"),
        "user_id": order.user_id,
        "amount_minor": PRICE,
        "currency": "CNY",
        "captured_minor": PRICE,
        "refunded_minor": 0,
        "refund_reserved_minor": 0,
        "disputed_minor": 0,
        "fee_minor": 0,
        "state": "SUCCESS",
        "live_slot": 1,
        "payment_method": "credit_card",
        "channel": "sandbox",
        "channel_trade_no": trade_no,
        "outcome": "CAPTURED",
        "disposition": "APPLIED",
        "card_brand": "visa",
        "card_last_four": "4242",
        "card_expiration_year": 2030,
        "card_expiration_month": 12,
        "ledger_head": booking.hash(""),
        "capture_mode": "AUTOMATIC",
        "version": 3,
        "paid_at": at,
        "expires_at": at + PAYING,
        "created_at": at,
        "updated_at": at,
        "receipt_digest": paid.digest,
    }
    yield of_payments.PAYMENT, {**payment, "seal": seal_of(payment)}
    yield (
        of_payments.ATTEMPT,
        {
            "attempt_id": attempt_id,
            "payment_id": payment_id,
            "merchant_id": "mall",
            "channel": "sandbox",
            "state": "CAPTURED",
            "amount_minor": PRICE,
            "currency": "CNY",
            "captured_minor": PRICE,
            "captured_currency": "CNY",
            "channel_trade_no": trade_no,
            "sends": 1,
            "lease_until": at,
            "next_query_at": None,
            "queries": 0,
            "version": 2,
            "created_at": at,
            "updated_at": at,
            "captured_at": at,
        },
    )
    yield (
        of_payments.ORDER_GATE,
        {"merchant_id": "mall", "order_id": order.id("ORD"), "state": "OPEN", "updated_at": at},
    )
    yield (
        of_payments.LEDGER_TRANSACTION,
        {
            "business_key": booking.key,
            "kind": booking.kind,
            "payment_id": payment_id,
            "previous_hash": "",
            "hash": booking.hash(""),
            "booked_at": at,
        },
    )
    for seq, posting in enumerate(booking.postings, 1):
        yield (
            of_payments.LEDGER_POSTING,
            {
                "business_key": booking.key,
                "seq": seq,
                "account": posting.account,
                "side": posting.side,
                "amount_minor": PRICE,
                "currency": "CNY",
            },
        )
    if "messages" in order.keeps:
        yield OUTBOX, order.message("EVTO", "order_rpc", "UpdateOrderStatus", payment_id)
        yield OUTBOX, order.message("EVTS", "stream:PAYMENT_TOPIC", "PAYMENT_SUCCEEDED", payment_id)
    if "receipts" in order.keeps:
        yield RECEIPT, order.receipt(paid, payment_id)


@dataclass
class Copies:
    """Turns the rows of one order into statements that make those of others, numbered `n`, in
    MariaDB.
    """

    begins: datetime
    hashed: dict[str, str] = field(default_factory=dict)  # digests, and what they are of

    def statements(
        self, rows_of: Callable[[Order], Rows], *, keeps: frozenset[str], first: int, count: int
    ) -> list[str]:
        """One INSERT per row of an order, each for `count` orders."""
        order = Order(number=EXAMPLE, begins=self.begins, keeps=keeps)
        with self._hashes_recorded():
            rows = list(rows_of(order))
        numbers = f"(SELECT {first} + seq AS n FROM seq_0_to_{count - 1}) AS numbers"
        return [
            f"INSERT INTO {table.name} ({', '.join(f'`{name}`' for name in row)}) "
            f"SELECT {', '.join(self._sql(value, order) for value in row.values())} FROM {numbers}"
            for table, row in rows
        ]

    @contextmanager
    def _hashes_recorded(self) -> Iterator[None]:
        real = hashlib.sha256

        def sha256(said: bytes) -> Any:
            digest = real(said)
            self.hashed[digest.hexdigest()] = said.decode()
            return digest

        with mock.patch("hashlib.sha256", sha256):
            yield

    def _sql(self, value: Any, order: Order) -> str:
        """A value as an expression of `n`."""
        if value is None:
            return "NULL"
        if isinstance(value, datetime):
            value = milliseconds(value)
        return self._text(
            value.value
            if isinstance(value, Enum)
            else str(int(value) if isinstance(value, bool) else value),
            order,
        )

    def _text(self, text: str, order: Order) -> str:
        tokens = {
            f"{order.number:026d}": "LPAD(n, 26, '0')",
            f"{order.number:032x}": "LPAD(LOWER(HEX(n)), 32, '0')",
            f"u{order.number % BUYERS}": f"CONCAT('u', n % {BUYERS})",
            f"SKU{order.number % SKUS}": f"CONCAT('SKU', n % {SKUS})",
            **{
                str(milliseconds(order.at + later)): f"({milliseconds(self.begins + later)} + n * "
                f"{SPREAD // timedelta(milliseconds=1)})"
                for later in (timedelta(0), PAYING, MONEY_RETENTION)
            },
        }
        parts = re.split(f"({'|'.join([*tokens, '[0-9a-f]{64}'])})", text)
        said = [
            tokens.get(part) or self._hash(part, order) or quoted(part) for part in parts if part
        ]
        return f"CONCAT({', '.join(said)})" if len(said) > 1 else said[0] if said else "''"

    def _hash(self, part: str, order: Order) -> str:
        return f"SHA2({self._text(self.hashed[part], order)}, 256)" if part in self.hashed else ""


def catalog_rows(orders: int, begins: datetime) -> Rows:
    """Products with units for all orders."""
    for number in range(SKUS):
        sku_id, sold = f"SKU{number}", len(range(number, orders, SKUS))
        key = {"merchant_id": "mall", "sku_id": sku_id}
        yield (
            of_orders.PRODUCT,
            {
                **key,
                "name": "Mug",
                "price_minor": PRICE,
                "currency": "CNY",
                "first_available": sold + 5,
                "on_sale": True,
                "created_at": begins,
                "updated_at": begins,
            },
        )
        yield of_orders.STOCK, {**key, "available": 5, "reserved": 0, "sold": sold, "allocated": 0}
        line = {
            **key,
            "kind": "INITIAL",
            "quantity": sold + 5,
            "available_after": sold + 5,
            "reason": "",
            "operator": "admin",
            "reference": "",
            "trace_id": "",
            "created_at": begins,
        }
        digest = entry_hash(of_orders.MOVEMENT_LOG, line, seq=1, before="")
        yield of_orders.STOCK_MOVEMENT, {**line, "chain_seq": 1, "chain_hash": digest}
        yield (
            LOG_CHAIN,
            {
                "log": "stock_movement",
                "entity": f"mall/{sku_id}",
                "length": 1,
                "purged": 0,
                "hash": digest,
            },
        )


def figure_rows(orders: int, begins: datetime) -> Rows:
    """The figures of the quarters of an hour."""
    counts: dict[datetime, int] = {}
    for number in range(orders):
        quarter = quarter_of(begins + number * SPREAD)
        counts[quarter] = counts.get(quarter, 0) + 1
    for quarter, count in counts.items():
        for figure in ("CREATED", "PAID", "CONVERTED"):
            yield (
                of_orders.STATISTIC,
                {
                    "merchant_id": "mall",
                    "currency": "CNY",
                    "quarter": quarter,
                    "figure": figure,
                    "count": count,
                    "amount_minor": count * PRICE,
                },
            )


def milliseconds(moment: datetime) -> int:
    """A moment as it is stored."""
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def quoted(text: str) -> str:
    """A text as a literal."""
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"
