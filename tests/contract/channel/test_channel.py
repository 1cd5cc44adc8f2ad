"""The channel contract: payment_rpc's adapter against the real sandbox over a real socket."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from mesh.errors import PermissionDenied
from mesh.money import Money
from payment_rpc.channels.sandbox.channel import SandboxChannel
from payment_rpc.domain.callback import Subject
from payment_rpc.domain.errors import (
    ChannelUnavailable,
    PaymentNotFound,
    PaymentStateInvalid,
    SignatureInvalid,
)
from payment_rpc.domain.facts import ChannelFact, ChannelStatus
from sandbox.cards import SLOW_CARD
from sandbox.signatures import sign_hint
from tests.support.fakes import FakeClock
from tests.support.processes import Processes
from tests.support.sandbox_server import (
    API_KEY,
    CALLBACK_SECRET,
    MD5_SECRET,
    PATIENCE,
    PRICE,
    VECTOR,
    VECTOR_AT,
    Receiver,
    RunningSandbox,
    adapter_to,
    cashier_url,
    charge,
    checkout,
    http_answer,
    running_sandbox,
)
from tools.processes import free_port

# Charges


async def test_a_good_card_captures_the_amount(channel: SandboxChannel, clock: FakeClock) -> None:
    fact = await charge(channel)
    assert fact == ChannelFact(
        attempt_id="ATT1",
        status=ChannelStatus.CAPTURED,
        amount=PRICE,
        trade_no=fact.trade_no,
        message="captured",
        occurred_at=clock.now(),
        fee=Money(60, "CNY"),
    )
    assert fact.trade_no.startswith("SBX")
    assert len(fact.trade_no) <= 32
    assert await channel.query("ATT1", timeout_seconds=PATIENCE) == fact


@pytest.mark.parametrize(
    ("number", "status", "reason"),
    [
        ("4000000000000002", ChannelStatus.DECLINED, "CARD_DECLINED"),
        ("4000000000009995", ChannelStatus.DECLINED, "INSUFFICIENT_FUNDS"),
        ("4000000000000069", ChannelStatus.DECLINED, "CARD_DECLINED"),
        ("4000000000000127", ChannelStatus.DECLINED, "CARD_DECLINED"),
        ("4242424242424241", ChannelStatus.DECLINED, "CARD_DECLINED"),
        ("4000000000000119", ChannelStatus.FAILED, "CHANNEL_FAILED"),
    ],
)
async def test_a_bad_card_moves_nothing_and_says_why(
    channel: SandboxChannel, number: str, status: ChannelStatus, reason: str
) -> None:
    fact = await charge(channel, number=number)
    assert (fact.status, fact.reason, fact.amount) == (status, reason, PRICE)
    assert fact.message
    assert await channel.query("ATT1", timeout_seconds=PATIENCE) == fact


@pytest.mark.parametrize("amount", [Money(1, "JPY"), Money(12345, "KWD"), Money(10**15 - 1, "CNY")])
async def test_amounts_survive_the_wire_in_every_exponent(
    channel: SandboxChannel, amount: Money
) -> None:
    assert (await charge(channel, amount=amount)).amount == amount


async def test_the_same_attempt_again_gives_the_first_answer_whatever_the_card(
    channel: SandboxChannel, running: RunningSandbox
) -> None:
    first = await charge(channel)
    assert await charge(channel) == first
    assert await charge(channel, number="4000000000000002") == first
    assert len((await running.listed())["transactions"]) == 1


async def test_fifty_equal_charges_at_once_capture_once(
    channel: SandboxChannel, running: RunningSandbox
) -> None:
    facts = await asyncio.gather(*(charge(channel) for _ in range(50)))
    assert len(set(facts)) == 1
    assert [row["status"] for row in (await running.listed())["transactions"]] == ["CAPTURED"]


@pytest.mark.parametrize("amount", [Money(9998, "CNY"), Money(9999, "USD")])
async def test_the_same_attempt_with_another_amount_is_unknown_and_changes_nothing(
    channel: SandboxChannel, amount: Money
) -> None:
    first = await charge(channel)
    assert (await charge(channel, amount=amount)).status is ChannelStatus.UNKNOWN
    assert await channel.query("ATT1", timeout_seconds=PATIENCE) == first


async def test_a_checkout_and_a_charge_do_not_share_an_attempt(
    channel: SandboxChannel, running: RunningSandbox, clock: FakeClock
) -> None:
    opened = await checkout(channel, clock)
    assert (
        await checkout(channel, clock, amount=Money(9998, "CNY"))
    ).status is ChannelStatus.UNKNOWN
    assert (await charge(channel)).status is ChannelStatus.UNKNOWN
    assert await channel.query("ATT1", timeout_seconds=PATIENCE) == opened
    assert len((await running.listed())["transactions"]) == 1


async def test_a_charge_after_its_deadline_never_captures(
    channel: SandboxChannel, clock: FakeClock
) -> None:
    fact = await charge(channel, expires_at=clock.now())
    assert (fact.status, fact.reason) == (ChannelStatus.CLOSED, "PAYMENT_CLOSED")


async def test_the_slow_card_has_captured_before_its_answer_comes(
    tmp_path: Path, clock: FakeClock
) -> None:
    asked: list[float] = []
    released = asyncio.Event()

    async def sleep(seconds: float) -> None:
        asked.append(seconds)
        await released.wait()

    async with running_sandbox(tmp_path, clock=clock, sleep=sleep, slow_seconds=15) as running:
        channel = running.channel()
        fact = await charge(channel, number=SLOW_CARD, timeout_seconds=0.6)
        assert (fact.status, fact.amount, asked) == (ChannelStatus.UNKNOWN, None, [15])
        known = await channel.query("ATT1", timeout_seconds=PATIENCE)
        assert (known.status, known.amount) == (ChannelStatus.CAPTURED, PRICE)
        assert await charge(channel, number=SLOW_CARD) == known  # a repetition is not slow
        released.set()
        await channel.aclose()


async def test_an_id_that_the_channel_never_saw_is_not_found(channel: SandboxChannel) -> None:
    assert await channel.query("ATT1", timeout_seconds=PATIENCE) == ChannelFact(
        attempt_id="ATT1", status=ChannelStatus.NOT_FOUND
    )


# Closing


@pytest.mark.parametrize("is_checkout", [False, True])
async def test_a_tombstone_keeps_a_late_request_from_capturing(
    channel: SandboxChannel, running: RunningSandbox, clock: FakeClock, is_checkout: bool
) -> None:
    closed = await channel.close("ATT1", timeout_seconds=PATIENCE)
    assert (closed.status, closed.reason, closed.amount) == (
        ChannelStatus.CLOSED,
        "PAYMENT_CLOSED",
        None,
    )
    late = await (checkout(channel, clock) if is_checkout else charge(channel))
    assert late == closed
    assert late.next_action is None
    assert await channel.query("ATT1", timeout_seconds=PATIENCE) == closed
    assert await channel.close("ATT1", timeout_seconds=PATIENCE) == closed
    assert [row["status"] for row in (await running.listed())["transactions"]] == ["CLOSED"]


@pytest.mark.parametrize("number", ["4242424242424242", "4000000000000002", "4000000000000119"])
async def test_closing_what_ended_before_tells_how_it_ended(
    channel: SandboxChannel, number: str
) -> None:
    ended = await charge(channel, number=number)
    assert await channel.close("ATT1", timeout_seconds=PATIENCE) == ended


async def test_a_closed_checkout_cannot_be_paid(
    channel: SandboxChannel, person: httpx.AsyncClient, clock: FakeClock
) -> None:
    url = cashier_url(await checkout(channel, clock))
    assert (await channel.close("ATT1", timeout_seconds=PATIENCE)).status is ChannelStatus.CLOSED
    assert "This payment was cancelled" in (await person.post(f"{url}/pay")).text
    assert (await channel.query("ATT1", timeout_seconds=PATIENCE)).status is ChannelStatus.CLOSED


async def test_pay_and_close_at_once_agree_on_one_end(
    channel: SandboxChannel, person: httpx.AsyncClient, clock: FakeClock
) -> None:
    for number in range(20):
        attempt_id = f"ATT{number}"
        url = cashier_url(await checkout(channel, clock, attempt_id))
        closing, _ = await asyncio.gather(
            channel.close(attempt_id, timeout_seconds=PATIENCE), person.post(f"{url}/pay")
        )
        assert await channel.query(attempt_id, timeout_seconds=PATIENCE) == closing
        assert closing.status in {ChannelStatus.CLOSED, ChannelStatus.CAPTURED}


# Signatures on request, and the hint of source 001


@pytest.mark.parametrize(
    ("callback_status", "signature", "status"),
    [
        ("SUCCESS", "3B69D03EC12E2DE9C77777CC45944C50", ChannelStatus.CAPTURED),
        ("FAILED", "CA819D5163EBF2441482804A39F7B642", ChannelStatus.DECLINED),
    ],
)
async def test_asking_for_a_signature_makes_the_outcome_true(
    channel: SandboxChannel,
    clock: FakeClock,
    callback_status: str,
    signature: str,
    status: ChannelStatus,
) -> None:
    await checkout(channel, clock)
    for _ in range(2):  # asking twice is asking once
        assert (
            await channel.sign(
                attempt_id="ATT1",
                callback_status=callback_status,
                timeout_seconds=PATIENCE,
                **VECTOR,
            )
            == signature
        )
    assert (await channel.query("ATT1", timeout_seconds=PATIENCE)).status is status
    channel.verify_hint(
        callback_status=callback_status, signature=signature, now=VECTOR_AT, **VECTOR
    )
    other = "FAILED" if callback_status == "SUCCESS" else "SUCCESS"
    with pytest.raises(PaymentStateInvalid):
        await channel.sign(
            attempt_id="ATT1", callback_status=other, timeout_seconds=PATIENCE, **VECTOR
        )
    assert (await channel.query("ATT1", timeout_seconds=PATIENCE)).status is status


@pytest.mark.parametrize(
    ("number", "signed", "refused"),
    [
        ("4242424242424242", "SUCCESS", "FAILED"),
        ("4000000000000002", "FAILED", "SUCCESS"),
        ("4000000000000119", "FAILED", "SUCCESS"),
    ],
)
async def test_what_ended_before_is_signed_as_it_ended_only(
    channel: SandboxChannel, number: str, signed: str, refused: str
) -> None:
    ended = await charge(channel, number=number)
    await channel.sign(
        attempt_id="ATT1", callback_status=signed, timeout_seconds=PATIENCE, **VECTOR
    )
    with pytest.raises(PaymentStateInvalid):
        await channel.sign(
            attempt_id="ATT1", callback_status=refused, timeout_seconds=PATIENCE, **VECTOR
        )
    assert await channel.query("ATT1", timeout_seconds=PATIENCE) == ended


async def test_a_tombstone_is_signed_neither_way(channel: SandboxChannel) -> None:
    await channel.close("ATT1", timeout_seconds=PATIENCE)
    for callback_status in ("SUCCESS", "FAILED"):
        with pytest.raises(PaymentStateInvalid):
            await channel.sign(
                attempt_id="ATT1",
                callback_status=callback_status,
                timeout_seconds=PATIENCE,
                **VECTOR,
            )


async def test_nothing_is_signed_for_an_unknown_attempt_or_a_malformed_request(
    channel: SandboxChannel, clock: FakeClock
) -> None:
    with pytest.raises(PaymentNotFound):
        await channel.sign(
            attempt_id="ATT1", callback_status="SUCCESS", timeout_seconds=PATIENCE, **VECTOR
        )
    await checkout(channel, clock)
    for changes in (
        {"callback_status": "SUCCESSa"},
        {"timestamp": "170406720000"},
        {"nonce": "0abc123"},
        {"payment_id": "a b"},
    ):
        with pytest.raises(ChannelUnavailable):
            await channel.sign(
                attempt_id="ATT1",
                timeout_seconds=PATIENCE,
                **{"callback_status": "SUCCESS", **VECTOR, **changes},
            )
    assert (await channel.query("ATT1", timeout_seconds=PATIENCE)).status is ChannelStatus.PENDING


async def test_signatures_on_request_can_be_switched_off(tmp_path: Path, clock: FakeClock) -> None:
    async with running_sandbox(tmp_path, clock=clock, allow_signatures=False) as running:
        channel = running.channel()
        await checkout(channel, clock)
        with pytest.raises(PermissionDenied):
            await channel.sign(
                attempt_id="ATT1", callback_status="SUCCESS", timeout_seconds=PATIENCE, **VECTOR
            )
        assert (
            await channel.query("ATT1", timeout_seconds=PATIENCE)
        ).status is ChannelStatus.PENDING
        await channel.aclose()


@pytest.mark.parametrize(
    "shifted",
    [
        # anything but SUCCESS was a failure in source 001
        {"callback_status": "SUCCESSa", "nonce": "bc123"},
        {"callback_status": "SUCCES", "nonce": "Sabc123"},
        {"nonce": "", "payment_id": "abc123PAY202401011234567890"},
        {"nonce": "abc123PAY202401011234567890", "payment_id": ""},
        {"payment_id": "PAY2024010112345678901", "timestamp": "704067200000"},
        {"payment_id": "PAY20240101123456789", "timestamp": "01704067200000"},
    ],
)
def test_the_shift_attack_has_the_same_digest_and_is_refused(
    adapter: SandboxChannel, shifted: dict[str, str]
) -> None:
    genuine = {"callback_status": "SUCCESS", **VECTOR}
    signature = "3B69D03EC12E2DE9C77777CC45944C50"
    adapter.verify_hint(signature=signature, now=VECTOR_AT, **genuine)
    attack = {**genuine, **shifted}
    assert sign_hint(MD5_SECRET, **attack) == signature
    with pytest.raises(SignatureInvalid):
        adapter.verify_hint(signature=signature, now=VECTOR_AT, **attack)


@pytest.mark.parametrize(
    "signature",
    [
        "",
        "3b69d03ec12e2de9c77777cc45944c50",
        "CA819D5163EBF2441482804A39F7B642",
        "3B69",
        "Ü",
        "\ud800",
    ],
)
def test_a_wrong_hint_signature_is_refused(adapter: SandboxChannel, signature: str) -> None:
    with pytest.raises(SignatureInvalid):
        adapter.verify_hint(callback_status="SUCCESS", signature=signature, now=VECTOR_AT, **VECTOR)


@pytest.mark.parametrize(
    "changes",
    [
        {"callback_status": "SUCCESS", "signature": "3B69D03EC12E2DE9C77777CC45944C50"},
        {"callback_status": "FAILED", "signature": "CA819D5163EBF2441482804A39F7B642"},
        # refunds: the same rule
        {
            "callback_status": "SUCCESS",
            "signature": "ABBDB55DACFAD5A10BD8922BE2788649",
            "payment_id": "RF202401011234567890",
        },
    ],
)
def test_the_vectors_of_source_001_are_good_for_five_minutes(
    adapter: SandboxChannel, clock: FakeClock, changes: dict[str, str]
) -> None:
    vector = {**VECTOR, **changes}
    for is_fresh, shifts_seconds in ((True, (0, 300, -300)), (False, (300.001, -300.001, 10**8))):
        for seconds in shifts_seconds:
            clock.set(VECTOR_AT)
            clock.advance(seconds)
            if is_fresh:
                adapter.verify_hint(now=clock.now(), **vector)
            else:
                with pytest.raises(SignatureInvalid, match="5 minutes off"):
                    adapter.verify_hint(now=clock.now(), **vector)


def test_a_hint_keeps_the_id_of_source_001_for_people_who_look_for_it(
    adapter: SandboxChannel,
) -> None:
    assert adapter.subject_of_hint(**VECTOR) == Subject(
        event_id="9f9f30af6942c13186fe5c1e06e8e0b9", payment_id="PAY202401011234567890"
    )
    shifted = {**VECTOR, "timestamp": "170406720000", "nonce": "0abc123"}
    # so it is no key
    assert adapter.subject_of_hint(**shifted) == adapter.subject_of_hint(**VECTOR)


# As a process


async def test_kill_minus_nine_loses_neither_a_capture_nor_its_callback(
    processes: Processes, tmp_path: Path, receiver: Receiver
) -> None:
    key_file, callback_file = tmp_path / "api.secret", tmp_path / "callback.secret"
    key_file.write_text(API_KEY)
    callback_file.write_text(CALLBACK_SECRET)
    port = free_port()
    env = {
        "SANDBOX_PORT": str(port),
        "SANDBOX_API_KEY_FILE": str(key_file),
        "SANDBOX_CALLBACK_SECRET_FILE": str(callback_file),
        "SANDBOX_VAR_DIR": str(tmp_path / "var"),
        "SANDBOX_CALLBACK_URL": receiver.url,
        "SANDBOX_CALLBACK_RETRY_SECONDS": "[0.2, 0.2]",
    }
    receiver.answers = [http_answer(b"not yet", status="503 Service Unavailable")]
    process = processes.module("sandbox", env=env)
    await asyncio.to_thread(process.wait_for_http, f"http://127.0.0.1:{port}/healthz")
    channel = adapter_to(f"http://127.0.0.1:{port}")
    paid = await charge(channel)
    assert paid.status is ChannelStatus.CAPTURED
    await asyncio.to_thread(process.kill)
    doubt = await channel.query("ATT1", timeout_seconds=PATIENCE)
    assert doubt.status is ChannelStatus.UNKNOWN

    again = processes.module("sandbox", env=env, name="sandbox-again")
    await asyncio.to_thread(again.wait_for_http, f"http://127.0.0.1:{port}/healthz")
    assert await charge(channel) == paid
    await asyncio.to_thread(
        again.wait_for, lambda: len(receiver.requests) >= 2, "callback after the restart"
    )
    assert len(set(receiver.bodies())) == 1
    assert again.terminate() == 0
    assert "4242424242424242" not in process.log_text() + again.log_text()
    await channel.aclose()


def test_a_bad_setting_ends_the_process_with_its_name_and_without_its_value(
    processes: Processes, tmp_path: Path
) -> None:
    process = processes.module(
        "sandbox", env={"SANDBOX_SLOW_SECONDS": "hurry-4711", "SANDBOX_VAR_DIR": str(tmp_path)}
    )
    assert process.wait() == 1
    assert "SANDBOX_SLOW_SECONDS" in process.log_text()
    assert "SANDBOX_API_KEY_FILE" in process.log_text()
    assert "hurry-4711" not in process.log_text()
