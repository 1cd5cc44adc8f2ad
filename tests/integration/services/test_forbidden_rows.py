"""Each CHECK of the tables refuses a row that breaks it, on every database, whatever the code above
it does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import CheckConstraint, Connection, MetaData, Table, update
from sqlalchemy.exc import DBAPIError

import merchant_rpc.tables
import order_rpc.tables
import payment_rpc.tables
import seckill_rpc.tables
from mesh import migrations
from mesh.db.violations import violated_constraint
from tests.builders.old_rows import LATER, ROWS, THEN, fill, run

SERVICES = {
    "payment_rpc": payment_rpc.tables.metadata,
    "order_rpc": order_rpc.tables.metadata,
    "seckill_rpc": seckill_rpc.tables.metadata,
    "merchant_rpc": merchant_rpc.tables.metadata,
}

# What makes the first row of each table in ROWS break that rule, and no other.
FORBIDDEN: dict[str, dict[str, Any]] = {
    "ck_activity_limit_per_user": {"limit_per_user": 0},
    "ck_activity_mode": {"mode": "X"},
    "ck_activity_open_slot": {"open_slot": None},
    "ck_activity_price": {"price_minor": -1},
    "ck_activity_sold": {"sold": 4},
    "ck_activity_state": {"state": "X"},
    "ck_activity_total": {"total": 4},
    "ck_activity_window": {"ends_at": THEN},
    "ck_allocation_returned": {"returned": 4},
    "ck_api_key_kind": {"kind": "X"},
    "ck_attempt_asked": {"next_query_at": LATER},
    "ck_attempt_capture": {"capture_id": "CAP1"},
    "ck_attempt_capture_cap": {
        "state": "AUTHORIZED",
        "next_query_at": LATER,
        "captured_minor": 10**12,
    },
    "ck_attempt_captured": {"captured_minor": None},
    "ck_attempt_state": {"state": "X", "captured_minor": None},
    "ck_attempt_surplus": {"surplus_minor": -1},
    "ck_channel_account_change_step": {"step": "X"},
    "ck_channel_account_mode": {"mode": "X"},
    "ck_channel_account_slots": {"provider_slot": None},
    "ck_channel_account_state": {"state": "X"},
    "ck_channel_account_version": {"version": 0},
    "ck_channel_callback_deliveries": {"deliveries": 0},
    "ck_channel_callback_finished": {"finished_at": None},
    "ck_channel_callback_kind": {"kind": "X"},
    "ck_channel_callback_payload_encoding": {"payload_encoding": "X"},
    "ck_channel_callback_result": {"result": "X"},
    "ck_channel_callback_unverified": {"signature_valid": False},
    "ck_external_order_erased": {"erased_at": THEN, "customer": '{"customer_name":"Li"}'},
    "ck_ledger_posting_amount": {"amount_minor": 0},
    "ck_ledger_posting_side": {"side": "X"},
    "ck_log_chain_purged": {"purged": 2},
    "ck_login_failure_failures": {"failures": -1},
    "ck_member_state": {"state": "X"},
    "ck_membership_role": {"role": "X"},
    "ck_merchant_setting_version": {"version": 0},
    "ck_merchant_state": {"state": "X"},
    "ck_merchant_state_before": {"state_before": "TEST_ONLY"},
    "ck_merchant_test_is_never_live": {"is_test": True},
    "ck_merchant_versions": {"version": 0},
    "ck_one_time_link_kind": {"kind": "X"},
    "ck_order_gate_state": {"state": "X"},
    "ck_order_item_amount": {"amount_minor": 999},
    "ck_order_item_quantity": {"quantity": 0, "amount_minor": 0},
    "ck_order_item_stock_source": {"stock_source": "X"},
    "ck_orders_amount": {"amount_minor": -1},
    "ck_orders_external_buyer": {"kind": "EXTERNAL"},
    "ck_orders_held": {"held_payment_id": "PAY1"},
    "ck_orders_kind": {"kind": "X"},
    "ck_orders_money": {"refunded_minor": -1},
    "ck_orders_paid_at": {"state": "CANCELLED"},
    "ck_orders_paid_payment_id": {"state": "CANCELLED", "paid_at": None},
    "ck_orders_parts": {"shipping_minor": -1},
    "ck_orders_refund_status": {"refund_status": "X"},
    "ck_orders_refunded": {"refunded_minor": 1001},
    "ck_orders_state": {"state": "X"},
    "ck_outbox_state": {"state": "X"},
    "ck_payment_amount": {"amount_minor": 0, "captured_minor": 0},
    "ck_payment_authorized": {"state": "AUTHORIZED"},
    "ck_payment_capture_mode": {"capture_mode": "X"},
    "ck_payment_captured": {"captured_minor": 999},
    "ck_payment_disposition_disposition": {"disposition": "NOTED"},
    "ck_payment_not_negative": {"refund_reserved_minor": -1},
    "ck_payment_refund_cap": {"refunded_minor": 1001},
    "ck_payment_slot": {"live_slot": 2},
    "ck_payment_state": {"state": "X", "live_slot": None},
    "ck_product_price": {"price_minor": -1},
    "ck_receipt_state": {"state": "X"},
    "ck_refund_amount": {"amount_minor": 0},
    "ck_refund_asked": {"next_query_at": LATER},
    "ck_refund_line_quantity": {"quantity": 0},
    "ck_refund_request_amount": {"amount_minor": -1},
    "ck_refund_request_state": {"state": "X"},
    "ck_refund_state": {"state": "X"},
    "ck_reservation_quantity": {"quantity": 0},
    "ck_reservation_state": {"state": "X"},
    "ck_scan_action_action": {"action": "X"},
    "ck_scan_action_duration": {"duration_ms": -1},
    "ck_seckill_order_live_request": {"live_request": None},
    "ck_seckill_order_slot": {"slot": None},
    "ck_seckill_order_state": {"state": "X", "slot": None, "live_request": None},
    "ck_session_idle_expires_at": {"idle_expires_at": LATER + 1},
    "ck_session_rotation": {"rotation": 0},
    "ck_statement_difference_resolved": {"resolved_at": LATER},
    "ck_statement_difference_state": {"state": "X"},
    "ck_statement_import_state": {"state": "X"},
    "ck_statistic_figure": {"figure": "X"},
    "ck_stock_allocated": {"allocated": -1},
    "ck_stock_available": {"available": -1},
    "ck_stock_movement_kind": {"kind": "X"},
    "ck_stock_reserved": {"reserved": -1},
    "ck_stock_return_quantity": {"quantity": 0},
    "ck_stock_sold": {"sold": -1},
    "ck_wallet_balance": {"balance_minor": -1},
    "ck_wallet_entry_amount": {"amount_minor": -70},
    "ck_wallet_entry_balance_after": {"balance_after_minor": -1},
}


def checks_of(service: str) -> dict[str, str]:
    """The names of a service's CHECKs and their tables."""
    return {
        str(check.name): table.name
        for table in SERVICES[service].sorted_tables
        for check in table.constraints
        if isinstance(check, CheckConstraint)
    }


def refused_by(connection: Connection, service: str, table: Table, values: dict[str, Any]) -> str:
    """The name of the constraint that refuses to change the first row of a table so; "" when the
    database takes it.
    """
    first = ROWS[table.name][0]
    is_first = [
        table.c[name] == value
        for name, value in first.items()
        if name in table.c and value is not None
    ]
    try:
        with connection.begin_nested():
            changed = connection.execute(update(table).where(*is_first).values(values)).rowcount
    except DBAPIError as error:
        return violated_constraint(error, SERVICES[service])
    assert changed == 1, f"no such row: {first}"
    return ""


def test_every_rule_of_the_tables_has_a_row_that_breaks_it() -> None:
    assert set(FORBIDDEN) == {name for service in SERVICES for name in checks_of(service)}


@pytest.mark.parametrize("service", SERVICES)
def test_a_row_that_breaks_a_rule_is_refused_by_the_database_under_the_name_of_the_rule(
    database_url_factory: Callable[[], str], service: str
) -> None:
    url = database_url_factory()
    migrations.upgrade(service, url)

    def refusals(connection: Connection) -> dict[str, str]:
        fill(connection)
        found = MetaData()
        found.reflect(connection)
        return {
            name: refused_by(connection, service, found.tables[table], FORBIDDEN[name])
            for name, table in checks_of(service).items()
        }

    assert run(url, refusals) == {name: name for name in checks_of(service)}
