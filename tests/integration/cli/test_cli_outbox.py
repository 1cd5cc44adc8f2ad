"""`paymesh outbox`: an operator finds what a receiver refused, and has it sent once more."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mesh import outbox
from mesh.clock import SystemClock
from mesh.db import Database
from mesh.errors import RemoteError
from mesh.outbox import Message
from mesh.relay import Relay, Settlement
from order_rpc.tables import metadata
from paymesh_cli import paymesh
from tests.support.databases import open_patiently

REFUSED, SENT = "EVT-refused", "EVT-sent"


class Receiver:
    """Refuses for good while `refuses` is set."""

    name = "payment_rpc"
    refuses = True

    def __init__(self) -> None:
        self.heard: list[str] = []

    async def send(self, message: Message) -> Settlement | None:
        if self.refuses and message.event_id == REFUSED:
            raise RemoteError(
                "no such refund",
                remote_reason="REFUND_NOT_FOUND",
                domain="paymesh.payment.v1",
                grpc_code=5,
            )
        self.heard.append(message.event_id)
        return None


@pytest.fixture
def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (
        "PAYMENT_RPC_DATABASE_URL",
        "ORDER_RPC_DATABASE_URL",
        "PAYMESH_DATABASE_URL",
        "PAYMESH_VAR_DIR",
    ):
        monkeypatch.delenv(name, raising=False)
    assert run(tmp_path / "var", "migrate").exit_code == 0
    return tmp_path / "var"


def run(var_dir: Path, *arguments: str) -> Result:
    return CliRunner().invoke(paymesh, [*arguments, "--var-dir", str(var_dir)])


def deliver(var_dir: Path, receiver: Receiver, *, new: bool = False) -> None:
    async def work() -> None:
        db: Database = open_patiently(f"sqlite+aiosqlite:///{var_dir}/order_rpc.db", metadata)
        long_ago = datetime.now(UTC) - timedelta(hours=1)
        if new:
            await db.run(
                outbox.put,
                *(
                    Message(
                        event_id=event_id,
                        destination="payment_rpc",
                        tag="CreateRefund",
                        aggregate_id="ORD1",
                        payload={},
                        trace_id="",
                        due_at=long_ago,
                        created_at=long_ago,
                    )
                    for event_id in (REFUSED, SENT)
                ),
            )
        await Relay(db=db, destination=receiver, clock=SystemClock()).run_once()
        await db.close()

    asyncio.run(work())


def test_a_refused_message_is_listed_and_replayed(installation: Path) -> None:
    receiver = Receiver()
    deliver(installation, receiver, new=True)
    listed = run(installation, "outbox", "list", "--state", "DEAD")
    assert listed.exit_code == 0, listed.output
    assert REFUSED in listed.output
    assert "no such refund" in listed.output
    assert SENT not in listed.output
    replayed = run(installation, "outbox", "replay", REFUSED)
    assert (replayed.exit_code, replayed.output) == (0, f"order_rpc sends {REFUSED} once more\n")
    assert "nothing" in run(installation, "outbox", "list", "--state", "DEAD").output
    assert REFUSED in run(installation, "outbox", "list").output
    receiver.refuses = False
    deliver(installation, receiver)
    assert receiver.heard == [SENT, REFUSED]
    assert "nothing" in run(installation, "outbox", "list").output


def test_only_the_services_that_are_asked_for_are_listed(installation: Path) -> None:
    deliver(installation, Receiver(), new=True)
    assert (
        SENT
        in run(installation, "outbox", "list", "--state", "DONE", "--service", "order_rpc").output
    )
    assert (
        "nothing"
        in run(installation, "outbox", "list", "--state", "DONE", "--service", "payment_rpc").output
    )


def test_an_unknown_message_is_named(installation: Path) -> None:
    result = run(installation, "outbox", "replay", "EVT-none")
    assert result.exit_code == 1
    assert "no service has a message EVT-none" in result.output
