"""What every provider's adapter keeps, on the simulated provider: each way in which a call can end
is a true fact, and money moves once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from mesh.money import Money
from payment_rpc.channels.inbound import Inbound
from payment_rpc.domain.errors import SignatureInvalid
from payment_rpc.domain.facts import ChannelStatus
from payment_rpc.domain.refund_facts import RefundChannelStatus
from tests.builders.provider_channels import KINDS, SimulatedChannel, simulated_channel
from tools.processes import free_port

ATTEMPT, REFUND = "AT00000000000000000000000001", "RF00000000000000000000000001"
TOTAL, PART = 9990, 1000
# what nobody can believe: the channel may have done it
DOUBTFUL = [
    ("lost_answer", {}),
    ("drop", {}),
    ("nonsense", {}),
    ("empty", {}),
    ("status", {"status": 500}),
    ("status_after", {"status": 503}),
    ("cut_at", {"bytes": 200}),
]
CUTS = 8  # places in an answer
ROUNDS = 6


@pytest.fixture(params=sorted(KINDS))
async def world(request: pytest.FixtureRequest) -> AsyncIterator[SimulatedChannel]:
    async with simulated_channel(request.param) as simulated:
        yield simulated


@pytest.fixture(params=sorted(name for name, kind in KINDS.items() if kind.closes))
async def closing(request: pytest.FixtureRequest) -> AsyncIterator[SimulatedChannel]:
    async with simulated_channel(request.param) as simulated:
        yield simulated


@pytest.fixture(params=sorted(name for name, kind in KINDS.items() if kind.tells))
async def telling(request: pytest.FixtureRequest) -> AsyncIterator[SimulatedChannel]:
    async with simulated_channel(request.param) as simulated:
        yield simulated


async def test_a_purchase_from_checkout_to_refund(world):
    opened = await world.open_attempt(ATTEMPT, TOTAL)
    assert opened.status is ChannelStatus.PENDING
    assert opened.next_action is not None
    assert (await world.query(ATTEMPT)).status is ChannelStatus.PENDING
    await world.buyer(ATTEMPT, "pay")
    await world.confirm()
    paid = await world.query(ATTEMPT)
    assert (paid.status, paid.amount) == (ChannelStatus.CAPTURED, Money(TOTAL, world.currency))
    assert paid.trade_no
    assert paid.occurred_at is not None
    first = await world.refund(REFUND, ATTEMPT, PART, TOTAL)
    assert first.status in (RefundChannelStatus.SUCCESS, RefundChannelStatus.PENDING)
    await world.advance(3700)
    asked = await world.query_refund(REFUND, ATTEMPT, PART, TOTAL)
    assert (asked.status, asked.refund_id) == (RefundChannelStatus.SUCCESS, REFUND)
    assert (await world.query(ATTEMPT)).status is ChannelStatus.CAPTURED
    assert await world.money() == [("capture", ATTEMPT, TOTAL), ("refund", REFUND, PART)]


async def test_what_nobody_made_is_not_found(world):
    assert (await world.query(ATTEMPT)).status is ChannelStatus.NOT_FOUND
    await world.buy(ATTEMPT, TOTAL)
    asked = await world.query_refund(REFUND, ATTEMPT, PART, TOTAL)
    assert asked.status is RefundChannelStatus.NOT_FOUND


async def test_an_account_that_works_has_nothing_wrong(world):
    assert await world.channel.check(timeout_seconds=5) == ""


@pytest.mark.drawn(12)
@pytest.mark.parametrize(("kind", "more"), DOUBTFUL)
async def test_a_checkout_without_an_answer_is_unknown_and_can_be_repeated(world, kind, more):
    await world.fault("checkout", kind, **more)
    assert (await world.checkout(ATTEMPT, TOTAL)).status is ChannelStatus.UNKNOWN
    assert await world.money() == []


@pytest.mark.drawn(12)
@pytest.mark.parametrize(("kind", "more"), [*DOUBTFUL, ("status", {"status": 429})])
async def test_a_question_without_an_answer_is_unknown(world, kind, more):
    await world.buy(ATTEMPT, TOTAL)
    await world.fault("query", kind, **more)
    assert (await world.query(ATTEMPT)).status is ChannelStatus.UNKNOWN
    assert (await world.query(ATTEMPT)).status is ChannelStatus.CAPTURED


@pytest.mark.parametrize(("kind", "more"), DOUBTFUL)
async def test_a_close_without_an_answer_is_unknown_and_the_next_one_knows(closing, kind, more):
    await closing.open_attempt(ATTEMPT, TOTAL)
    await closing.fault("close", kind, **more)
    doubtful = await closing.close(ATTEMPT)
    assert doubtful.status in (
        ChannelStatus.UNKNOWN,
        ChannelStatus.PENDING,
        ChannelStatus.CLOSED,
    )
    closed = await closing.close(ATTEMPT)
    assert (closed.status, closed.amount) == (ChannelStatus.CLOSED, Money(TOTAL, closing.currency))


@pytest.mark.drawn(12)
@pytest.mark.parametrize(("kind", "more"), DOUBTFUL)
async def test_a_refund_without_an_answer_is_unknown_and_moves_once(world, kind, more):
    await world.buy(ATTEMPT, TOTAL)
    await world.fault("refund", kind, **more)
    lost = await world.refund(REFUND, ATTEMPT, PART, TOTAL)
    assert lost.status is RefundChannelStatus.UNKNOWN
    asked = await world.query_refund(REFUND, ATTEMPT, PART, TOTAL)
    if asked.status is RefundChannelStatus.NOT_FOUND:
        if world.repeats_errors:
            await world.advance(90_000)
        await world.refund(REFUND, ATTEMPT, PART, TOTAL)
    await world.advance(3700)
    asked = await world.query_refund(REFUND, ATTEMPT, PART, TOTAL)
    assert asked.status is RefundChannelStatus.SUCCESS
    assert await world.money() == [("capture", ATTEMPT, TOTAL), ("refund", REFUND, PART)]


@pytest.mark.parametrize("step", ["query", "query_refund"])
async def test_an_answer_cut_anywhere_is_never_a_wrong_fact(world, step):
    await world.buy(ATTEMPT, TOTAL)
    await world.refund(REFUND, ATTEMPT, PART, TOTAL)
    await world.advance(3700)

    async def ask() -> str:
        if step == "query":
            return str((await world.query(ATTEMPT)).status)
        return str((await world.query_refund(REFUND, ATTEMPT, PART, TOTAL)).status)

    await world.fault(step, "cut_at", bytes=0)
    assert await ask() == "UNKNOWN"
    length = await world.answered_bytes()
    for place in range(1, length, max(1, length // CUTS)):
        await world.fault(step, "cut_at", bytes=place)
        assert await ask() == "UNKNOWN", place
    assert await ask() in ("CAPTURED", "SUCCESS")


async def test_a_word_that_nobody_knows_is_unknown(world):
    await world.buy(ATTEMPT, TOTAL)
    await world.fault("query", "wrong_word", field=world.status_field)
    assert (await world.query(ATTEMPT)).status is ChannelStatus.UNKNOWN


async def test_a_call_that_did_not_leave_says_so(world):
    nobody = world.open(f"http://127.0.0.1:{free_port()}")
    await world.buy(ATTEMPT, TOTAL)
    assert (await world.checkout(ATTEMPT, TOTAL, channel=nobody)).status is ChannelStatus.NOT_SENT
    world.refs.setdefault(ATTEMPT, "pi_1")  # where a question needs the provider's id
    assert (await world.query(ATTEMPT, channel=nobody)).status is ChannelStatus.UNKNOWN
    refund = await world.refund(REFUND, ATTEMPT, PART, TOTAL, channel=nobody)
    assert refund.status is RefundChannelStatus.NOT_SENT
    asked = await world.query_refund(REFUND, ATTEMPT, PART, TOTAL, channel=nobody)
    assert asked.status is RefundChannelStatus.UNKNOWN
    assert await nobody.check(timeout_seconds=5) != ""


async def test_a_slow_answer_is_unknown_when_the_time_is_over(world):
    await world.buy(ATTEMPT, TOTAL)
    await world.fault("query", "delay", seconds=5)
    fact = await world.channel.query(ATTEMPT, ref=world.refs.get(ATTEMPT, ""), timeout_seconds=0.2)
    assert fact.status is ChannelStatus.UNKNOWN


async def test_refunds_at_once_under_one_number_move_once(world):
    await world.buy(ATTEMPT, TOTAL)
    await asyncio.gather(*(world.refund(REFUND, ATTEMPT, PART, TOTAL) for _ in range(4)))
    await world.advance(3700)
    assert await world.money() == [("capture", ATTEMPT, TOTAL), ("refund", REFUND, PART)]


async def test_a_refund_of_what_nobody_paid_gives_nothing(world):
    await world.open_attempt(ATTEMPT, TOTAL)
    refused = await world.refund(REFUND, ATTEMPT, PART, TOTAL)
    assert refused.status in (RefundChannelStatus.FAILED, RefundChannelStatus.UNKNOWN)
    assert await world.money() == []


async def test_what_is_closed_is_not_paid_and_what_is_paid_is_not_closed(closing):
    await closing.open_attempt(ATTEMPT, TOTAL)
    assert (await closing.close(ATTEMPT)).status is ChannelStatus.CLOSED
    assert (await closing.query(ATTEMPT)).status is ChannelStatus.CLOSED
    other = ATTEMPT[:-1] + "2"
    await closing.buy(other, TOTAL)
    late = await closing.close(other)
    assert (late.status, late.amount) == (ChannelStatus.CAPTURED, Money(TOTAL, closing.currency))
    assert await closing.money() == [("capture", other, TOTAL)]


async def test_a_payment_and_a_close_at_once_have_one_winner(closing):
    for number in range(ROUNDS):
        attempt = f"{ATTEMPT[:-1]}{number}"
        await closing.open_attempt(attempt, TOTAL)
        sent = {"own_id": attempt, "does": "pay"}
        closes = [closing.close(attempt) for _ in range(2)]
        if number % 2:
            closes.insert(0, closing.client.post("/_sim/buyer", json=sent))
        else:
            closes.append(closing.client.post("/_sim/buyer", json=sent))
        await asyncio.gather(*closes)
        is_paid = ("capture", attempt, TOTAL) in await closing.money()
        ended = (await closing.query(attempt)).status
        assert ended is (ChannelStatus.CAPTURED if is_paid else ChannelStatus.CLOSED)
        assert (await closing.close(attempt)).status is ended


async def test_a_notice_says_what_the_query_says(telling):
    asked = await telling.buy(ATTEMPT, TOTAL)
    [inbound] = telling.notices()
    received = telling.channel.receive(inbound, now=telling.clock.now())
    (told,) = received.news
    assert (told.attempt_id, told.status, told.amount, told.trade_no) == (
        ATTEMPT,
        ChannelStatus.CAPTURED,
        asked.amount,
        asked.trade_no,
    )
    assert received.event_id
    again = telling.channel.receive(telling.notices()[0], now=telling.clock.now())
    assert (again.news, again.event_id) == (received.news, received.event_id)


async def test_a_notice_with_any_byte_changed_is_refused(world):
    await world.buy(ATTEMPT, TOTAL)
    inbound = world.notices()[0]
    for place in range(0, len(inbound.body), 7):
        changed = bytearray(inbound.body)
        changed[place] ^= 1
        altered = Inbound(body=bytes(changed), headers=inbound.headers)
        with pytest.raises(SignatureInvalid):
            world.channel.receive(altered, now=world.clock.now())
    with pytest.raises(SignatureInvalid):
        world.channel.receive(Inbound(body=b"", headers={}), now=world.clock.now())


async def test_no_secret_is_logged(world, capsys):
    await world.fault("query", "nonsense")
    await world.query(ATTEMPT)
    logged = "".join(capsys.readouterr())
    for secret in world.secrets():
        assert secret not in logged + repr(world.channel) + repr(vars(world.channel))
