"""Taking money: charging a card and opening a cashier, in the steps of docs/protocols.md 1.

1. check the request, read the order. 2. tx1 writes payment and attempt. 3. the channel is called
  with no transaction open. 4. its answer is applied.
5. the order is told at once. A call that died anywhere is finished by the same key, by a callback
  or by the workers, through the same methods.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NoReturn, Protocol

import structlog

from mesh.call import Caller, current_call, mark_replayed
from mesh.clock import Clock
from mesh.db import Database
from mesh.errors import MeshError, MoneyError
from mesh.failpoints import FailpointRaised, failpoint
from mesh.idempotency import IdempotencyKey
from mesh.money import DEFAULT_CURRENCY, RequestedAmount
from mesh.outbox import Message
from payment_rpc.cache import PaymentCache
from payment_rpc.channels import Channel
from payment_rpc.domain.attempt import Attempt, AttemptState
from payment_rpc.domain.card import Card, CardSummary
from payment_rpc.domain.errors import (
    CardDeclined,
    ChannelFailed,
    ChannelNotSupported,
    ChannelUnavailable,
    InsufficientFunds,
    PaymentClosed,
    PaymentConflicted,
    PaymentInProgress,
    PaymentMethodNotSupported,
    ReturnUrlNotAllowed,
)
from payment_rpc.domain.facts import ChannelFact
from payment_rpc.domain.order import OrderToPay
from payment_rpc.domain.payment import (
    BALANCE,
    CASHIER,
    CREDIT_CARD,
    TOP_UP,
    WALLET,
    Payment,
    PaymentState,
)
from payment_rpc.domain.snapshot import from_json
from payment_rpc.store import attempts, payments
from payment_rpc.usecases.asking import Asking
from payment_rpc.usecases.closing import Closing
from payment_rpc.usecases.facts import Applied, Facts
from payment_rpc.usecases.first_news import FirstNews
from payment_rpc.usecases.starting import (
    IN_PROGRESS_RETRY_SECONDS,
    NewPayment,
    Standing,
    Starting,
    payment_and_open_attempt,
)

# of the caller's deadline, kept for writing down what the channel said and telling the order
WRITE_DOWN_SECONDS = 1.0
# longest wait of a buyer for the order to hear of the money; the relay goes on without him
FAST_PATH_SECONDS = 0.5
# How often a repeated call looks whether the first one has its answer: two seconds in all
# (docs/protocols.md 2).
ANSWER_PAUSES_SECONDS = (0.02, 0.04, 0.08, 0.16, *[0.2] * 8, 0.1)
CARD_CHANNEL = "sandbox"
TOP_UP_LIFE = timedelta(minutes=30)  # as long as an order
_RETURN_URL = re.compile(r"https?://[!-~]{1,500}")
_CHANNEL_NAMES = {"": "sandbox", "mock": "sandbox"}  # MOCK is source 001's name
_FAILURES: dict[str, type[MoneyError]] = {
    failure.reason: failure
    for failure in (
        CardDeclined,
        InsufficientFunds,
        ChannelFailed,
        ChannelUnavailable,
        PaymentClosed,
    )
}

log = structlog.get_logger()


class OrderReader(Protocol):
    """The part of order_rpc that shows orders."""

    async def get(self, *, merchant_id: str, order_id: str, seckill_ticket: str = "") -> OrderToPay:
        """An order, or OrderNotFound, or OrderCreating when the ticket is of an order on its
        way.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """A card charge as it was asked for. `key` is the idempotency key, "" without one."""

    merchant_id: str
    order_id: str
    user_id: str
    amount: RequestedAmount
    payment_method: str
    number: str = field(repr=False)
    cvv: str = field(repr=False)
    expiration_year: int
    expiration_month: int
    key: str
    seckill_ticket: str = ""  # of an order of a flash sale that order_rpc may not have yet


@dataclass(frozen=True, slots=True, kw_only=True)
class TopUp:
    """A top-up as it was asked for. No currency means CNY; `key` is the idempotency key."""

    merchant_id: str
    user_id: str
    amount: RequestedAmount
    card: Card
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatePayment:
    """A payment at a cashier as it was asked for. `amount` may be empty; `order` comes
    from order_rpc, which is not asked back.
    """

    merchant_id: str
    order_id: str
    user_id: str
    amount: RequestedAmount
    channel: str
    return_url: str
    key: str
    order: OrderToPay | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChargingLimits:
    """Times and lists that a deployment chooses.

    Attributes:
        channel_timeout_seconds: longest wait for a channel; then the outcome is UNKNOWN and the
            buyer hears PAYING.
        return_urls: prefixes of return URLs per merchant.
    """

    channel_timeout_seconds: float
    return_urls: Mapping[str, tuple[str, ...]]


Send = Callable[[Payment, Attempt], Coroutine[Any, Any, ChannelFact]]


class Charging:
    """Takes money for orders."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        orders: OrderReader,
        starting: Starting,
        facts: Facts,
        asking: Asking,
        closing: Closing,
        cache: PaymentCache,
        channels: Mapping[str, Channel],
        tell_order: Callable[[Message], Awaitable[bool]],
        limits: ChargingLimits,
    ) -> None:
        self._db = db
        self._clock = clock
        self._orders = orders
        self._starting = starting
        self._facts = facts
        self._asking = asking
        self._closing = closing
        self._channels = channels
        self._tell_order = tell_order
        self._cache = cache
        self._limits = limits
        self._first_news = FirstNews(facts)
        self._waits: dict[str, asyncio.Task[tuple[Payment, Attempt | None]]] = {}

    async def charge(self, command: Charge, caller: Caller) -> Payment:
        """Charges a card, or the buyer's wallet, and returns the payment: SUCCESS, or PAYING while
        the outcome is unknown.

        Raises:
            CardInvalid, InvalidArgument, PaymentMethodNotSupported, IdempotencyKeyReused,
            OrderNotFound, OrderAlreadyPaid, OrderNotPayable,
            AmountMismatch, CurrencyMismatch, PaymentInProgress, UpstreamUnavailable,
                InsufficientBalance: nothing was sent.
            CardDeclined, InsufficientFunds, ChannelFailed, ChannelUnavailable, PaymentClosed: the
                payment ended without money.
        """
        if command.payment_method == BALANCE:
            return await self._charge_balance(command, caller)
        if command.payment_method not in ("", CREDIT_CARD):
            raise PaymentMethodNotSupported(
                f"payment_method: {CREDIT_CARD} or {BALANCE}", fields={"payment_method": "unknown"}
            )
        card = Card.parse(
            number=command.number,
            cvv=command.cvv,
            expiration_year=command.expiration_year,
            expiration_month=command.expiration_month,
            today=self._clock.now().date(),
        )
        summary = card.summary()
        fingerprint = {
            "order_id": command.order_id,
            "amount": command.amount.positive().canonical,
            "currency": command.amount.currency,
            "payment_method": CREDIT_CARD,
            "credit_card": _spelled(summary),
        }
        channel = self._channels[CARD_CHANNEL]
        send = self._card_sender(channel, card)
        idempotency_key = _idempotency_key(caller, "Charge", command.key, command.merchant_id)
        standing = await self._begin(
            command,
            idempotency_key,
            fingerprint,
            payment_method=CREDIT_CARD,
            channel=channel.name,
            card=summary,
        )
        return await self._finish(standing, send, idempotency_key, fingerprint)

    async def top_up(self, command: TopUp, caller: Caller) -> Payment:
        """Pays money into the caller's wallet by card and returns the payment: SUCCESS, or PAYING
        while the outcome is unknown.

        Raises:
            CardInvalid, InvalidArgument, IdempotencyKeyReused: nothing was sent.
            CardDeclined, InsufficientFunds, ChannelFailed, ChannelUnavailable, PaymentClosed: the
                payment ended without money.
        """
        now = self._clock.now()
        amount = command.amount.in_currency(command.amount.currency or DEFAULT_CURRENCY)
        summary = command.card.summary()
        fingerprint = {
            "amount": command.amount.positive().canonical,
            "currency": amount.currency,
            "credit_card": _spelled(summary),
        }
        channel = self._channels[CARD_CHANNEL]
        idempotency_key = _idempotency_key(caller, "TopUp", command.key, command.merchant_id)
        standing = await self._starting.earlier(idempotency_key, fingerprint)
        if standing is None:
            itself = OrderToPay(
                order_id="",
                merchant_id=command.merchant_id,
                user_id=command.user_id,
                amount=amount,
                state="PENDING_PAYMENT",
                expires_at=now + TOP_UP_LIFE,
            )
            standing = await self._start(
                NewPayment(
                    order=itself,
                    payment_method=TOP_UP,
                    channel=channel.name,
                    card=summary,
                    idempotency_key=idempotency_key,
                    fingerprint=fingerprint,
                )
            )
        return await self._finish(
            standing, self._card_sender(channel, command.card), idempotency_key, fingerprint
        )

    async def _charge_balance(self, command: Charge, caller: Caller) -> Payment:
        fingerprint = {
            "order_id": command.order_id,
            "amount": command.amount.positive().canonical,
            "currency": command.amount.currency,
            "payment_method": BALANCE,
        }
        idempotency_key = _idempotency_key(caller, "Charge", command.key, command.merchant_id)
        standing = await self._begin(
            command, idempotency_key, fingerprint, payment_method=BALANCE, channel=WALLET
        )
        return await self._finish(standing, _never_sent, idempotency_key, fingerprint)

    def _card_sender(self, channel: Channel, card: Card) -> Send:
        async def send(payment: Payment, attempt: Attempt) -> ChannelFact:
            return await channel.charge(
                attempt_id=attempt.attempt_id,
                amount=payment.amount,
                card=card,
                expires_at=payment.expires_at,
                timeout_seconds=self._channel_seconds(),
            )

        return send

    async def create_payment(self, command: CreatePayment, caller: Caller) -> Payment:
        """Opens a cashier and returns the payment with the buyer's next action. Asked again for the
        same order and channel it returns the same one.

        Raises:
            ChannelNotSupported, ReturnUrlNotAllowed and the refusals of `charge`.
        """
        name = _CHANNEL_NAMES.get(command.channel.lower(), command.channel)
        channel = self._channels.get(name)
        if channel is None:
            raise ChannelNotSupported(
                f"channel: there is no channel {command.channel!r}", fields={"channel": "unknown"}
            )
        self._check_return_url(command)
        fingerprint = {
            "order_id": command.order_id,
            "amount": command.amount.positive().canonical,
            "currency": command.amount.currency,
            "channel": name,
            "return_url": command.return_url,
        }

        async def send(payment: Payment, attempt: Attempt) -> ChannelFact:
            return await channel.checkout(
                attempt_id=attempt.attempt_id,
                amount=payment.amount,
                subject=f"Order {payment.order_id}",
                return_url=command.return_url,
                expires_at=payment.expires_at,
                timeout_seconds=self._channel_seconds(),
            )

        idempotency_key = _idempotency_key(
            caller, "CreatePayment", command.key, command.merchant_id
        )
        standing = await self._begin(
            command, idempotency_key, fingerprint, payment_method=CASHIER, channel=name
        )
        return await self._finish(standing, send, idempotency_key, fingerprint)

    async def _begin(
        self,
        command: Charge | CreatePayment,
        idempotency_key: IdempotencyKey | None,
        fingerprint: Mapping[str, str],
        *,
        payment_method: str,
        channel: str,
        card: CardSummary | None = None,
    ) -> Standing:
        """What an earlier call with this key left; when there was none, a new payment of the order,
        which this buyer may pay now.
        """
        if (earlier := await self._starting.earlier(idempotency_key, fingerprint)) is not None:
            return earlier
        try:
            order = await self._order(command)
            order.check(
                user_id=command.user_id,
                amount=command.amount,
                now=self._clock.now(),
            )
        except MeshError:
            # The first call with this key may have begun, and even paid, between our two looks:
            # then this one is its repetition.
            if (earlier := await self._starting.earlier(idempotency_key, fingerprint)) is None:
                raise
            return earlier
        if payment_method == CREDIT_CARD:
            failpoint("payment.charge.before_tx1")
        return await self._start(
            NewPayment(
                order=order,
                payment_method=payment_method,
                channel=channel,
                card=card,
                idempotency_key=idempotency_key,
                fingerprint=fingerprint,
            )
        )

    async def _order(self, command: Charge | CreatePayment) -> OrderToPay:
        if isinstance(command, CreatePayment):
            return command.order or await self._orders.get(
                merchant_id=command.merchant_id, order_id=command.order_id
            )
        return await self._orders.get(
            merchant_id=command.merchant_id,
            order_id=command.order_id,
            seckill_ticket=command.seckill_ticket,
        )

    def _channel_seconds(self) -> float:
        """How long a channel may take: what the caller's deadline leaves of it. Without time
        nothing is sent.
        """
        call, longest = current_call(), self._limits.channel_timeout_seconds
        return (
            longest if call is None else min(longest, call.remaining_seconds() - WRITE_DOWN_SECONDS)
        )

    def _check_return_url(self, command: CreatePayment) -> None:
        allowed = self._limits.return_urls.get(command.merchant_id, ())
        if command.return_url and not (
            _RETURN_URL.fullmatch(command.return_url) and command.return_url.startswith(allowed)
        ):
            raise ReturnUrlNotAllowed(
                "return_url: not on the allow-list",
                fields={"return_url": "not on the merchant's allow-list"},
            )

    async def _start(self, new: NewPayment) -> Standing:
        """tx1, after whatever stands in the way was closed if it may be."""
        standing = await self._starting.start(new)
        failpoint(
            {
                CREDIT_CARD: "payment.charge.after_tx1",
                CASHIER: "payment.cashier.after_tx1",
                BALANCE: "payment.balance.after_commit",
                TOP_UP: "payment.top_up.after_tx1",
            }[new.payment_method]
        )
        if standing.in_the_way is None:
            return standing
        if standing.in_the_way.payment_method == CASHIER:
            await self._closing.close(standing.in_the_way.payment_id)
            standing = await self._starting.start(new)
        if standing.in_the_way is not None:
            raise PaymentInProgress(
                payment_id=standing.in_the_way.payment_id,
                retry_after_seconds=IN_PROGRESS_RETRY_SECONDS,
            )
        return standing

    async def _finish(
        self,
        standing: Standing,
        send: Send,
        idempotency_key: IdempotencyKey | None,
        fingerprint: Mapping[str, str],
    ) -> Payment:
        if standing.paid is not None:
            await self._cache.put_changed(standing.paid.payment)
            return await self._tell(standing.paid)
        if standing.payment is not None and standing.attempt is not None:
            return answer_of(
                await self._send(standing.payment, standing.attempt, send, first_send=True)
            )
        if standing.replayed:
            mark_replayed()
        if standing.answer is None:
            payment = await self._resume(standing.earlier_id, send)
            # The row may have gone on since its first final answer, which is what every call with
            # this key gets.
            again = (
                await self._starting.earlier(idempotency_key, fingerprint)
                if standing.replayed
                else None
            )
            if again is None or again.answer is None:
                return answer_of(payment)
            standing = again
        return answer_of(from_json(standing.answer or ""))

    async def _send(
        self, payment: Payment, attempt: Attempt, send: Send, *, first_send: bool
    ) -> Payment:
        """The channel call, what it means, and the order's first news of it."""
        news = await self._first_news.of(payment.payment_id, send(payment, attempt))
        if isinstance(news, Applied):
            return await self._tell(news)
        failpoint("payment.charge.after_channel")
        try:
            applied = await self._facts.apply(
                news, payment_id=payment.payment_id, first_send=first_send, told_by_caller=True
            )
        except FailpointRaised:
            raise
        except Exception:
            # The channel was called: from here on nobody may hear that nothing was done, or that we
            # failed, whatever went wrong. A callback or the workers write down what it said.
            log.exception(
                "fact_written_later", payment_id=payment.payment_id, attempt_id=attempt.attempt_id
            )
            return payment
        return await self._tell(applied)

    async def _tell(self, applied: Applied) -> Payment:
        if applied.to_order is not None:
            try:
                async with asyncio.timeout(FAST_PATH_SECONDS):
                    await self._tell_order(applied.to_order)
            except TimeoutError:
                log.info("order_told_later", payment_id=applied.payment.payment_id)
            except Exception:
                log.exception("order_told_later", payment_id=applied.payment.payment_id)
        return applied.payment

    async def _resume(self, payment_id: str, send: Send) -> Payment:
        """An earlier call began this payment. While it may still be sending, the present state is
        the answer; after that we ask, and send again under the same attempt id only what the
        channel has never seen."""
        payment, attempt = await self._wait_for_answer(payment_id)
        if attempt is None or attempt.lease_until > self._clock.now():
            return payment
        if await self._asking.is_unknown_to_channel(attempt):
            renewed = await self._starting.renew(
                payment, (await self._db.read(attempts.get_attempt, attempt.attempt_id))
            )
            if renewed is not None:
                return await self._send(payment, renewed, send, first_send=False)
        return await self._db.read(payments.read_payment, payment_id)

    async def _wait_for_answer(self, payment_id: str) -> tuple[Payment, Attempt | None]:
        """The payment, and its open attempt while there is no answer to give. The call that is
        sending it gets a moment to finish, so that a hundred clicks at once get one answer; they
        look together, not each for himself."""
        task = self._waits.get(payment_id)
        if task is None:
            task = self._waits[payment_id] = asyncio.create_task(self._look_for_answer(payment_id))
            task.add_done_callback(lambda done: self._looked(payment_id, done))
        return await asyncio.shield(task)

    def _looked(self, payment_id: str, done: asyncio.Task[tuple[Payment, Attempt | None]]) -> None:
        del self._waits[payment_id]
        if not done.cancelled():
            done.exception()  # whoever waited has it; when all of them went away nobody asks

    async def _look_for_answer(self, payment_id: str) -> tuple[Payment, Attempt | None]:
        for pause_seconds in ANSWER_PAUSES_SECONDS:
            payment, attempt = await self._db.read(payment_and_open_attempt, payment_id)
            if (
                attempt is None
                or payment.state is not PaymentState.PAYING
                or payment.next_action is not None
            ):
                return payment, None
            if attempt.lease_until <= self._clock.now() or attempt.state is not AttemptState.SENT:
                return payment, attempt
            await asyncio.sleep(pause_seconds)
        return payment, attempt


async def _never_sent(payment: Payment, attempt: Attempt) -> ChannelFact:
    raise ValueError(
        f"{payment.payment_id}: a wallet is no channel, {attempt.attempt_id} cannot be sent"
    )


def _spelled(card: CardSummary) -> str:
    return f"{card.brand} {card.last_four} {card.expiration_year}-{card.expiration_month}"


def answer_of(payment: Payment) -> Payment:
    """The payment as an answer, or the refusal that it ended with.

    Raises:
        CardDeclined, InsufficientFunds, ChannelFailed, ChannelUnavailable, PaymentClosed,
            PaymentConflicted: it ended without money of ours.
    """
    if payment.state is PaymentState.CONFLICTED:
        raise PaymentConflicted(payment_id=payment.payment_id)
    if payment.state in (PaymentState.FAILED, PaymentState.CLOSED):
        _refuse(payment)
    return payment


def _refuse(payment: Payment) -> NoReturn:
    failure = payment.failure
    unnamed = PaymentClosed if payment.state is PaymentState.CLOSED else ChannelFailed
    kind = _FAILURES.get(failure.reason, unnamed) if failure else unnamed
    # Every way to end without money leaves the order free: a new payment cannot pay it twice.
    raise kind(
        failure.message if failure and failure.reason in _FAILURES else "",
        payment_id=payment.payment_id,
        outcome=payment.outcome,
        safe_to_retry=True,
    )


def _idempotency_key(
    caller: Caller, method: str, key: str, merchant_id: str
) -> IdempotencyKey | None:
    return (
        IdempotencyKey(merchant_id=merchant_id, caller=caller.key, method=method, key=key)
        if key
        else None
    )
