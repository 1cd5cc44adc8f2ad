"""A capture of held money whose answer was lost, at a channel that forgets keys (docs/protocols.md 1,
Keys that run out).
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from mesh.money import Money, RequestedAmount
from payment_rpc.domain.attempt import KEY_EXPIRED
from payment_rpc.domain.facts import ChannelStatus
from payment_rpc.domain.payment import Payment, PaymentState
from payment_rpc.store import attempts
from payment_rpc.tables import ATTEMPT
from payment_rpc.usecases.captures import CapturePayment
from tests.builders.holding_channel import SHOP, HoldingChannel, held_payment, holding
from tests.builders.payment import PaymentWorld

WINDOW = timedelta(minutes=30)


async def capture(world: PaymentWorld, payment: Payment, minor: int) -> None:
    """Takes a part and keeps the rest."""
    await world.app.captures.capture_payment(
        CapturePayment(
            payment_id=payment.payment_id,
            amount=RequestedAmount(Money(minor, "CNY").format(), ""),
            keep_rest=True,
            key="",
        ),
        SHOP,
    )


async def expect(world: PaymentWorld, payment: Payment, minor: int) -> None:
    """The rest is held, so much was taken, and the books hold."""
    found = await world.payment(payment.payment_id)
    assert (found.state, found.captured) == (PaymentState.AUTHORIZED, Money(minor, "CNY"))
    assert await world.ledger_problems() == []


async def lost_capture(world: PaymentWorld, channel: HoldingChannel) -> tuple[Payment, str]:
    """A hold whose second part was sent and is not known, and the key of that part."""
    channel._capabilities = replace(channel.capabilities, resend_window=WINDOW)
    held = await held_payment(world, channel)
    world.clock.advance(WINDOW.total_seconds())  # the age of the hold is not that of its captures
    await capture(world, held, 3000)
    channel.unreachable = True
    await capture(world, held, 2000)
    channel.unreachable = False
    return held, channel.captures[-1][0]


async def ask_later(world: PaymentWorld, payment: Payment, *, minutes: int) -> None:
    """The channel is asked, as by a worker that is as far, when so much time is over."""
    world.clock.advance(minutes * 60)
    [attempt] = await world.db.read(attempts.attempts_of, payment.payment_id)
    await world.app.polling.query(attempt)


async def test_a_capture_is_sent_again_as_long_as_its_key_is_known(world: PaymentWorld) -> None:
    channel = holding(world)
    held, key = await lost_capture(world, channel)
    world.clock.advance(29 * 60)
    await world.app.polling.run_once()
    assert [sent for sent, _ in channel.captures[1:]] == [key, key]
    await expect(world, held, 5000)
    assert await world.attention() == []


async def test_a_capture_whose_key_may_be_forgotten_is_asked_about_and_a_person_looks_at_it(
    world: PaymentWorld,
) -> None:
    channel = holding(world)
    held, key = await lost_capture(world, channel)
    channel.says = [ChannelStatus.UNKNOWN]
    await ask_later(world, held, minutes=20)
    sent = [one for one, _ in channel.captures[1:]]
    assert sent == [key, key]  # sent once more, which does not make the key younger
    for _ in range(2):
        await ask_later(world, held, minutes=20)
    assert [one for one, _ in channel.captures[1:]] == sent
    assert await world.attention() == [(KEY_EXPIRED, key)]
    await expect(world, held, 3000)
    # the provider did it after all, and the question finds it
    [attempt] = await world.rows(ATTEMPT)
    channel.take(attempt["attempt_id"], key, Money(2000, "CNY"), is_final=False)
    await ask_later(world, held, minutes=20)
    assert [one for one, _ in channel.captures[1:]] == sent
    await expect(world, held, 5000)


async def test_a_capture_that_older_code_sent_is_as_old_as_its_attempt(world: PaymentWorld) -> None:
    channel = holding(world)
    held, key = await lost_capture(world, channel)
    await world.execute(ATTEMPT.update().values(capture_began_at=None))
    world.clock.advance(29 * 60)
    await world.app.polling.run_once()
    assert len(channel.captures) == 2
    assert await world.attention() == [(KEY_EXPIRED, key)]
    await expect(world, held, 3000)
