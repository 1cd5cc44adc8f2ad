"""The log of callbacks: what came is written down with what became of it, an event counts once
whatever comes at once or dies in between, and what nobody believed neither stands in a genuine
one's way nor fills the disk."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from datetime import timedelta
from typing import Any

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import delete, update

from mesh import failpoints
from mesh.audit import AuditTolerance
from mesh.db import ConstraintViolated
from mesh.errors import InvalidArgument, RateLimited
from mesh.failpoints import FailpointRaised
from mesh.outbox import OUTBOX
from payment_rpc.audit.checks import violations
from payment_rpc.channels.inbound import Inbound
from payment_rpc.channels.sandbox.channel import SandboxChannel
from payment_rpc.domain.callback import (
    BODY_BYTES_KEPT,
    BODY_BYTES_MAX,
    OTHER_RETENTION,
    UNVERIFIED_BYTES_KEPT,
    VERIFIED_RETENTION,
    CallbackResult,
    Subject,
)
from payment_rpc.domain.errors import PaymentNotFound, SignatureInvalid
from payment_rpc.domain.payment import PaymentState
from payment_rpc.tables import ATTEMPT, CHANNEL_CALLBACK, LEDGER_TRANSACTION, PAYMENT
from payment_rpc.usecases.callback_log import UNVERIFIED_BURST, UNVERIFIED_EVERY, rate_limiter
from payment_rpc.usecases.callback_questions import UNFINISHED_AFTER
from sandbox.signatures import sign_callback
from tests.builders.audit import in_this_order, told
from tests.builders.payment import PaymentWorld
from tests.builders.payment_steps import (
    callback,
    deliver,
    hint,
    millis,
    refund,
    signed,
    waiting,
)
from tests.support.sandbox_server import CALLBACK_SECRET, inbound

R = CallbackResult
S = PaymentState
# for what the database has no part in
ON_SQLITE = pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
UNKEYED = (False, None, "FAILED")


async def logged(world: PaymentWorld) -> list[dict[str, Any]]:
    return await world.rows(CHANNEL_CALLBACK)


async def results(world: PaymentWorld) -> list[tuple[bool, str, int]]:
    """(believed, result, deliveries) of everything that came."""
    return [
        (bool(row["signature_valid"]), row["result"], row["deliveries"])
        for row in await logged(world)
    ]


async def forge(world: PaymentWorld, body: bytes, *, timestamp: str = "") -> None:
    with pytest.raises(SignatureInvalid):
        await world.app.callbacks.handle_callback(
            channel="sandbox",
            inbound=inbound(body=body, timestamp=timestamp or millis(world), signature="0" * 64),
        )


async def findings(world: PaymentWorld) -> list[str]:
    """What `paymesh audit` says of callbacks."""
    found = [
        violation
        async for violation in violations(
            world.db, AuditTolerance(now=world.clock.now(), strict=False)
        )
    ]
    return [violation.check for violation in found if violation.check.startswith("callback")]


async def events(world: PaymentWorld) -> list[str]:
    return [
        row["tag"] for row in await world.rows(OUTBOX) if row["destination"].startswith("stream:")
    ]


# An event counts once


async def test_a_hundred_equal_callbacks_at_once_are_one_that_counts_and_ninety_nine_that_are_ignored(
    world: PaymentWorld,
) -> None:
    payment, attempt_id = await waiting(world)
    answers = await asyncio.gather(*(deliver(world, callback(attempt_id)) for _ in range(100)))
    assert sorted(answers) == [R.IGNORED] * 99 + [R.PROCESSED]
    assert await results(world) == [(True, "PROCESSED", 100)]
    assert (await world.payment(payment.payment_id)).version == payment.version + 1
    assert (
        len(await world.rows(LEDGER_TRANSACTION)),
        await events(world),
        await world.ledger_problems(),
    ) == (1, ["PAYMENT_SUCCEEDED"], [])


async def test_successes_and_failures_at_once_end_as_one_success(world: PaymentWorld) -> None:
    for number, mixed in enumerate((["CAPTURED", "DECLINED"] * 5, ["DECLINED", "CAPTURED"] * 5), 1):
        payment, attempt_id = await waiting(world)
        # under one event id: a channel that contradicts itself is heard both times
        answers = await asyncio.gather(
            *(
                deliver(world, callback(attempt_id, status=status, trade_no=f"SBX{number}"))
                for status in mixed
            )
        )
        assert answers[mixed.index("CAPTURED") :: 2].count(R.PROCESSED) == 1
        assert answers[mixed.index("DECLINED") :: 2].count(R.PROCESSED) <= 1
        final = await world.payment(payment.payment_id)
        assert (final.state in (S.SUCCESS, S.LATE_SUCCESS), final.captured) == (
            True,
            payment.amount,
        )
        assert (len(await world.rows(LEDGER_TRANSACTION)), await world.ledger_problems()) == (
            number,
            [],
        )
        assert [row["deliveries"] for row in await logged(world)] == [5, 5] * number


async def test_a_success_is_not_lost_whether_it_comes_before_or_after_a_failure(
    world: PaymentWorld,
) -> None:
    for number, statuses in enumerate((("CAPTURED", "DECLINED"), ("DECLINED", "CAPTURED")), 1):
        payment, attempt_id = await waiting(world)
        for status in statuses:
            await deliver(world, callback(attempt_id, status=status, trade_no=f"SBX{number}"))
        final = await world.payment(payment.payment_id)
        assert (final.state, final.captured) == (
            S.SUCCESS if statuses[0] == "CAPTURED" else S.LATE_SUCCESS,
            payment.amount,
        )
        assert len(await world.rows(LEDGER_TRANSACTION)) == number


async def test_callbacks_of_many_payments_at_once_do_not_stand_in_each_others_way(
    world: PaymentWorld,
) -> None:
    attempt_ids = [(await waiting(world))[1] for _ in range(6)]
    answers = await asyncio.gather(
        *(
            deliver(
                world,
                callback(attempt_id, event_id=f"EVT{attempt_id}", trade_no=f"SBX{attempt_id}"),
            )
            for attempt_id in attempt_ids * 4
        )
    )
    assert sorted(answers) == [R.IGNORED] * 18 + [R.PROCESSED] * 6
    assert await results(world) == [(True, "PROCESSED", 4)] * 6
    assert await world.ledger_problems() == []


async def test_a_row_says_what_came_and_what_it_was_about_and_no_secret(
    world: PaymentWorld,
) -> None:
    payment, attempt_id = await waiting(world)
    body, now = callback(attempt_id, message="bezahlt — 已支付"), millis(world)
    signature = sign_callback(CALLBACK_SECRET, timestamp=now, body=body)
    await deliver(world, body, timestamp=now)
    [row] = await logged(world)
    assert row["payload"].encode() == body
    expected = {
        "channel": "sandbox",
        "kind": "CALLBACK",
        "event_id": "EVT1",
        "payment_id": payment.payment_id,
        "attempt_id": attempt_id,
        "refund_id": "",
        "payload_encoding": "TEXT",
        "payload_bytes": len(body),
        "payload_digest": hashlib.sha256(body).hexdigest(),
        "sent_timestamp": now,
        "signature_digest": hashlib.sha256(
            f"x-channel-signature: {signature}".encode()
        ).hexdigest(),
        "received_at": world.clock.now(),
        "reason": "CAPTURED: bezahlt — 已支付",
        "finished_at": world.clock.now(),
        "expires_at": world.clock.now() + VERIFIED_RETENTION,
    }
    assert {name: row[name] for name in expected} == expected
    assert not any(
        signature in str(value) or CALLBACK_SECRET in str(value) for value in row.values()
    )


@ON_SQLITE
async def test_a_card_number_in_what_a_channel_writes_is_kept_nowhere_and_refuses_nothing(
    world: PaymentWorld,
) -> None:
    payment, attempt_id = await waiting(world)
    said = "paid with 4111 1111 1111 1111\x1b[2J"
    assert await deliver(world, callback(attempt_id, message=said)) == R.PROCESSED
    await forge(world, callback(attempt_id, event_id="EVT9", message=said))
    rows = [
        *await logged(world),
        *await world.rows(PAYMENT),
        *await world.rows(ATTEMPT),
        *await world.rows(OUTBOX),
    ]
    assert "4111 1111 1111 1111" not in str(rows)
    assert "**** **** **** 1111" in str(rows)
    assert not any("\x1b" in str(value) for row in rows for value in row.values())
    assert (await world.payment(payment.payment_id)).state is S.SUCCESS


async def test_genuine_callbacks_of_one_channel_have_a_rate_and_those_above_it_come_again(
    world: PaymentWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, attempt_id = await waiting(world)
    limiter = rate_limiter(world.clock, burst=2, every=timedelta(seconds=1))
    monkeypatch.setattr(world.app.callbacks, "_verified", limiter)
    await deliver(world, callback(attempt_id))
    await forge(world, callback(attempt_id))  # takes nothing from genuine ones
    await deliver(world, callback(attempt_id))
    with pytest.raises(RateLimited) as refused:
        await deliver(world, callback(attempt_id))
    assert refused.value.retry_after_seconds == 1
    world.clock.advance(1)
    await deliver(world, callback(attempt_id))


async def test_callbacks_of_refunds_are_in_the_log_beside_their_payment(
    world: PaymentWorld,
) -> None:
    order = await world.order()
    opened = await world.cashier(order)
    await world.press(opened)
    await world.callbacks()
    await world.app.order_relay.run_once()
    back = await refund(world, await world.payment(opened.payment_id), "40.00")
    world.clock.advance(1)
    await world.callbacks()
    about = [(row["payment_id"], row["refund_id"], row["result"]) for row in await logged(world)]
    assert (opened.payment_id, "", "PROCESSED") in about
    assert {(payment_id, result) for payment_id, refund_id, result in about if refund_id} <= {
        (opened.payment_id, "IGNORED")
    }
    body = callback(
        "ATTx",
        kind="refund",
        refund_id=back.refund_id,
        refund_no="SBR1",
        status="REVERSED",
        amount="40.00",
        currency="CNY",
        code="",
        message="the bank sent it back",
    )
    assert await deliver(world, body) is R.PROCESSED
    assert [row["result"] for row in await logged(world) if row["refund_id"] == back.refund_id][
        -1
    ] == "PROCESSED"
    assert await deliver(world, body) is R.IGNORED


# Crashes and failures


async def test_a_crash_between_log_and_effect_leaves_neither_and_the_next_delivery_counts(
    world: PaymentWorld,
) -> None:
    payment, attempt_id = await waiting(world)
    failpoints.arm("payment.fact.before_commit=raise", environment="test")
    with pytest.raises(FailpointRaised):
        await deliver(world, callback(attempt_id))
    assert (await logged(world), await world.payment(payment.payment_id)) == ([], payment)
    assert await deliver(world, callback(attempt_id)) is R.PROCESSED
    assert await results(world) == [(True, "PROCESSED", 1)]


async def test_a_crash_after_the_effect_is_in_the_log_and_the_next_delivery_is_ignored(
    world: PaymentWorld,
) -> None:
    _, attempt_id = await waiting(world)
    failpoints.arm("payment.fact.after_commit=raise", environment="test")
    with pytest.raises(FailpointRaised):
        await deliver(world, callback(attempt_id))
    assert await results(world) == [(True, "PROCESSED", 1)]
    assert await deliver(world, callback(attempt_id)) is R.IGNORED
    await world.execute(update(ATTEMPT).values(attempt_id="ATT9"))
    # known by its key: nobody looks for the payment
    assert await deliver(world, callback(attempt_id)) is R.IGNORED
    assert await results(world) == [(True, "PROCESSED", 3)]


async def test_a_genuine_callback_that_could_not_be_applied_counts_when_it_comes_again(
    world: PaymentWorld,
) -> None:
    payment, _ = await waiting(world)
    for _ in range(2):
        with pytest.raises(PaymentNotFound):
            await deliver(world, callback("ATT9"))
    [row] = await logged(world)
    assert (row["result"], row["reason"], row["deliveries"]) == (
        "FAILED",
        "PAYMENT_NOT_FOUND: There is no such payment.",
        2,
    )
    assert row["dedupe_key"] is not None
    world.clock.advance(timedelta(days=1, seconds=1).total_seconds())
    assert await findings(world) == ["callback_unused"]
    await world.execute(update(ATTEMPT).values(attempt_id="ATT9"))
    assert await deliver(world, callback("ATT9")) is R.PROCESSED
    assert (await results(world), await findings(world)) == ([(True, "PROCESSED", 3)], [])
    assert (await world.payment(payment.payment_id)).captured == payment.amount


async def test_a_genuine_callback_that_is_no_text_is_kept_whole(world: PaymentWorld) -> None:
    body = b"\xff\x00" * 700
    with pytest.raises(InvalidArgument):
        await deliver(world, body)
    [row] = await logged(world)
    assert (row["payload_encoding"], base64.b64decode(row["payload"]), row["result"]) == (
        "BASE64",
        body,
        "FAILED",
    )
    assert row["reason"].startswith("INVALID_ARGUMENT: body: not a callback")


# What nobody believed


async def test_a_forgery_that_comes_first_takes_nothing_from_the_genuine_one(
    world: PaymentWorld,
) -> None:
    payment, attempt_id = await waiting(world)
    body, now = callback(attempt_id), millis(world)
    await forge(world, body, timestamp=now)
    assert await deliver(world, body, timestamp=now) is R.PROCESSED
    await forge(world, body, timestamp=now)
    assert [
        (bool(row["signature_valid"]), row["dedupe_key"] is None, row["result"])
        for row in await logged(world)
    ] == [(False, True, "FAILED"), (True, False, "PROCESSED"), (False, True, "FAILED")]
    assert (await world.payment(payment.payment_id)).state is S.SUCCESS


async def test_forgeries_at_the_same_moment_take_nothing_from_the_genuine_one(
    world: PaymentWorld,
) -> None:
    payment, attempt_id = await waiting(world)
    body, now = callback(attempt_id), millis(world)
    answers = await asyncio.gather(
        *(forge(world, body, timestamp=now) for _ in range(10)),
        deliver(world, body, timestamp=now),
        *(forge(world, body, timestamp=now) for _ in range(10)),
    )
    assert R.PROCESSED in answers
    assert (await world.payment(payment.payment_id)).state is S.SUCCESS


async def test_a_forged_hint_takes_nothing_from_the_genuine_one_with_its_nonce(
    world: PaymentWorld,
) -> None:
    payment, _ = await waiting(world)
    await world.press(payment)
    genuine = hint(payment.payment_id)
    with pytest.raises(SignatureInvalid):
        await world.app.mock_callbacks.mock_callback(genuine, signature="0" * 32)
    result, shown = await world.app.mock_callbacks.mock_callback(genuine, signature=signed(genuine))
    assert (result, shown.state) == (R.PROCESSED, S.SUCCESS)
    assert await results(world) == [(False, "FAILED", 1), (True, "PROCESSED", 1)]
    [forged, kept] = await logged(world)
    assert (forged["dedupe_key"], kept["nonce"], kept["reason"]) == (
        None,
        "abc123",
        "the attempt is CAPTURED",
    )


@ON_SQLITE
async def test_the_shift_attack_is_refused_and_logged_without_a_key(world: PaymentWorld) -> None:
    payment, _ = await waiting(world)
    await world.press(payment)
    genuine, shifted = hint(payment.payment_id), hint(payment.payment_id, "SUCCESSa", nonce="bc123")
    assert signed(shifted) == signed(genuine)
    with pytest.raises(SignatureInvalid):
        await world.app.mock_callbacks.mock_callback(shifted, signature=signed(genuine))
    [row] = await logged(world)
    assert (bool(row["signature_valid"]), row["dedupe_key"], row["result"]) == UNKEYED
    result, _ = await world.app.mock_callbacks.mock_callback(genuine, signature=signed(genuine))
    assert result is R.PROCESSED


@ON_SQLITE
async def test_what_is_stale_is_logged_as_not_believed(world: PaymentWorld) -> None:
    payment, attempt_id = await waiting(world)
    old = millis(world, shift_seconds=-300.001)
    with pytest.raises(SignatureInvalid):
        await deliver(world, callback(attempt_id), timestamp=old)
    late = hint(payment.payment_id, timestamp=old)
    with pytest.raises(SignatureInvalid):
        await world.app.mock_callbacks.mock_callback(late, signature=signed(late))
    for row in await logged(world):
        assert (bool(row["signature_valid"]), row["dedupe_key"], row["result"]) == UNKEYED
        assert row["reason"] == "SIGNATURE_INVALID: the timestamp is more than 5 minutes off"
    assert world.channel.queries == 0


async def test_what_is_too_large_is_refused_and_its_beginning_kept(world: PaymentWorld) -> None:
    _, attempt_id = await waiting(world)
    largest = callback(
        attempt_id, message="x" * (BODY_BYTES_MAX - len(callback(attempt_id, message="")))
    )
    for body in (largest + b" ", b"\xff" * 300_000):
        with pytest.raises(InvalidArgument, match=f"more than {BODY_BYTES_MAX} bytes"):
            await deliver(world, body)  # with its right signature
    assert await deliver(world, largest) is R.PROCESSED
    rows = await logged(world)
    assert [(row["payload_bytes"], bool(row["signature_valid"])) for row in rows] == [
        (BODY_BYTES_MAX + 1, False),
        (300_000, False),
        (BODY_BYTES_MAX, True),
    ]
    assert [len(row["payload"]) for row in rows] == [
        UNVERIFIED_BYTES_KEPT,
        len(base64.b64encode(b"x" * UNVERIFIED_BYTES_KEPT)),
        BODY_BYTES_KEPT,
    ]


@ON_SQLITE
async def test_forgeries_beyond_a_rate_are_counted_and_not_kept(world: PaymentWorld) -> None:
    _, attempt_id = await waiting(world)

    def counted(kept: str) -> float:
        return (
            REGISTRY.get_sample_value(
                "paymesh_callbacks_unverified_total", {"channel": "sandbox", "kept": kept}
            )
            or 0
        )

    before = {kept: counted(kept) for kept in ("yes", "no")}
    for number in range(UNVERIFIED_BURST + 7):
        await forge(world, callback(attempt_id, event_id=f"EVT{number}"))
    assert len(await logged(world)) == UNVERIFIED_BURST
    assert {kept: counted(kept) - before[kept] for kept in before} == {
        "yes": UNVERIFIED_BURST,
        "no": 7,
    }
    world.clock.advance(UNVERIFIED_EVERY.total_seconds())
    for _ in range(2):
        await forge(world, callback(attempt_id))
    assert len(await logged(world)) == UNVERIFIED_BURST + 1
    assert await deliver(world, callback(attempt_id)) is R.PROCESSED  # genuine ones are always kept
    world.clock.advance(-3600)  # a clock that is set back gives nothing and takes nothing for ever
    for _ in range(2):
        await forge(world, callback(attempt_id))
        world.clock.advance(UNVERIFIED_EVERY.total_seconds())
    assert len(await logged(world)) == UNVERIFIED_BURST + 3


async def test_the_database_gives_no_key_and_no_effect_to_what_nobody_believed(
    world: PaymentWorld,
) -> None:
    _, attempt_id = await waiting(world)
    await forge(world, callback(attempt_id))
    for values in (
        {"dedupe_key": "k"},
        {"result": "PROCESSED"},
        {"signature_valid": True, "result": "RECEIVED"},
    ):
        with pytest.raises(ConstraintViolated):
            await world.execute(update(CHANNEL_CALLBACK).values(**values))


# Hints


async def test_a_hint_whose_asker_died_is_asked_by_the_next_delivery(world: PaymentWorld) -> None:
    payment, _ = await waiting(world)
    await world.press(payment)
    await die_while_asking(world, payment.payment_id)
    assert await results(world) == [(True, "RECEIVED", 1)]
    result, shown = await world.app.mock_callbacks.mock_callback(
        hint(payment.payment_id), signature=signed(hint(payment.payment_id))
    )
    assert (result, shown.state, await results(world)) == (
        R.PROCESSED,
        S.SUCCESS,
        [(True, "PROCESSED", 2)],
    )
    queries = world.channel.queries
    again, _ = await world.app.mock_callbacks.mock_callback(
        hint(payment.payment_id), signature=signed(hint(payment.payment_id))
    )
    # the money is there: nobody is asked
    assert (again, world.channel.queries) == (R.IGNORED, queries)


@ON_SQLITE
async def test_a_hint_whose_asker_died_is_asked_by_the_worker(world: PaymentWorld) -> None:
    payment, _ = await waiting(world)
    await world.press(payment)
    await die_while_asking(world, payment.payment_id)
    world.clock.advance(UNFINISHED_AFTER.total_seconds())
    assert await world.app.callback_questions.run_once() == 0  # its asker may still be there
    world.clock.advance(600)
    assert await findings(world) == ["callback_late"]
    assert "The channel is asked because of hint" in await told(world, payment.payment_id)
    assert await world.app.callback_questions.run_once() == 1
    assert (
        await results(world),
        await findings(world),
        await world.app.callback_questions.run_once(),
    ) == (
        [(True, "PROCESSED", 1)],
        [],
        0,
    )
    assert (await world.payment(payment.payment_id)).state is S.SUCCESS


@ON_SQLITE
async def test_a_hint_that_never_can_be_finished_is_written_down_once_and_tried_no_more(
    world: PaymentWorld,
) -> None:
    payment, _ = await waiting(world)
    await die_while_asking(world, payment.payment_id)
    await world.execute(delete(PAYMENT).where(PAYMENT.c.payment_id == payment.payment_id))
    world.clock.advance(UNFINISHED_AFTER.total_seconds() + 600)
    assert await world.app.callback_questions.run_once() == 1
    assert [
        (row["result"], row["reason"].partition(":")[0])
        for row in await world.rows(CHANNEL_CALLBACK)
    ] == [("FAILED", "PAYMENT_NOT_FOUND")]
    assert await world.app.callback_questions.run_once() == 0


@ON_SQLITE
async def test_a_hint_asks_again_as_long_as_there_is_no_money(world: PaymentWorld) -> None:
    payment, _ = await waiting(world)
    one = hint(payment.payment_id)
    first, _ = await world.app.mock_callbacks.mock_callback(one, signature=signed(one))
    [row] = await logged(world)
    assert (first, row["result"], row["reason"]) == (
        R.IGNORED,
        "IGNORED",
        "the channel has not decided",
    )
    await world.press(payment)
    answers = await asyncio.gather(
        *(world.app.mock_callbacks.mock_callback(one, signature=signed(one)) for _ in range(10))
    )
    assert sorted(result for result, _ in answers) == [R.IGNORED] * 9 + [R.PROCESSED]
    assert await results(world) == [(True, "PROCESSED", 11)]


@ON_SQLITE
async def test_a_hint_about_nothing_is_logged_with_its_reason(world: PaymentWorld) -> None:
    with pytest.raises(PaymentNotFound):
        await world.app.mock_callbacks.mock_callback(hint("PAY0"), signature=signed(hint("PAY0")))
    [row] = await logged(world)
    assert (row["result"], row["payment_id"], row["reason"]) == (
        "FAILED",
        "PAY0",
        "PAYMENT_NOT_FOUND: There is no such payment.",
    )
    world.clock.advance(timedelta(days=2).total_seconds())
    assert await findings(world) == []  # anybody can send one


@ON_SQLITE
async def test_hints_beyond_a_rate_still_ask_and_leave_no_row(world: PaymentWorld) -> None:
    payment, _ = await waiting(world)
    world.app.mock_callbacks._hints = rate_limiter(world.clock, burst=1, every=timedelta(minutes=1))
    first, second = hint(payment.payment_id), hint(payment.payment_id, nonce="another")
    await world.app.mock_callbacks.mock_callback(first, signature=signed(first))
    await world.press(payment)
    with pytest.raises(PaymentNotFound):
        await world.app.mock_callbacks.mock_callback(hint("PAY0"), signature=signed(hint("PAY0")))
    result, shown = await world.app.mock_callbacks.mock_callback(second, signature=signed(second))
    assert (result, shown.state) == (R.PROCESSED, S.SUCCESS)
    assert [row["nonce"] for row in await logged(world)] == ["abc123"]


async def die_while_asking(world: PaymentWorld, payment_id: str) -> None:
    async def die() -> None:
        raise FailpointRaised

    world.channel.after_query = die
    with pytest.raises(FailpointRaised):
        await world.app.mock_callbacks.mock_callback(
            hint(payment_id), signature=signed(hint(payment_id))
        )


@ON_SQLITE
async def test_a_hint_that_a_fast_clock_received_does_not_wait_for_its_error(
    world: PaymentWorld,
) -> None:
    payment, _ = await waiting(world)
    await world.press(payment)
    await die_while_asking(world, payment.payment_id)
    world.clock.advance(-29)
    assert await world.app.callback_questions.run_once() == 0
    world.clock.advance(-2)  # whoever received it was ahead of us by more than clocks may differ
    assert await world.app.callback_questions.run_once() == 1


# For people


@ON_SQLITE
async def test_a_story_tells_what_the_channel_said_and_what_nobody_believed(
    world: PaymentWorld,
) -> None:
    payment, attempt_id = await waiting(world)
    for _ in range(2):
        await forge(world, callback(attempt_id))
    world.clock.advance(1)
    with pytest.raises(InvalidArgument):
        await deliver(world, callback(attempt_id, kind="weather"))
    world.clock.advance(1)
    one = hint(payment.payment_id, timestamp=millis(world))
    await world.app.mock_callbacks.mock_callback(one, signature=signed(one))
    world.clock.advance(1)
    for _ in range(3):
        await deliver(world, callback(attempt_id, event_id="EVT2"))
    world.clock.advance(1)
    await deliver(
        world, callback(attempt_id, event_id="EVT3", status="DECLINED", message="declined")
    )
    in_this_order(
        await told(world, payment.payment_id),
        r"2 messages came that claimed to be the channel's\. Nobody believed it and it changed "
        r"nothing "
        r"\(SIGNATURE_INVALID: .*\)",
        r"A hint came that there is news \([0-9a-f]{32}\) and made us ask: the channel has not "
        r"decided\. .* nothing new",
        r"The channel called \(EVT2\) and said CAPTURED: captured\. It counted\. It came 3 times "
        r"and counts once\.",
        "The channel took 100.00 CNY",
        r"The channel called \(EVT3\) and said DECLINED: declined\. That was nothing new",
    )


async def test_a_log_has_an_end(world: PaymentWorld) -> None:
    _, attempt_id = await waiting(world)
    await forge(world, callback(attempt_id))
    await deliver(world, callback(attempt_id))
    [purge] = [worker for worker in world.app.workers if worker.name == "purge_receipts"]
    passed = timedelta(0)
    for age, left in (
        (OTHER_RETENTION - timedelta(seconds=1), 2),
        (OTHER_RETENTION, 1),
        (VERIFIED_RETENTION - timedelta(seconds=1), 1),
        (VERIFIED_RETENTION, 0),
    ):
        world.clock.advance((age - passed).total_seconds())
        passed = age
        await purge._run_once()
        assert len(await logged(world)) == left


# Forged bytes are read by nobody who believes them


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b"\xff", b"[" * 5000, b'{"attempt_id":5}', b'{"event_id":"a b"}']
)
def test_a_callback_that_says_nothing_is_about_nothing(body: bytes) -> None:
    channel = SandboxChannel(
        base_url="http://127.0.0.1:1", api_key="k", callback_secret=CALLBACK_SECRET
    )
    assert channel.subject_of(Inbound(body=body, headers={})) == Subject()
