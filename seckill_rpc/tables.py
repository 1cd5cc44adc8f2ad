"""The tables of seckill_rpc. Their constraints make overselling and a second unit per slot
impossible, whatever Redis says: `sold <= total` by CHECK, one row per (activity, user, slot) and
per (activity, user, live request) by UNIQUE, with NULLs for what is not live.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Index,
    Integer,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
)
from sqlalchemy.dialects import mysql

from mesh.db import BigInt, Identifier, UtcMillis, metadata_with_names, one_of
from mesh.idempotency import RECEIPT
from mesh.inbox import INBOX
from mesh.outbox import OUTBOX
from seckill_rpc.domain.activity import ActivityState, AdmissionMode
from seckill_rpc.domain.order import UnitState

metadata = metadata_with_names()
for _table in (RECEIPT, OUTBOX, INBOX):
    _table.to_metadata(metadata)

_ACTIVITY = Identifier(32)
_ORDER = Identifier(32)
_USER = Identifier(64)
_REQUEST = Identifier(64)
_STATE = Identifier(16)
# For people, in any script; latin1 is still the default of many servers.
_TEXT = String(200).with_variant(
    mysql.VARCHAR(200, charset="utf8mb4", collation="utf8mb4_bin"), "mysql", "mariadb"
)


ACTIVITY = Table(
    "activity",
    metadata,
    Column("activity_id", _ACTIVITY, primary_key=True),
    Column("merchant_id", Identifier(32), nullable=False),
    Column("sku_id", Identifier(64), nullable=False),
    Column("price_minor", BigInteger, nullable=False),
    Column("currency", Identifier(3), nullable=False),
    Column("mode", _STATE, nullable=False),
    Column("limit_per_user", Integer, nullable=False),
    Column("starts_at", UtcMillis, nullable=False),
    Column("ends_at", UtcMillis, nullable=False),
    Column("state", _STATE, nullable=False),
    Column("rev", BigInteger, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("offered", BigInteger, nullable=False),
    Column("total", BigInteger, nullable=False),
    Column("sold", BigInteger, nullable=False),
    Column("drawn", Boolean(name="drawn"), nullable=False, server_default=false()),
    Column("problem", _TEXT, nullable=False, server_default=""),
    # 1 from PUBLISHING until it is CLOSED, else NULL: one such activity per product.
    Column("open_slot", SmallInteger, nullable=True),
    Column("version", BigInteger, nullable=False),
    Column("created_at", UtcMillis, nullable=False),
    Column("updated_at", UtcMillis, nullable=False),
    UniqueConstraint("merchant_id", "sku_id", "open_slot", name="uq_activity_open_slot"),
    CheckConstraint(one_of("state", ActivityState), name="state"),
    CheckConstraint(one_of("mode", AdmissionMode), name="mode"),
    CheckConstraint("price_minor >= 0", name="price"),
    CheckConstraint("limit_per_user >= 1", name="limit_per_user"),
    CheckConstraint("sold >= 0 AND sold <= total", name="sold"),
    CheckConstraint("total >= 0 AND total <= offered", name="total"),
    CheckConstraint("(state IN ('DRAFT', 'CLOSED')) = (open_slot IS NULL)", name="open_slot"),
    CheckConstraint("starts_at < ends_at", name="window"),
    Index("ix_activity_merchant", "merchant_id", "created_at", "activity_id"),
    Index("ix_activity_merchant_state", "merchant_id", "state", "created_at", "activity_id"),
    Index("ix_activity_state", "state", "activity_id"),
)

# One row per click that was decided. `request_id` is kept for a rebuild, which restores who clicked
# what.
# No foreign key to the activity: its check would lock that row shared, and each batch updates it
# last, a deadlock between two batches. The audit looks for orders of no activity
# (`order_of_activity`).
SECKILL_ORDER = Table(
    "seckill_order",
    metadata,
    Column("order_id", _ORDER, primary_key=True),
    Column("activity_id", _ACTIVITY, nullable=False),
    Column("user_id", _USER, nullable=False),
    Column("request_id", _REQUEST, nullable=False),
    Column("slot", SmallInteger, nullable=True),
    Column("live_request", _REQUEST, nullable=True),
    Column("state", _STATE, nullable=False),
    Column("batch_id", BigInteger, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("order_ready", Boolean(name="order_ready"), nullable=False, server_default=false()),
    # How many inserts met this row. It makes MySQL count them: an UPDATE that changes nothing would
    # look like a new row.
    Column("collisions", Integer, nullable=False, server_default="0"),
    Column("created_at", UtcMillis, nullable=False),
    Column("updated_at", UtcMillis, nullable=False),
    UniqueConstraint("activity_id", "user_id", "slot", name="uq_seckill_order_slot"),
    UniqueConstraint(
        "activity_id", "user_id", "live_request", name="uq_seckill_order_live_request"
    ),
    CheckConstraint(one_of("state", UnitState), name="state"),
    CheckConstraint("(state = 'LIVE') = (slot IS NOT NULL)", name="slot"),
    CheckConstraint("(state = 'LIVE') = (live_request IS NOT NULL)", name="live_request"),
)

# Queue entries that failed five times by an error of their own data; the buyer was refused.
DEAD_ENTRY = Table(
    "dead_entry",
    metadata,
    Column("id", BigInt, primary_key=True, autoincrement=True),
    Column("activity_id", _ACTIVITY, nullable=False),
    Column("entry_id", String(40), nullable=False),
    Column("order_id", String(64), nullable=False),
    Column("fields", Text, nullable=False),  # JSON in ASCII
    Column("reason", _TEXT, nullable=False),
    Column("deliveries", Integer, nullable=False),
    Column("created_at", UtcMillis, nullable=False),
    UniqueConstraint("activity_id", "entry_id", name="uq_dead_entry_entry_id"),
)

# Evidence: the user of the service may add rows and read them, nothing else (`paymesh migrate
# --grant-to-services`).
APPEND_ONLY = frozenset({"dead_entry"})
