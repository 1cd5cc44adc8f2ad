"""`paymesh audit` as a person runs it: a table and an exit code."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from paymesh_cli import paymesh
from paymesh_cli.supervisor.redis_server import redis_config

VIOLATED = 1
CANNOT_TELL = 2


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "PAYMENT_RPC_DATABASE_URL",
        "ORDER_RPC_DATABASE_URL",
        "PAYMESH_DATABASE_URL",
        "PAYMENT_RPC_SANDBOX_URL",
        "PAYMENT_RPC_SANDBOX_API_KEY_FILE",
        "PAYMESH_VAR_DIR",
        "PAYMESH_REDIS_URL",
        "PAYMENT_RPC_REDIS_URL",
        "ORDER_RPC_REDIS_URL",
    ):
        monkeypatch.delenv(name, raising=False)


def run(tmp_path: Path, *arguments: str) -> Result:
    return CliRunner().invoke(paymesh, [*arguments, "--var-dir", str(tmp_path / "var")])


def test_an_installation_of_which_everything_holds(tmp_path: Path) -> None:
    assert run(tmp_path, "migrate").exit_code == 0
    for arguments in (("audit",), ("audit", "--strict")):
        result = run(tmp_path, *arguments)
        assert result.exit_code == 0, result.output
        assert "everything holds" in result.output
        assert "the channel was not compared" in result.output


def test_an_installation_where_a_unit_is_missing(tmp_path: Path) -> None:
    run(tmp_path, "migrate")
    with sqlite3.connect(tmp_path / "var" / "order_rpc.db") as database:
        database.execute(
            "INSERT INTO product (merchant_id, sku_id, name, price_minor, currency, "
            "first_available, on_sale, created_at, updated_at) "
            "VALUES ('mall', 'mug', 'Mug', 500, 'CNY', 10, 1, 0, 0)"
        )
        database.execute(
            "INSERT INTO stock (merchant_id, sku_id, available, reserved, sold, allocated) VALUES "
            "('mall', 'mug', 8, 1, 1, 0)"
        )
    database.close()
    result = run(tmp_path, "audit")
    assert result.exit_code == VIOLATED
    assert "1 units are reserved, orders reserve 0" in result.output
    assert "8 units may be bought, its movements and what orders hold leave 0" in result.output
    assert "3 things do not hold" in result.output


def test_events_that_wait_for_a_redis_are_counted_and_late_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, "migrate")
    with sqlite3.connect(tmp_path / "var" / "payment_rpc.db") as database:
        database.execute(
            "INSERT INTO outbox (event_id, destination, tag, aggregate_id, payload, trace_id, "
            "state, due_at, attempts, last_error, "
            "created_at) VALUES ('EVT1', 'stream:PAYMENT_TOPIC', 'PAYMENT_SUCCEEDED', 'PAY1', "
            "'{}', '', 'NEW', 0, 0, '', 0)"
        )
    database.close()
    for arguments in (("audit",), ("audit", "--strict")):
        result = run(tmp_path, *arguments)
        assert result.exit_code == 0, result.output
        assert "1 events of payment_rpc wait in its outbox" in result.output
        assert "order_rpc" not in result.output
    config = redis_config(tmp_path / "var" / "redis")  # a mesh with a Redis of its own ran here
    config.touch()
    found_here = run(tmp_path, "audit")
    config.unlink()
    monkeypatch.setenv("PAYMESH_REDIS_URL", "redis://127.0.0.1:6379/0")
    for result in (found_here, run(tmp_path, "audit")):
        assert result.exit_code == VIOLATED
        assert "outbox_late" in result.output
        assert "wait in its outbox" not in result.output


def test_without_a_database_nothing_is_proved(tmp_path: Path) -> None:
    result = run(tmp_path, "audit")
    assert result.exit_code == CANNOT_TELL
    assert "cannot tell" in result.output


def test_without_the_channel_nothing_is_proved_of_it_and_what_was_found_is_shown(
    tmp_path: Path, free_port: int
) -> None:
    run(tmp_path, "migrate")
    with sqlite3.connect(tmp_path / "var" / "payment_rpc.db") as database:
        database.execute(
            "INSERT INTO receipt (merchant_id, caller, method, idempotency_key, state, "
            "fingerprint, resource_id, created_at, "
            "expires_at) VALUES ('mall', 'mall/u1', 'Charge', 'k', 'DONE', '{}', 'PAYnone', 0, 0)"
        )
    database.close()
    result = run(tmp_path, "audit", "--sandbox-url", f"http://127.0.0.1:{free_port}")
    assert result.exit_code == CANNOT_TELL
    assert "the sandbox at" in result.output
    assert "receipt_of_something" in result.output


def test_the_help_says_that_the_channel_is_asked() -> None:
    assert "asks the channel by HTTP" in " ".join(
        CliRunner().invoke(paymesh, ["audit", "--help"]).output.split()
    )
