"""Messages of channels that differ: several news in one, questions, names, keys, accounts and the
channel's own refusals.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from mesh import failpoints
from mesh.errors import RateLimited
from mesh.failpoints import FailpointRaised
from payment_rpc.channels.capabilities import Close
from payment_rpc.channels.inbound import Ask, Inbound, Received
from payment_rpc.domain.attempt import Attempt
from payment_rpc.domain.callback import CallbackResult, Subject
from payment_rpc.domain.errors import PaymentNotFound, RefundNotFound, SignatureInvalid
from payment_rpc.domain.facts import ChannelFact, ChannelStatus
from payment_rpc.domain.payment import PaymentState
from payment_rpc.domain.refund_facts import RefundChannelStatus, RefundFact
from payment_rpc.store import attempts
from payment_rpc.tables import ATTEMPT, CHANNEL_CALLBACK
from payment_rpc.usecases import callbacks as callbacks_module
from payment_rpc.usecases.callback_log import UNVERIFIED_ALERT
from payment_rpc.usecases.callbacks import KEYS_BURST, VERIFIED_BURST, CallbackAnswer
from tests.builders.payment import LEASE_SECONDS, PRICE, PaymentWorld
from tests.builders.payment_steps import refund as refund_of
from tests.builders.scripted_channel import SECRET, ScriptedChannel

S, R = PaymentState, CallbackResult


def opens(
    world: PaymentWorld, close: Close = Close.PROMISE, *others: ScriptedChannel
) -> ScriptedChannel:
    """Opens a channel beside the sandbox, and others."""
    channel = ScriptedChannel(close)
    world.app = world.make_app(
        channels={
            "sandbox": world.channel,
            **{each.name: each for each in (channel, *others)},
        }
    )
    return channel


async def waiting_attempt(world: PaymentWorld, channel: str = "scripted") -> Attempt:
    """A buyer at the page of the channel; nobody is sending any more."""
    payment = await world.cashier(await world.order(), channel=channel)
    world.clock.advance(LEASE_SECONDS)
    [row] = [row for row in await world.rows(ATTEMPT) if row["payment_id"] == payment.payment_id]
    return await world.db.read(attempts.get_attempt, row["attempt_id"])


async def send(
    world: PaymentWorld,
    channel: ScriptedChannel,
    body: bytes,
    message: Received | Exception | None = None,
    **headers: str,
) -> CallbackAnswer:
    if message is not None:
        channel.messages[body] = message
    return await world.app.callbacks.handle_callback(
        channel=channel.name,
        inbound=Inbound(body=body, headers={"x-secret": SECRET, **headers}),
    )


def asks(attempt: Attempt, event_id: str = "") -> Received:
    """A message that names the attempt by the channel's id alone."""
    return Received(news=(Ask(subject=Subject(ref=attempt.channel_ref)),), event_id=event_id)


def captured(attempt_id: str, **changes: Any) -> ChannelFact:
    values: dict[str, Any] = {"amount": PRICE, "trade_no": "T1", **changes}
    return ChannelFact(attempt_id=attempt_id, status=ChannelStatus.CAPTURED, **values)


async def logged(world: PaymentWorld) -> list[tuple[str, int]]:
    """Results in the log, and how often each message came."""
    return [(row["result"], row["deliveries"]) for row in await world.rows(CHANNEL_CALLBACK)]


async def until_logged(world: PaymentWorld, result: str, deliveries: int) -> None:
    for _ in range(1000):
        if await logged(world) == [(result, deliveries)]:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(await logged(world))


async def state_of(world: PaymentWorld, attempt: Attempt) -> PaymentState:
    return (await world.payment(attempt.payment_id)).state


# questions


async def test_a_message_that_only_says_ask_lets_us_take_our_step(world: PaymentWorld) -> None:
    channel = opens(world)
    attempt = await waiting_attempt(world)
    channel.pay(attempt.attempt_id)
    answer = await send(world, channel, b"1", asks(attempt))
    assert (answer.result, answer.ack.status_code) == (R.PROCESSED, 204)
    assert await state_of(world, attempt) is S.SUCCESS
    assert (channel.count("query"), channel.count("advance")) == (1, 1)
    # the same again is known, and nobody asks
    assert (await send(world, channel, b"1")).result is R.IGNORED
    assert channel.count("query") == 1
    assert await logged(world) == [("PROCESSED", 2)]


async def test_deliveries_that_come_during_the_question_share_it(world: PaymentWorld) -> None:
    channel = opens(world)
    attempt = await waiting_attempt(world)
    is_asked, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        is_asked.set()
        await go_on.wait()

    channel.during_query = slow
    first = asyncio.create_task(send(world, channel, b"1", asks(attempt)))
    await is_asked.wait()
    others = [asyncio.create_task(send(world, channel, b"1")) for _ in range(5)]
    await until_logged(world, "RECEIVED", 6)
    go_on.set()
    results = [(await each).result for each in (first, *others)]
    assert set(results) == {R.IGNORED}  # the channel has not decided
    assert channel.count("query") == 1


async def test_a_question_that_takes_long_goes_on_without_its_message(
    world: PaymentWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callbacks_module, "ASK_SECONDS_MAX", 0.0)
    channel = opens(world)
    attempt = await waiting_attempt(world)
    channel.pay(attempt.attempt_id)
    answer = await send(world, channel, b"1", asks(attempt))
    assert (answer.result, answer.ack.status_code) == (R.RECEIVED, 204)
    await until_logged(world, "PROCESSED", 1)
    assert await state_of(world, attempt) is S.SUCCESS


async def test_a_crash_before_the_question_leaves_it_to_the_worker(world: PaymentWorld) -> None:
    """The message was acknowledged by nobody, and names the attempt by the channel's id alone."""
    channel = opens(world)
    attempt = await waiting_attempt(world)
    channel.pay(attempt.attempt_id)
    failpoints.arm("payment.callback.after_commit=raise", environment="test")
    with pytest.raises(FailpointRaised):
        await send(world, channel, b"1", asks(attempt))
    failpoints.arm("", environment="test")
    assert await logged(world) == [("RECEIVED", 1)]
    assert await world.app.callback_questions.run_once() == 0  # somebody may still be at it
    world.clock.advance(61)
    assert await world.app.callback_questions.run_once() == 1
    assert await state_of(world, attempt) is S.SUCCESS
    assert await logged(world) == [("PROCESSED", 1)]


async def test_a_question_that_fails_is_asked_by_the_worker(world: PaymentWorld) -> None:
    channel = opens(world)
    attempt = await waiting_attempt(world)
    channel.pay(attempt.attempt_id)
    failpoints.arm("payment.channel.after_intention=raise", environment="test")
    assert (await send(world, channel, b"1", asks(attempt))).result is R.RECEIVED
    failpoints.arm("", environment="test")
    world.clock.advance(61)
    assert await world.app.callback_questions.run_once() == 1
    assert await state_of(world, attempt) is S.SUCCESS
    assert channel.known[attempt.attempt_id].captures == 1


async def test_news_beside_a_question_counts_for_the_result(world: PaymentWorld) -> None:
    channel = opens(world)
    paid, open_one = await waiting_attempt(world), await waiting_attempt(world)
    message = Received(
        news=(
            captured(paid.attempt_id),
            Ask(subject=Subject(attempt_id=open_one.attempt_id)),
        ),
        event_id="E1",
    )
    assert (await send(world, channel, b"1", message)).result is R.PROCESSED
    assert await logged(world) == [("PROCESSED", 1)]
    assert await state_of(world, paid) is S.SUCCESS


# several news, names


async def test_several_news_are_applied_together_or_not_at_all(world: PaymentWorld) -> None:
    channel = opens(world)
    one, other = await waiting_attempt(world), await waiting_attempt(world)
    broken = Received(news=(captured(one.attempt_id), captured("ATT0")), event_id="E1")
    answer = await send(world, channel, b"1", broken)
    assert (answer.result, answer.ack.status_code) == (R.FAILED, 400)
    assert await state_of(world, one) is S.PAYING
    whole = Received(news=(captured(one.attempt_id), captured(other.attempt_id)), event_id="E1")
    assert (await send(world, channel, b"2", whole)).result is R.PROCESSED
    assert await state_of(world, one) is await state_of(world, other) is S.SUCCESS
    assert await logged(world) == [("PROCESSED", 2)]


async def test_one_name_with_other_bytes_is_one_message_and_applied_again(
    world: PaymentWorld,
) -> None:
    channel = opens(world)
    attempt = await waiting_attempt(world)
    fact = captured(attempt.attempt_id)
    pending = ChannelFact(attempt_id=attempt.attempt_id, status=ChannelStatus.PENDING)
    first = Received(news=(pending,), event_id="E1")
    assert (await send(world, channel, b"1", first)).result is R.IGNORED
    for body in (b"2", b"3"):
        message = Received(news=(fact,), event_id="E1")
        expected = R.PROCESSED if body == b"2" else R.IGNORED
        assert (await send(world, channel, body, message)).result is expected
    assert await logged(world) == [("PROCESSED", 3)]
    assert await world.ledger_problems() == []


async def test_a_type_that_means_nothing_to_us_is_acknowledged_and_logged(
    world: PaymentWorld,
) -> None:
    channel = opens(world)
    message = Received(news=(), event_id="E1", summary="customer.created")
    answer = await send(world, channel, b"1", message)
    assert (answer.result, answer.ack.status_code) == (R.IGNORED, 204)
    [row] = await world.rows(CHANNEL_CALLBACK)
    assert (row["result"], row["reason"], row["event_id"]) == (
        "IGNORED",
        "customer.created",
        "E1",
    )


async def test_many_equal_ones_at_once_are_applied_once(
    world: PaymentWorld, rounds: Callable[[int, int], int]
) -> None:
    channel = opens(world)
    attempt = await waiting_attempt(world)
    count = rounds(20, 1000)
    message = Received(news=(captured(attempt.attempt_id),), event_id="E1")
    answers = await asyncio.gather(*(send(world, channel, b"1", message) for _ in range(count)))
    assert [answer.result for answer in answers].count(R.PROCESSED) == 1
    assert await logged(world) == [("PROCESSED", count)]
    assert await world.ledger_problems() == []


# whose it is


@pytest.mark.parametrize("what", ["fact", "duplicate", "refund", "question"])
async def test_an_account_speaks_of_its_own_attempts_only(world: PaymentWorld, what: str) -> None:
    """An account's secret is its merchant's, who must not pay an order of another one with it."""
    stranger = ScriptedChannel(Close.KNOWN, name="stranger")
    opens(world, Close.KNOWN, stranger)
    stranger.has_own_refusal = False
    attempt = await waiting_attempt(world)
    refund_id = ""
    if what == "refund":
        refund_id = await refunded(world, attempt)
    before = await world.payment(attempt.payment_id)
    news: dict[str, Any] = {
        "fact": captured(attempt.attempt_id),
        "duplicate": captured("ATT-MORE", duplicate_of=attempt.attempt_id),
        "refund": RefundFact(refund_id=refund_id, status=RefundChannelStatus.REVERSED),
        "question": Ask(subject=Subject(attempt_id=attempt.attempt_id)),
    }
    with pytest.raises((PaymentNotFound, RefundNotFound)):
        await send(world, stranger, b"1", Received(news=(news[what],), event_id="E1"))
    assert await world.payment(attempt.payment_id) == before
    assert await world.attention() == []
    assert stranger.calls == []


async def refunded(world: PaymentWorld, attempt: Attempt) -> str:
    await world.app.channel_results.apply(captured(attempt.attempt_id))
    await world.finish(rounds=1)
    refund = await refund_of(world, await world.payment(attempt.payment_id))
    return refund.refund_id


# keys, limits, refusals


async def test_an_unknown_key_is_fetched_once_and_the_message_read_again(
    world: PaymentWorld,
) -> None:
    channel = opens(world)
    attempt = await waiting_attempt(world)
    channel.unknown_keys = {"https://keys.test/1"}
    message = Received(news=(captured(attempt.attempt_id),), event_id="E1")
    key = {"x-key": "https://keys.test/1"}
    assert (await send(world, channel, b"1", message, **key)).result is R.PROCESSED
    assert channel.learned == ["https://keys.test/1"]
    assert (await send(world, channel, b"1", message, **key)).result is R.IGNORED
    assert channel.learned == ["https://keys.test/1"]


async def test_messages_that_come_while_a_key_is_fetched_share_it(world: PaymentWorld) -> None:
    channel = opens(world)
    attempt = await waiting_attempt(world)
    channel.unknown_keys = {"https://keys.test/1"}
    channel.has_own_refusal = False
    message = Received(news=(captured(attempt.attempt_id),), event_id="E1")
    many = [
        send(world, channel, b"1", message, **{"x-key": "https://keys.test/1"})
        for _ in range(KEYS_BURST * 2)
    ]
    said = [answer.result for answer in await asyncio.gather(*many)]
    assert sorted(said) == [R.IGNORED] * (len(many) - 1) + [R.PROCESSED]
    assert channel.learned == ["https://keys.test/1"]


async def test_keys_are_fetched_for_strangers_so_often(world: PaymentWorld) -> None:
    channel = opens(world)
    channel.has_own_refusal, channel.can_learn = False, False
    channel.unknown_keys = {f"k{number}" for number in range(KEYS_BURST + 3)}
    for key in sorted(channel.unknown_keys):
        with pytest.raises(SignatureInvalid):
            await send(world, channel, b"1", Received(news=()), **{"x-key": key})
    assert len(channel.learned) == KEYS_BURST


async def test_a_channel_that_sends_too_much_is_not_acknowledged_and_comes_again(
    world: PaymentWorld,
) -> None:
    channel = opens(world)
    attempt = await waiting_attempt(world)
    while not world.app.callbacks._verified.take(channel.name):
        pass
    message = Received(news=(captured(attempt.attempt_id),), event_id="E1")
    with pytest.raises(RateLimited):
        await send(world, channel, b"1", message)
    assert await state_of(world, attempt) is S.PAYING
    world.clock.advance(1)
    assert (await send(world, channel, b"1", message)).result is R.PROCESSED
    assert VERIFIED_BURST > 1000  # equal ones


async def test_somebody_is_told_when_nothing_of_a_channel_is_believed(
    world: PaymentWorld,
) -> None:
    channel = opens(world)

    async def forged() -> list[Any]:
        with capture_logs() as logs:
            answer = await send(world, channel, b"x", None, **{"x-secret": "wrong"})
        assert (answer.result, answer.ack.status_code) == (R.FAILED, 400)
        return [each for each in logs if each["event"] == "callbacks_unverified"]

    for _ in range(UNVERIFIED_ALERT - 1):
        assert await forged() == []
    await send(world, channel, b"1", Received(news=()))  # its secret is right
    for _ in range(UNVERIFIED_ALERT - 1):
        assert await forged() == []
    [alert] = await forged()
    assert (alert["alert"], alert["channel"], alert["in_a_row"]) == (
        True,
        "scripted",
        UNVERIFIED_ALERT,
    )


async def test_a_refusal_has_the_form_that_the_channel_expects(world: PaymentWorld) -> None:
    channel = opens(world)
    unknown = Received(news=(captured("ATT0"),), event_id="E1")
    answer = await send(world, channel, b"1", unknown)
    assert (answer.ack.status_code, answer.ack.body) == (400, b'{"code": "FAIL"}')
    channel.has_own_refusal = False
    with pytest.raises(PaymentNotFound):
        await send(world, channel, b"1", unknown)


async def test_an_answered_message_of_a_question_leaves_no_age(world: PaymentWorld) -> None:
    """A second question after the first is a message of its own."""
    channel = opens(world)
    attempt = await waiting_attempt(world)
    assert (await send(world, channel, b"1", asks(attempt, "E1"))).result is R.IGNORED
    channel.pay(attempt.attempt_id)
    world.clock.advance(timedelta(seconds=1).total_seconds())
    assert (await send(world, channel, b"2", asks(attempt, "E2"))).result is R.PROCESSED
    assert await logged(world) == [("IGNORED", 1), ("PROCESSED", 1)]
