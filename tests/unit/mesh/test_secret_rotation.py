"""Two secrets live at once while one takes over from the other: nothing that the old one signed is
refused meanwhile.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mesh.errors import PageTokenInvalid
from mesh.paging import PageTokens
from mesh.settings import MeshSettings
from payment_rpc.channels.sandbox.channel import SandboxChannel
from payment_rpc.domain.errors import SignatureInvalid
from seckill_rpc.domain.errors import TicketInvalid
from seckill_rpc.domain.ticket import Ticket, Tickets
from tests.support.sandbox_server import received

OLD, NEW, STRANGE = b"o" * 32, b"n" * 32, b"x" * 32
LIST: dict[str, Any] = {"list_name": "ListOrders", "filter": {"merchant_id": "mall"}}
TICKET = Ticket("ACT1", "mall", "mug", "alice", "r1", "ORD1", 1, 1_795_176_000_000)
NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
MILLISECONDS = str(int(NOW.timestamp() * 1000))


def test_pages_go_on_while_both_secrets_are_there(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(NEW + b"\n" + OLD + b"\n")
    both = PageTokens.from_settings(MeshSettings(page_token_secret_file=tmp_path / "secret"))
    of_old, of_both = PageTokens(OLD).encode(**LIST, key=(1,)), both.encode(**LIST, key=(2,))
    assert both.decode(of_old, **LIST, types=(int,)) == (1,)
    assert PageTokens(NEW).decode(of_both, **LIST, types=(int,)) == (2,)  # signed by the first
    with pytest.raises(PageTokenInvalid):
        PageTokens(NEW).decode(of_old, **LIST, types=(int,))
    with pytest.raises(PageTokenInvalid):
        both.decode(PageTokens(STRANGE).encode(**LIST, key=(1,)), **LIST, types=(int,))
    with pytest.raises(ValueError, match="32 bytes"):
        PageTokens(NEW, b"short")


def test_tickets_are_good_while_both_secrets_are_there() -> None:
    both = Tickets(NEW, OLD)
    assert both.read(Tickets(OLD).sign(TICKET)) == both.read(both.sign(TICKET)) == TICKET
    assert Tickets(NEW).read(both.sign(TICKET)) == TICKET
    for text in (Tickets(STRANGE).sign(TICKET), ""):
        with pytest.raises(TicketInvalid):
            both.read(text)
    with pytest.raises(ValueError, match="32 bytes"):
        Tickets(NEW, b"short")


def channel(**secrets: Any) -> SandboxChannel:
    return SandboxChannel(base_url="http://127.0.0.1:1", api_key="k", **secrets)


def callback(secret: bytes) -> dict[str, Any]:
    body = json.dumps({"kind": "payment", "attempt_id": "ATT1", "status": "PENDING"}).encode()
    signature = hmac.new(secret, MILLISECONDS.encode() + b"." + body, hashlib.sha256).hexdigest()
    return {"body": body, "timestamp": MILLISECONDS, "signature": signature, "now": NOW}


def test_callbacks_of_both_secrets_are_believed_and_of_no_third() -> None:
    both = channel(callback_secret=NEW.decode(), other_callback_secrets=[OLD.decode()])
    for secret in (OLD, NEW):
        assert received(both, **callback(secret)).attempt_id == "ATT1"
    for one in (channel(callback_secret=NEW.decode()), both):
        with pytest.raises(SignatureInvalid):
            received(one, **callback(STRANGE if one is both else OLD))


def test_hints_of_both_secrets_are_believed_and_of_no_third() -> None:
    both = channel(callback_secret="c", md5_secret=NEW.decode(), other_md5_secrets=[OLD.decode()])
    hint = {
        "payment_id": "PAY" + "0" * 26,
        "callback_status": "SUCCESS",
        "timestamp": MILLISECONDS,
        "nonce": "a" * 32,
    }
    text = hint["callback_status"] + hint["nonce"] + hint["payment_id"] + hint["timestamp"]

    def signed(secret: bytes) -> str:
        return hashlib.md5(text.encode() + secret, usedforsecurity=False).hexdigest().upper()

    for secret in (OLD, NEW):
        both.verify_hint(**hint, signature=signed(secret), now=NOW)
    with pytest.raises(SignatureInvalid):
        both.verify_hint(**hint, signature=signed(STRANGE), now=NOW)
    with pytest.raises(SignatureInvalid):
        channel(callback_secret="c", md5_secret=NEW.decode()).verify_hint(
            **hint, signature=signed(OLD), now=NOW
        )
