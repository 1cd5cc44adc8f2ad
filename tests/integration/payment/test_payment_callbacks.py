"""What channels tell us unasked: believed only with their signature, applied once, and never more
than a hint when the signature covers no amount.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from mesh import failpoints
from mesh.errors import InvalidArgument
from mesh.failpoints import FailpointRaised
from order_rpc.domain.order import OrderState
from payment_rpc.domain.callback import CallbackResult
from payment_rpc.domain.errors import (
    ChannelNotSupported,
    PaymentNotFound,
    PaymentStateInvalid,
    SignatureInvalid,
)
from payment_rpc.domain.payment import Payment, PaymentState
from payment_rpc.tables import LEDGER_TRANSACTION, PAYMENT
from sandbox.signatures import sign_callback
from tests.builders.payment import PaymentWorld
from tests.builders.payment_steps import NOW, callback, deliver, hint, millis, signed, waiting
from tests.support.sandbox_server import CALLBACK_SECRET, inbound

S = PaymentState
Factory = Callable[[], str]


async def unchanged(world: PaymentWorld, payment: Payment) -> None:
    assert await world.payment(payment.payment_id) == payment
    assert await world.rows(LEDGER_TRANSACTION) == []


async def test_a_genuine_callback_is_applied_and_the_next_one_ignored(world: PaymentWorld) -> None:
    payment, attempt_id = await waiting(world)
    assert await deliver(world, callback(attempt_id)) is CallbackResult.PROCESSED
    assert (await world.payment(payment.payment_id)).state is S.SUCCESS
    assert await deliver(world, callback(attempt_id)) is CallbackResult.IGNORED
    # what is captured stays captured
    assert await deliver(world, callback(attempt_id, status="DECLINED")) is CallbackResult.IGNORED
    assert await world.ledger_problems() == []


async def test_what_is_forged_altered_or_stale_is_refused_and_changes_nothing(
    world: PaymentWorld,
) -> None:
    payment, attempt_id = await waiting(world)
    body, now = callback(attempt_id), millis(world)
    good = sign_callback(CALLBACK_SECRET, timestamp=now, body=body)
    old, new = millis(world, shift_seconds=-300.001), millis(world, shift_seconds=300.001)
    untrue: dict[str, dict[str, Any]] = {
        "no signature": {"body": body, "timestamp": now, "signature": "0"},
        "another secret": {
            "body": body,
            "timestamp": now,
            "signature": sign_callback("x" * 32, timestamp=now, body=body),
        },
        "altered amount": {
            "body": body.replace(b"100.00", b"999.00"),
            "timestamp": now,
            "signature": good,
        },
        "one space more": {"body": body + b" ", "timestamp": now, "signature": good},
        "another time": {
            "body": body,
            "timestamp": millis(world, shift_seconds=1),
            "signature": good,
        },
        "upper case": {"body": body, "timestamp": now, "signature": good.upper()},
        "too old": {
            "body": body,
            "timestamp": old,
            "signature": sign_callback(CALLBACK_SECRET, timestamp=old, body=body),
        },
        "too new": {
            "body": body,
            "timestamp": new,
            "signature": sign_callback(CALLBACK_SECRET, timestamp=new, body=body),
        },
        "seconds": {
            "body": body,
            "timestamp": now[:-3],
            "signature": sign_callback(CALLBACK_SECRET, timestamp=now[:-3], body=body),
        },
        "no time": {
            "body": body,
            "timestamp": "x",
            "signature": sign_callback(CALLBACK_SECRET, timestamp="x", body=body),
        },
    }
    for what, arguments in untrue.items():
        [outcome] = await asyncio.gather(
            world.app.callbacks.handle_callback(channel="sandbox", inbound=inbound(**arguments)),
            return_exceptions=True,
        )
        assert isinstance(outcome, SignatureInvalid), what
    await unchanged(world, payment)
    for shift in (-300, 300):
        assert (
            await deliver(world, callback(attempt_id), timestamp=millis(world, shift_seconds=shift))
            in CallbackResult
        )
    assert (await world.payment(payment.payment_id)).state is S.SUCCESS


async def test_what_is_genuine_and_makes_no_sense_is_refused_by_name(world: PaymentWorld) -> None:
    payment, _ = await waiting(world)
    for body in (b"", b"{}", b"[]", b"\xff", b'{"attempt_id": 5}', b"[" * 5000):
        with pytest.raises(InvalidArgument):
            await deliver(world, body)
    with pytest.raises(PaymentNotFound):
        await deliver(world, callback("ATT0"))
    with pytest.raises(ChannelNotSupported):
        await deliver(world, callback("ATT0"), channel="paypal")
    await unchanged(world, payment)


async def test_a_genuine_callback_that_cannot_be_understood_is_no_money(
    world: PaymentWorld,
) -> None:
    payment, attempt_id = await waiting(world)
    for changes in (
        {"amount": None, "currency": None},
        {"amount": "1e3"},
        {"amount": "-1"},
        {"currency": "XXX"},
        {"status": "PAID"},
        {"trade_no": ""},
    ):
        assert await deliver(world, callback(attempt_id, **changes)) is CallbackResult.IGNORED
    await unchanged(world, payment)


async def test_another_amount_in_a_callback_is_parked(world: PaymentWorld) -> None:
    payment, attempt_id = await waiting(world)
    assert await deliver(world, callback(attempt_id, amount="1.00")) is CallbackResult.PROCESSED
    assert (await world.payment(payment.payment_id)).state is S.CONFLICTED
    assert await world.attention() == [("AMOUNT_CONFLICT", attempt_id)]


async def test_a_callback_that_overtakes_the_answer_is_the_answer(world: PaymentWorld) -> None:
    order = await world.order()

    async def callback_first() -> None:
        assert await world.callbacks() == 1

    world.channel.after_charge = callback_first
    answer = await world.charge(order, key="k1")
    assert answer.state is S.SUCCESS
    assert await world.charge(order, key="k1") == answer
    # what the order said; the answer changed nothing more
    assert (await world.rows(PAYMENT))[0]["version"] == answer.version + 1
    assert (len(await world.rows(LEDGER_TRANSACTION)), await world.ledger_problems()) == (1, [])
    await world.finish()
    assert await world.order_state(order) is OrderState.PAID
    assert len(world.orders.updates) == 1


async def test_a_callback_is_taken_only_after_the_commit(world: PaymentWorld) -> None:
    payment, _ = await waiting(world)
    await world.press(payment)
    failpoints.arm("payment.fact.before_commit=raise", environment="test")
    await world.callbacks()
    assert await world.payment(payment.payment_id) == payment
    failpoints.arm("", environment="test")
    world.clock.advance(1)
    assert await world.callbacks() == 1  # the channel was not told "success", so it delivers again
    assert (await world.payment(payment.payment_id)).state is S.SUCCESS
    world.clock.advance(3600)
    assert await world.callbacks() == 0


async def test_a_crash_after_the_commit_is_delivered_again_and_ignored(world: PaymentWorld) -> None:
    payment, attempt_id = await waiting(world)
    failpoints.arm("payment.fact.after_commit=raise", environment="test")
    with pytest.raises(FailpointRaised):
        await deliver(world, callback(attempt_id))
    assert await deliver(world, callback(attempt_id)) is CallbackResult.IGNORED
    assert (await world.payment(payment.payment_id)).state is S.SUCCESS


# The hint of source 001


async def test_the_vectors_of_source_001_are_verified_in_their_time(world: PaymentWorld) -> None:
    world.clock.set(datetime.fromtimestamp(1704067200, UTC))
    for status, signature in (
        ("SUCCESS", "3B69D03EC12E2DE9C77777CC45944C50"),
        ("FAILED", "CA819D5163EBF2441482804A39F7B642"),
    ):
        with pytest.raises(PaymentNotFound):  # believed, and there is no such payment
            await world.app.mock_callbacks.mock_callback(
                hint("PAY202401011234567890", status, timestamp="1704067200000"),
                signature=signature,
            )


async def test_a_hint_only_makes_us_ask(world: PaymentWorld) -> None:
    payment, _ = await waiting(world)
    lie = hint(payment.payment_id)
    result, shown = await world.app.mock_callbacks.mock_callback(lie, signature=signed(lie))
    # nobody paid
    assert (result, shown.state, world.channel.queries) == (CallbackResult.IGNORED, S.PAYING, 1)
    await world.press(payment)
    failed = hint(payment.payment_id, "FAILED")
    result, shown = await world.app.mock_callbacks.mock_callback(failed, signature=signed(failed))
    # whatever the hint said, the channel's word counts
    assert (result, shown.state) == (CallbackResult.PROCESSED, S.SUCCESS)
    result, _ = await world.app.mock_callbacks.mock_callback(lie, signature=signed(lie))
    assert result is CallbackResult.IGNORED


async def test_a_hint_that_is_not_signed_or_not_of_its_form_asks_nobody(
    world: PaymentWorld,
) -> None:
    payment, _ = await waiting(world)
    good = hint(payment.payment_id)
    wrong = [
        (good, "0" * 32),
        (good, signed(good).lower()),
        (hint(payment.payment_id, "FAILED"), signed(good)),
        *(
            (one, signed(one))
            for one in (
                # the same text without separators as a genuine one
                hint(payment.payment_id, "SUCCESSa", nonce="bc123"),
                hint(payment.payment_id, "PAID"),
                hint(payment.payment_id, timestamp=NOW[:-1], nonce=f"{NOW[-1]}abc123"),
                hint(payment.payment_id, timestamp=NOW + "0"),
                hint(payment.payment_id, nonce=""),
                hint(payment.payment_id, nonce="a b"),
                hint("PAY 1"),
                hint(payment.payment_id, timestamp=NOW + "\n"),
            )
        ),
    ]
    for one, signature in wrong:
        with pytest.raises(SignatureInvalid):
            await world.app.mock_callbacks.mock_callback(one, signature=signature)
    assert world.channel.queries == 0
    await unchanged(world, payment)


async def test_the_three_lines_of_source_001_work(world: PaymentWorld) -> None:
    for status, state in (("SUCCESS", S.SUCCESS), ("FAILED", S.FAILED)):
        payment, _ = await waiting(world)
        one = hint(payment.payment_id, status)
        signature = await world.app.mock_callbacks.generate_signature(one)
        assert signature == signed(one)
        # signing changed the channel's truth, not ours
        assert await world.payment(payment.payment_id) == payment
        result, shown = await world.app.mock_callbacks.mock_callback(one, signature=signature)
        assert (result, shown.state) == (CallbackResult.PROCESSED, state)
        again, shown = await world.app.mock_callbacks.mock_callback(one, signature=signature)
        assert (again, shown.state) == (CallbackResult.IGNORED, state)
        with pytest.raises(PaymentStateInvalid):  # it ended otherwise
            await world.app.mock_callbacks.generate_signature(
                hint(payment.payment_id, "FAILED" if status == "SUCCESS" else "SUCCESS")
            )
    with pytest.raises(PaymentNotFound):
        await world.app.mock_callbacks.generate_signature(hint("PAY0"))
    assert await world.ledger_problems() == []
