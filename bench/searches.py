"""Searches of merchants for payments on MariaDB: whether a million payments of ten thousand
merchants cost what ten thousand payments of a hundred merchants do. Each merchant has a hundred.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from time import perf_counter

from sqlalchemy import text

from bench.machine import median
from mesh.call import Caller, Role
from mesh.clock import SystemClock
from mesh.db import Database, open_database
from mesh.paging import PageTokens
from payment_rpc.cache import PaymentCache
from payment_rpc.domain.payment import PaymentState
from payment_rpc.tables import PAYMENT, metadata
from payment_rpc.usecases.queries import ListPayments, PaymentQueries

SIZES = (10_000, 1_000_000)
OF_A_MERCHANT = 100
MERCHANTS_SEARCHED = 20
CALLS = 400
GOAL = 1.2
_PORTION = 10_000
_FIRST = datetime(2026, 1, 1, tzinfo=UTC)
_STEP = timedelta(seconds=10)
_EMAIL = "li@example.com"

# MariaDB's sequence tables write many rows in one statement. Every fifth payment of the merchants
# that are searched is of one customer, every tenth is paid.
_FILL = (
    "INSERT INTO payment (payment_id, merchant_id, order_id, user_id, amount_minor, currency, "
    "captured_minor, refunded_minor, refund_reserved_minor, disputed_minor, fee_minor, state, "
    "payment_method, channel, channel_trade_no, outcome, ledger_head, version, expires_at, "
    "created_at, updated_at, order_no, customer_digest) "
    "SELECT CONCAT('PAY', LPAD(seq, 26, '0')), CONCAT('m', seq MOD {merchants}), "
    "CONCAT('ORD', LPAD(seq, 26, '0')), CONCAT('ext:ORD', LPAD(seq, 26, '0')), 100, 'USD', "
    "IF(seq DIV {merchants} MOD 10, 0, 100), 0, 0, 0, 0, "
    "IF(seq DIV {merchants} MOD 10, 'CLOSED', 'SUCCESS'), "
    "'CASHIER', 'sandbox', '', 'UNKNOWN', '', 1, {first} + seq * {step}, {first} + seq * {step}, "
    "{first} + seq * {step}, CONCAT('A-', seq), "
    "SHA2(CONCAT('m', seq MOD {merchants}, '\n', IF(seq DIV {merchants} MOD 5, seq, '{email}')), "
    "256) FROM seq_{begin}_to_{end}"
)


async def measure(database_url: str, size: int) -> dict[str, float]:
    """Milliseconds of the first page of each search among so many payments; in turn, medians of
    calls.
    """
    db = open_database(database_url, metadata, pool_size=4, unit_timeout_seconds=300)
    try:
        async with db.engine.begin() as connection:
            await connection.run_sync(metadata.create_all)
        merchants = size // OF_A_MERCHANT
        await _fill(db, size, merchants)
        queries = PaymentQueries(
            db=db,
            cache=PaymentCache(None, SystemClock()),
            page_tokens=PageTokens(b"page tokens of the bench, 32 bytes"),
        )
        times: dict[str, list[float]] = {}
        for call in range(CALLS):
            number = call % MERCHANTS_SEARCHED
            for name, query in _searches(number, size, merchants).items():
                caller = Caller(role=Role.MERCHANT, subject="k", merchant_id=query.merchant_id)
                begin = perf_counter()
                found, _ = await queries.list_payments(query, caller)
                times.setdefault(name, []).append((perf_counter() - begin) * 1000)
                if not found:
                    raise AssertionError(f"{name} found nothing among {size}")
        return {name: median(each) for name, each in times.items()}
    finally:
        await db.close()


def _searches(number: int, size: int, merchants: int) -> dict[str, ListPayments]:
    """The searches of one merchant, by name."""
    merchant_id = f"m{number}"
    # The middle half of its payments.
    since, until = _FIRST + _STEP * (size // 4), _FIRST + _STEP * (size * 3 // 4)
    paid = PaymentState.SUCCESS
    return {
        "order_no": ListPayments(
            merchant_id=merchant_id, order=f"A-{number + merchants * (OF_A_MERCHANT // 2)}"
        ),
        "customer_email": ListPayments(merchant_id=merchant_id, customer_email=_EMAIL),
        "state": ListPayments(merchant_id=merchant_id, state=paid),
        "from and to": ListPayments(
            merchant_id=merchant_id, created_from=since, created_before=until
        ),
        "all of them": ListPayments(
            merchant_id=merchant_id,
            customer_email=_EMAIL,
            state=paid,
            created_from=since,
            created_before=until,
        ),
    }


async def _fill(db: Database, size: int, merchants: int) -> None:
    values = {
        "merchants": merchants,
        "first": int(_FIRST.timestamp() * 1000),
        "step": int(_STEP.total_seconds() * 1000),
        "email": _EMAIL,
    }
    # An index is built much quicker than it is kept up to date row by row.
    indexes = sorted(PAYMENT.indexes, key=lambda index: str(index.name))
    async with db.engine.begin() as connection:
        for index in indexes:
            await connection.execute(text(f"DROP INDEX {index.name} ON payment"))
    for begin in range(0, size, _PORTION):
        statement = _FILL.format(begin=begin, end=min(begin + _PORTION, size) - 1, **values)
        async with db.engine.begin() as connection:
            await connection.execute(text(statement.replace(":", "\\:")))
    async with db.engine.begin() as connection:
        await connection.execute(text("SET max_statement_time = 0"))
        for index in indexes:
            columns = ", ".join(column.name for column in index.columns)
            await connection.execute(text(f"CREATE INDEX {index.name} ON payment ({columns})"))
        await connection.execute(text("ANALYZE TABLE payment"))
