"""The tables. Invariants stand here too: states by CHECK, stock never below zero, one row per key.
Every key begins with the tenant.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKeyConstraint,
    Index,
    Integer,
    String,
    Table,
    Text,
    UniqueConstraint,
    true,
)
from sqlalchemy.dialects import mysql

from mesh.db import BigInt, Identifier, UtcMillis, WideInteger, metadata_with_names, one_of
from mesh.idempotency import RECEIPT
from mesh.inbox import INBOX
from mesh.log_chain import LOG_CHAIN, Log, chain_columns
from mesh.outbox import OUTBOX
from order_rpc.domain.external_order import OrderKind
from order_rpc.domain.order import OrderState
from order_rpc.domain.order_line import StockSource
from order_rpc.domain.payment import Disposition
from order_rpc.domain.product import MovementKind
from order_rpc.domain.refund import RefundState, RefundStatus
from order_rpc.domain.statistics import Figure

metadata = metadata_with_names()
for _table in (RECEIPT, OUTBOX, INBOX, LOG_CHAIN):
    _table.to_metadata(metadata)

_MERCHANT = Identifier(32)
_SKU = Identifier(64)
_USER = Identifier(64)
_ORDER = Identifier(32)
_PAYMENT = Identifier(32)
_ACTIVITY = Identifier(32)
_REQUEST = Identifier(64)
_CURRENCY = Identifier(3)
_STATE = Identifier(32)
# For people, in any script; latin1 is still the default of many servers.
_TEXT = String(200).with_variant(
    mysql.VARCHAR(200, charset="utf8mb4", collation="utf8mb4_bin"), "mysql", "mariadb"
)
_DETAILS = Text().with_variant(
    mysql.MEDIUMTEXT(charset="utf8mb4", collation="utf8mb4_bin"), "mysql", "mariadb"
)

RESERVED, COMMITTED, RELEASED = "RESERVED", "COMMITTED", "RELEASED"


PRODUCT = Table(
    "product",
    metadata,
    Column("merchant_id", _MERCHANT, primary_key=True),
    Column("sku_id", _SKU, primary_key=True),
    Column("name", _TEXT, nullable=False),
    Column("price_minor", BigInteger, nullable=False),
    Column("currency", _CURRENCY, nullable=False),
    Column("first_available", BigInteger, nullable=False),
    Column("on_sale", Boolean(name="on_sale"), nullable=False, server_default=true()),
    Column("created_at", UtcMillis, nullable=False),
    Column("updated_at", UtcMillis, nullable=False),
    CheckConstraint("price_minor >= 0", name="price"),
)

STOCK = Table(
    "stock",
    metadata,
    Column("merchant_id", _MERCHANT, primary_key=True),
    Column("sku_id", _SKU, primary_key=True),
    Column("available", BigInteger, nullable=False),
    Column("reserved", BigInteger, nullable=False),
    Column("sold", BigInteger, nullable=False),
    Column("allocated", BigInteger, nullable=False, server_default="0"),
    ForeignKeyConstraint(["merchant_id", "sku_id"], ["product.merchant_id", "product.sku_id"]),
    CheckConstraint("available >= 0", name="available"),
    CheckConstraint("reserved >= 0", name="reserved"),
    CheckConstraint("sold >= 0", name="sold"),
    CheckConstraint("allocated >= 0", name="allocated"),
)

# What people, flash sales and refunds did to `available`; rows are only ever added. What orders
# hold stands in `reservation`.
STOCK_MOVEMENT = Table(
    "stock_movement",
    metadata,
    Column("id", BigInt, primary_key=True, autoincrement=True),
    Column("merchant_id", _MERCHANT, nullable=False),
    Column("sku_id", _SKU, nullable=False),
    Column("kind", _STATE, nullable=False),
    Column("quantity", BigInteger, nullable=False),
    Column("available_after", BigInteger, nullable=False),
    Column("reason", _TEXT, nullable=False),
    Column("operator", Identifier(80), nullable=False),
    Column("reference", Identifier(64), nullable=False),
    Column("trace_id", Identifier(32), nullable=False),
    Column("created_at", UtcMillis, nullable=False),
    *chain_columns(),
    CheckConstraint(one_of("kind", MovementKind), name="kind"),
    Index("ix_stock_movement_sku_id", "merchant_id", "sku_id", "id"),
)

# Units of a flash sale. The activity lives in seckill_rpc.
ALLOCATION = Table(
    "allocation",
    metadata,
    Column("merchant_id", _MERCHANT, primary_key=True),
    Column("activity_id", _ACTIVITY, primary_key=True),
    Column("sku_id", _SKU, nullable=False),
    Column("allocated", BigInteger, nullable=False),
    Column("returned", BigInteger, nullable=False),
    Column("created_at", UtcMillis, nullable=False),
    Column("updated_at", UtcMillis, nullable=False),
    CheckConstraint("returned >= 0 AND returned <= allocated", name="returned"),
)

# One row per step of seckill_rpc: the same op_id is the same step, for ever.
ALLOCATION_STEP = Table(
    "allocation_step",
    metadata,
    Column("merchant_id", _MERCHANT, primary_key=True),
    Column("op_id", Identifier(64), primary_key=True),
    Column("activity_id", _ACTIVITY, nullable=False),
    Column("kind", _STATE, nullable=False),
    Column("quantity", BigInteger, nullable=False),
    Column("created_at", UtcMillis, nullable=False),
)

# Not "order": that is a word of SQL.
ORDERS = Table(
    "orders",
    metadata,
    Column("merchant_id", _MERCHANT, primary_key=True),
    Column("order_id", _ORDER, primary_key=True),
    Column("user_id", _USER, nullable=False),
    Column("state", _STATE, nullable=False),
    Column("amount_minor", BigInteger, nullable=False),
    Column("shipping_minor", BigInteger, nullable=False, server_default="0"),
    Column("discount_minor", BigInteger, nullable=False, server_default="0"),
    Column("captured_minor", BigInteger, nullable=False, server_default="0"),
    Column("refunded_minor", BigInteger, nullable=False, server_default="0"),
    Column("currency", _CURRENCY, nullable=False),
    Column("refund_status", _STATE, nullable=False, server_default=RefundStatus.NONE.value),
    Column("client_request_id", _REQUEST, nullable=True),
    Column("address", Text, nullable=True),  # JSON in ASCII
    Column("carrier", _TEXT, nullable=False, server_default=""),
    Column("tracking_number", Identifier(64), nullable=False, server_default=""),
    Column("cancel_reason", _TEXT, nullable=False, server_default=""),
    Column("paid_payment_id", _PAYMENT, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("created_at", UtcMillis, nullable=False),
    Column("expires_at", UtcMillis, nullable=False),
    Column("paid_at", UtcMillis, nullable=True),
    Column("shipped_at", UtcMillis, nullable=True),
    Column("completed_at", UtcMillis, nullable=True),
    Column("cancelled_at", UtcMillis, nullable=True),
    Column("updated_at", UtcMillis, nullable=False),
    Column("kind", _STATE, nullable=False, server_default=OrderKind.CATALOG.value),
    # The payment whose money is held, "" for none; the buyer's own deadline beside it.
    Column("held_payment_id", _PAYMENT, nullable=False, server_default=""),
    Column("held_minor", BigInteger, nullable=False, server_default="0"),
    Column("held_until", UtcMillis, nullable=True),
    Column("pay_until", UtcMillis, nullable=True),
    # A hold is whole, ends the order's time to pay, and only an order without its money has one.
    CheckConstraint(
        "(held_payment_id = '' AND held_minor = 0 AND held_until IS NULL AND pay_until IS NULL) OR "
        "(held_payment_id <> '' AND held_minor > 0 AND held_until IS NOT NULL AND "
        "pay_until IS NOT NULL AND held_until = expires_at AND "
        "state IN ('PENDING_PAYMENT', 'CANCELLING'))",
        name="held",
    ),
    CheckConstraint(one_of("kind", OrderKind), name="kind"),
    # Whoever shows a checkout token of an external order is its buyer, and of no other order.
    CheckConstraint(
        "kind <> 'EXTERNAL' OR (SUBSTR(user_id, 1, 4) = 'ext:' AND SUBSTR(user_id, 5) = order_id)",
        name="external_buyer",
    ),
    CheckConstraint(one_of("state", OrderState), name="state"),
    CheckConstraint(one_of("refund_status", RefundStatus), name="refund_status"),
    CheckConstraint("shipping_minor >= 0 AND discount_minor >= 0", name="parts"),
    CheckConstraint("captured_minor >= 0 AND refunded_minor >= 0", name="money"),
    # Both are of the payment that paid it: captured once, and its refunds stay within (money out
    # above that is a loss of payment_rpc's books).
    CheckConstraint("refunded_minor <= captured_minor", name="refunded"),
    # NULL where the client gave none: NULLs are distinct everywhere.
    UniqueConstraint(
        "merchant_id", "user_id", "client_request_id", name="uq_orders_client_request_id"
    ),
    CheckConstraint("amount_minor >= 0", name="amount"),
    CheckConstraint(
        "(state IN ('PENDING_PAYMENT', 'CANCELLING', 'CANCELLED')) = (paid_at IS NULL)",
        name="paid_at",
    ),
    CheckConstraint("paid_at IS NOT NULL OR paid_payment_id = ''", name="paid_payment_id"),
    # What the expiry worker claims, in its order.
    Index("ix_orders_expiry", "state", "expires_at", "merchant_id", "order_id"),
    # One per filter of ListOrders, in the order of the list: each page is one range of one index,
    # nothing is sorted.
    Index("ix_orders_merchant", "merchant_id", "created_at", "order_id"),
    Index("ix_orders_state", "merchant_id", "state", "created_at", "order_id"),
    Index("ix_orders_user", "merchant_id", "user_id", "created_at", "order_id"),
    Index("ix_orders_user_state", "merchant_id", "user_id", "state", "created_at", "order_id"),
)

# What only merchants' own orders have, beside the table that every purchase writes.
EXTERNAL_ORDER = Table(
    "external_order",
    metadata,
    Column("merchant_id", _MERCHANT, primary_key=True),
    Column("order_id", _ORDER, primary_key=True),
    Column("order_no", Identifier(64), nullable=True),  # NULL where the merchant gave none
    Column("customer_digest", Identifier(64), nullable=True),  # of the address, for searches
    Column("customer", _DETAILS, nullable=False),  # JSON; what is erased
    Column("notify_url", Identifier(520), nullable=False),
    Column("created_at", UtcMillis, nullable=False),
    Column("erased_at", UtcMillis, nullable=True),
    ForeignKeyConstraint(["merchant_id", "order_id"], ["orders.merchant_id", "orders.order_id"]),
    # The merchant's number names one order for ever.
    UniqueConstraint("merchant_id", "order_no", name="uq_external_order_order_no"),
    CheckConstraint(
        "erased_at IS NULL OR (customer = '{}' AND customer_digest IS NULL)", name="erased"
    ),
    Index("ix_external_order_customer", "merchant_id", "customer_digest", "created_at", "order_id"),
)

ORDER_ITEM = Table(
    "order_item",
    metadata,
    Column("merchant_id", _MERCHANT, primary_key=True),
    Column("order_id", _ORDER, primary_key=True),
    Column("sku_id", _SKU, primary_key=True),
    Column("name", _TEXT, nullable=False),
    Column("unit_price_minor", BigInteger, nullable=False),
    Column("quantity", Integer, nullable=False),
    Column("amount_minor", BigInteger, nullable=False),
    Column("stock_source", _STATE, nullable=False, server_default=StockSource.CATALOG.value),
    Column("activity_id", _ACTIVITY, nullable=False, server_default=""),
    ForeignKeyConstraint(["merchant_id", "order_id"], ["orders.merchant_id", "orders.order_id"]),
    CheckConstraint("quantity > 0", name="quantity"),
    CheckConstraint("amount_minor = unit_price_minor * quantity", name="amount"),
    CheckConstraint(one_of("stock_source", StockSource), name="stock_source"),
)

# No foreign key to stock: its check would take a shared lock on the row that the same transaction
# updates, a deadlock between two buyers.
RESERVATION = Table(
    "reservation",
    metadata,
    Column("merchant_id", _MERCHANT, primary_key=True),
    Column("order_id", _ORDER, primary_key=True),
    Column("sku_id", _SKU, primary_key=True),
    Column("generation", Integer, primary_key=True, autoincrement=False),
    Column("quantity", Integer, nullable=False),
    Column("state", _STATE, nullable=False),
    Column("created_at", UtcMillis, nullable=False),
    Column("updated_at", UtcMillis, nullable=False),
    ForeignKeyConstraint(["merchant_id", "order_id"], ["orders.merchant_id", "orders.order_id"]),
    CheckConstraint("quantity > 0", name="quantity"),
    CheckConstraint(one_of("state", (RESERVED, COMMITTED, RELEASED)), name="state"),
)

PAYMENT_DISPOSITION = Table(
    "payment_disposition",
    metadata,
    Column("merchant_id", _MERCHANT, primary_key=True),
    Column("order_id", _ORDER, primary_key=True),
    Column("payment_id", _PAYMENT, primary_key=True),
    Column("payment_version", BigInteger, nullable=False),
    Column("payment_state", _STATE, nullable=False),
    Column("disposition", _STATE, nullable=True),
    Column("created_at", UtcMillis, nullable=False),
    Column("updated_at", UtcMillis, nullable=False),
    ForeignKeyConstraint(["merchant_id", "order_id"], ["orders.merchant_id", "orders.order_id"]),
    CheckConstraint(
        one_of("disposition", (value for value in Disposition if value is not Disposition.NOTED)),
        name="disposition",
    ),
)

ORDER_AUDIT = Table(
    "order_audit",
    metadata,
    Column("id", BigInt, primary_key=True, autoincrement=True),
    Column("merchant_id", _MERCHANT, nullable=False),
    Column("order_id", _ORDER, nullable=False),
    Column("from_state", _STATE, nullable=False),
    Column("to_state", _STATE, nullable=False),
    Column("event", _STATE, nullable=False),
    Column("event_id", Identifier(64), nullable=False),
    Column("operator", Identifier(80), nullable=False),
    Column("remark", _TEXT, nullable=False),
    Column("trace_id", Identifier(32), nullable=False),
    Column("needs_attention", Boolean, nullable=False),
    Column("created_at", UtcMillis, nullable=False),
    *chain_columns(),
    ForeignKeyConstraint(["merchant_id", "order_id"], ["orders.merchant_id", "orders.order_id"]),
    Index("ix_order_audit_order_id", "merchant_id", "order_id", "id"),
)

REFUND_REQUEST = Table(
    "refund_request",
    metadata,
    Column("merchant_id", _MERCHANT, primary_key=True),
    Column("order_id", _ORDER, primary_key=True),
    Column("request_id", Identifier(32), primary_key=True),
    Column("payment_id", _PAYMENT, nullable=False),
    Column("state", _STATE, nullable=False),
    Column("amount_minor", BigInteger, nullable=False),
    Column("currency", _CURRENCY, nullable=False),
    Column("reason", _TEXT, nullable=False),
    Column("refund_id", Identifier(32), nullable=False),
    Column("failure", _TEXT, nullable=False),
    Column("of_sale", Boolean(name="of_sale"), nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("succeeded_at", UtcMillis, nullable=True),
    Column("bounced_at", UtcMillis, nullable=True),
    Column("created_at", UtcMillis, nullable=False),
    Column("updated_at", UtcMillis, nullable=False),
    ForeignKeyConstraint(["merchant_id", "order_id"], ["orders.merchant_id", "orders.order_id"]),
    CheckConstraint(one_of("state", RefundState), name="state"),
    CheckConstraint("amount_minor >= 0", name="amount"),  # 0: units that cost nothing
)

REFUND_LINE = Table(
    "refund_line",
    metadata,
    Column("merchant_id", _MERCHANT, primary_key=True),
    Column("order_id", _ORDER, primary_key=True),
    Column("request_id", Identifier(32), primary_key=True),
    Column("sku_id", _SKU, primary_key=True),
    Column("quantity", Integer, nullable=False),
    CheckConstraint("quantity > 0", name="quantity"),
)

# Units that a refund brought back: once per refund and SKU, whatever is heard how often.
STOCK_RETURN = Table(
    "stock_return",
    metadata,
    Column("merchant_id", _MERCHANT, primary_key=True),
    Column("order_id", _ORDER, primary_key=True),
    Column("request_id", Identifier(32), primary_key=True),
    Column("sku_id", _SKU, primary_key=True),
    Column("quantity", Integer, nullable=False),
    Column("created_at", UtcMillis, nullable=False),
    CheckConstraint("quantity > 0", name="quantity"),
)

# What happened in each quarter of an hour (every time zone of today is whole quarters away from
# UTC), folded from the entries below.
STATISTIC = Table(
    "statistic",
    metadata,
    Column("merchant_id", _MERCHANT, primary_key=True),
    Column("currency", _CURRENCY, primary_key=True),
    Column("quarter", UtcMillis, primary_key=True, autoincrement=False),
    Column("figure", _STATE, primary_key=True),
    Column("count", BigInteger, nullable=False),
    Column("amount_minor", WideInteger, nullable=False),
    CheckConstraint(one_of("figure", Figure), name="figure"),
)

# Written with the change that they count, so that no two orders meet on a row of `statistic`. A
# worker folds them; who reads adds them himself.
STATISTIC_ENTRY = Table(
    "statistic_entry",
    metadata,
    Column("id", BigInt, primary_key=True, autoincrement=True),
    Column("merchant_id", _MERCHANT, nullable=False),
    Column("currency", _CURRENCY, nullable=False),
    Column("quarter", UtcMillis, nullable=False),
    Column("figure", _STATE, nullable=False),
    Column("count", BigInteger, nullable=False),
    Column("amount_minor", WideInteger, nullable=False),
)

# Logs that are evidence; each row continues the one before it.
MOVEMENT_LOG = Log(
    table=STOCK_MOVEMENT,
    key="id",
    entity=("merchant_id", "sku_id"),
    said=(
        "merchant_id",
        "sku_id",
        "kind",
        "quantity",
        "available_after",
        "reason",
        "operator",
        "reference",
        "trace_id",
        "created_at",
    ),
)
AUDIT_LOG = Log(
    table=ORDER_AUDIT,
    key="id",
    entity=("merchant_id", "order_id"),
    said=(
        "merchant_id",
        "order_id",
        "from_state",
        "to_state",
        "event",
        "event_id",
        "operator",
        "remark",
        "trace_id",
        "needs_attention",
        "created_at",
    ),
)

# Evidence: the user of the service may add rows and read them, nothing else (`paymesh migrate
# --grant-to-services`).
APPEND_ONLY = frozenset({"order_audit", "stock_movement", "allocation_step", "stock_return"})
