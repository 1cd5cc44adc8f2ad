"""The RPCs that take money: Charge, CreatePayment and TopUp, in the steps of docs/protocols.md 1.

1. The request is checked and the order read. 2. `PaymentStart` writes payment and attempt (tx1).
3. `PaymentCompletion` calls the channel, applies its answer and informs the order.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from hashlib import sha256

from mesh.call import Caller, Role, mark_replayed
from mesh.clock import Clock
from mesh.customers import buyer_of
from mesh.errors import InvalidArgument, MeshError
from mesh.failpoints import failpoint
from mesh.idempotency import IdempotencyKey
from mesh.money import DEFAULT_CURRENCY
from payment_rpc.channels.capabilities import Instrument
from payment_rpc.channels.requests import PaymentToken
from payment_rpc.domain.attempt import Attempt
from payment_rpc.domain.card import Card, CardSummary
from payment_rpc.domain.channel_account import AccountMode
from payment_rpc.domain.errors import PaymentInProgress, PaymentMethodNotSupported
from payment_rpc.domain.facts import ChannelFact
from payment_rpc.domain.hold import CaptureMode
from payment_rpc.domain.order import OrderToPay
from payment_rpc.domain.payment import BALANCE, CASHIER, CREDIT_CARD, TOKEN, TOP_UP, WALLET, Payment
from payment_rpc.usecases.cancel import Cancellation
from payment_rpc.usecases.channel_choice import HANDED, ChannelChoice, ChosenChannel
from payment_rpc.usecases.merchant_terms import TermsOfMerchants
from payment_rpc.usecases.order_reader import OrderReader
from payment_rpc.usecases.payment_completion import PaymentCompletion
from payment_rpc.usecases.payment_requests import Charge, CreatePayment, TopUp
from payment_rpc.usecases.payment_sending import PaymentSending
from payment_rpc.usecases.payment_start import (
    IN_PROGRESS_RETRY_SECONDS,
    NewPayment,
    PaymentStart,
    StartResult,
    idempotency_key_of,
)

CARD_CHANNEL = "sandbox"
TOP_UP_LIFE = timedelta(minutes=30)  # as long as an order
# What a key is bound to: MOCK is the name of source 001, and keys of before accounts know no "".
_FINGERPRINTS = {"": "sandbox", "mock": "sandbox"}


class Payments:
    """Takes money for orders and wallets."""

    def __init__(
        self,
        *,
        clock: Clock,
        orders: OrderReader,
        start: PaymentStart,
        completion: PaymentCompletion,
        cancellation: Cancellation,
        choice: ChannelChoice,
        sending: PaymentSending,
        terms: TermsOfMerchants,
    ) -> None:
        self._clock = clock
        self._terms = terms
        self._orders = orders
        self._start = start
        self._completion = completion
        self._cancellation = cancellation
        self._choice = choice
        self._sending = sending

    async def charge(self, command: Charge, caller: Caller) -> Payment:
        """Charges a card, a payment method at a provider, or the buyer's wallet, and returns the
        payment: SUCCESS, AUTHORIZED where it only holds the money, or PAYING while the outcome is
        unknown or the buyer has a next step.

        Raises:
            CardInvalid, InvalidArgument, PaymentMethodNotSupported, ChannelNotSupported,
                ReturnUrlNotAllowed, IdempotencyKeyReused, OrderNotFound, OrderAlreadyPaid,
                OrderNotPayable, AmountMismatch, CurrencyMismatch, PaymentInProgress,
                UpstreamUnavailable, InsufficientBalance: nothing was sent.
            CardDeclined, InsufficientFunds, ChannelFailed, ChannelUnavailable, PaymentClosed: the
                payment ended without money.
        """
        match command.payment_method or (TOKEN if command.payment_token else CREDIT_CARD):
            case method if method == BALANCE:
                return await self._charge_balance(command, caller)
            case method if method == TOKEN:
                return await self._charge_token(command, caller)
            case method if method == CREDIT_CARD:
                return await self._charge_card(command, caller)
        raise PaymentMethodNotSupported(
            f"payment_method: {CREDIT_CARD}, {TOKEN} or {BALANCE}",
            fields={"payment_method": "unknown"},
        )

    async def _charge_card(self, command: Charge, caller: Caller) -> Payment:
        for name, value in (
            ("payment_token", command.payment_token),
            ("return_url", command.return_url),
        ):
            if value:
                raise InvalidArgument.of(name, "does not go with a card")
        card = Card.parse(
            number=command.number,
            cvv=command.cvv,
            expiration_year=command.expiration_year,
            expiration_month=command.expiration_month,
            today=self._clock.now().date(),
        )
        summary = card.summary()
        return await self._charge_instrument(
            command,
            caller,
            card,
            {"payment_method": CREDIT_CARD, "credit_card": _spelled(summary)},
            card=summary,
        )

    async def _charge_token(self, command: Charge, caller: Caller) -> Payment:
        if not command.payment_token:
            raise InvalidArgument.of("payment_token", "is required")
        if command.has_card:
            raise InvalidArgument.of("payment_token", "does not go with a card")
        if command.return_url:
            terms = await self._terms.of(command.merchant_id)
            terms.require_return_url(command.return_url)
        token = PaymentToken(value=command.payment_token, return_url=command.return_url)
        # The receipt of a key keeps what a request meant, and must not keep what can be charged.
        digest = sha256(f"{command.merchant_id}\n{command.payment_token}".encode()).hexdigest()
        return await self._charge_instrument(
            command,
            caller,
            token,
            {"payment_method": TOKEN, "payment_token": digest, "return_url": command.return_url},
        )

    async def _charge_instrument(
        self,
        command: Charge,
        caller: Caller,
        instrument: Card | PaymentToken,
        pays_with: Mapping[str, str],
        *,
        card: CardSummary | None = None,
    ) -> Payment:
        fingerprint = {
            "order_id": command.order_id,
            "amount": command.amount.positive().canonical,
            "currency": command.amount.currency,
            **pays_with,
            **_options(command),
        }
        if command.channel:  # keys of before Charge had it know none
            fingerprint["channel"] = _spelled_channel(command.channel)
        idempotency_key = idempotency_key_of(caller, "Charge", command.key, command.merchant_id)
        started = await self._begin(
            command,
            caller,
            idempotency_key,
            fingerprint,
            payment_method=pays_with["payment_method"],
            card=card,
        )
        return await self._completion.complete(
            started, self._sending.instrument(instrument), idempotency_key, fingerprint
        )

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
        idempotency_key = idempotency_key_of(caller, "TopUp", command.key, command.merchant_id)
        started = await self._start.find_earlier(idempotency_key, fingerprint)
        if started is None:
            itself = OrderToPay(
                order_id="",
                merchant_id=command.merchant_id,
                user_id=command.user_id,
                amount=amount,
                state="PENDING_PAYMENT",
                expires_at=now + TOP_UP_LIFE,
            )
            started = await self._start_payment(
                NewPayment(
                    order=itself,
                    payment_method=TOP_UP,
                    channel=CARD_CHANNEL,
                    card=summary,
                    idempotency_key=idempotency_key,
                    fingerprint=fingerprint,
                )
            )
        return await self._completion.complete(
            started, self._sending.instrument(command.card), idempotency_key, fingerprint
        )

    async def _charge_balance(self, command: Charge, caller: Caller) -> Payment:
        if command.capture is CaptureMode.MANUAL:
            raise InvalidArgument.of("capture", "a wallet pays at once")
        for name, value in (
            ("channel", command.channel),
            ("payment_token", command.payment_token),
            ("return_url", command.return_url),
        ):
            if value:
                raise InvalidArgument.of(name, "does not go with a wallet")
        fingerprint = {
            "order_id": command.order_id,
            "amount": command.amount.positive().canonical,
            "currency": command.amount.currency,
            "payment_method": BALANCE,
        }
        idempotency_key = idempotency_key_of(caller, "Charge", command.key, command.merchant_id)
        started = await self._begin(
            command, caller, idempotency_key, fingerprint, payment_method=BALANCE
        )
        return await self._completion.complete(started, _never_sent, idempotency_key, fingerprint)

    async def create_payment(self, command: CreatePayment, caller: Caller) -> Payment:
        """Opens a cashier and returns the payment with the buyer's next action. Asked again for the
        same order and channel it returns the same one.

        Raises:
            ChannelNotSupported, ReturnUrlNotAllowed and the refusals of `charge`.
        """
        if command.return_url:
            terms = await self._terms.of(command.merchant_id)
            terms.require_return_url(command.return_url)
        fingerprint = {
            "order_id": command.order_id,
            "amount": command.amount.positive().canonical,
            "currency": command.amount.currency,
            "channel": _spelled_channel(command.channel),
            "return_url": command.return_url,
            **_options(command),
        }

        description = "" if command.new_order is None else command.new_order.description
        send = self._sending.cashier(return_url=command.return_url, description=description)
        idempotency_key = idempotency_key_of(
            caller, "CreatePayment", command.key, command.merchant_id
        )
        started = await self._begin(
            command, caller, idempotency_key, fingerprint, payment_method=CASHIER
        )
        if command.new_order is not None and started.earlier_id and not started.replayed:
            mark_replayed()
        return await self._completion.complete(started, send, idempotency_key, fingerprint)

    async def _begin(
        self,
        command: Charge | CreatePayment,
        caller: Caller,
        idempotency_key: IdempotencyKey | None,
        fingerprint: Mapping[str, str],
        *,
        payment_method: str,
        card: CardSummary | None = None,
    ) -> StartResult:
        """What an earlier call with this key left; else a new payment, after the check that this
        buyer may pay this order now.
        """
        if (earlier := await self._start.find_earlier(idempotency_key, fingerprint)) is not None:
            return earlier
        try:
            if command.capture is CaptureMode.MANUAL and caller.role is Role.USER:
                (await self._terms.of(command.merchant_id)).require_buyers_hold()
            chosen = await self._chosen(command, payment_method)
            order = await self._order(command)
            user_id = command.user_id or buyer_of(order.order_id)
            order.check(user_id=user_id, amount=command.amount, now=self._clock.now())
            if command.capture is CaptureMode.MANUAL:
                order.require_wait()
            if chosen is not None:
                chosen.require_amount(order.amount)
                order = chosen.within_its_life(order, at=self._clock.now())
        except MeshError:
            # A call with the same key may have begun, and even paid, since our first look. Then
            # this call is its repetition.
            if (earlier := await self._start.find_earlier(idempotency_key, fingerprint)) is None:
                raise
            return earlier
        if payment_method in (CREDIT_CARD, TOKEN):
            failpoint("payment.charge.before_tx1")
        return await self._start_payment(
            NewPayment(
                order=order,
                payment_method=payment_method,
                channel=WALLET if chosen is None else chosen.channel.name,
                watch=None if chosen is None else chosen.channel.capabilities.watch,
                card=card,
                idempotency_key=idempotency_key,
                fingerprint=fingerprint,
                capture_mode=command.capture,
            ),
            None if chosen is None else chosen.mode,
        )

    async def _chosen(
        self, command: Charge | CreatePayment, payment_method: str
    ) -> ChosenChannel | None:
        """The channel of a new payment; None for a wallet. It takes what the buyer pays with."""
        if payment_method == BALANCE:
            return None
        if isinstance(command, CreatePayment):
            pays_with = HANDED
        else:
            pays_with = frozenset(
                {Instrument.TOKEN if payment_method == TOKEN else Instrument.CARD}
            )
        chosen = await self._choice.choose(
            merchant_id=command.merchant_id, named=command.channel, pays_with=pays_with
        )
        if command.capture is CaptureMode.MANUAL:
            chosen.require_hold()
        return chosen

    async def _order(self, command: Charge | CreatePayment) -> OrderToPay:
        if isinstance(command, CreatePayment):
            if command.new_order is not None:
                registered = await self._orders.register(command.new_order)
                failpoint("payment.external.after_register")
                return registered
            return command.order or await self._orders.get(
                merchant_id=command.merchant_id, order_id=command.order_id
            )
        return await self._orders.get(
            merchant_id=command.merchant_id,
            order_id=command.order_id,
            seckill_ticket=command.seckill_ticket,
        )

    async def _start_payment(self, new: NewPayment, mode: AccountMode | None = None) -> StartResult:
        """Runs tx1. A cashier that blocks the new payment is closed first."""
        terms = await self._terms.of(new.order.merchant_id)
        terms.require_open(channel=new.channel, mode=mode)
        started = await self._start.start(new)
        failpoint(
            {
                CREDIT_CARD: "payment.charge.after_tx1",
                TOKEN: "payment.charge.after_tx1",
                CASHIER: "payment.cashier.after_tx1",
                BALANCE: "payment.balance.after_commit",
                TOP_UP: "payment.top_up.after_tx1",
            }[new.payment_method]
        )
        if started.blocking_payment is None:
            return started
        if started.blocking_payment.payment_method == CASHIER:
            await self._cancellation.close_one(started.blocking_payment.payment_id)
            started = await self._start.start(new)
        if started.blocking_payment is not None:
            raise PaymentInProgress(
                payment_id=started.blocking_payment.payment_id,
                retry_after_seconds=IN_PROGRESS_RETRY_SECONDS,
            )
        return started


async def _never_sent(payment: Payment, attempt: Attempt) -> ChannelFact:
    raise ValueError(
        f"{payment.payment_id}: a wallet is no channel, {attempt.attempt_id} cannot be sent"
    )


def _options(command: Charge | CreatePayment) -> dict[str, str]:
    """Options of a request in its fingerprint: what differs from the default alone, so that a key
    of before there were options fits its request still.
    """
    if command.capture is CaptureMode.AUTOMATIC:
        return {}
    return {"capture": command.capture.value}


def _spelled_channel(named: str) -> str:
    return _FINGERPRINTS.get(named.lower(), named)


def _spelled(card: CardSummary) -> str:
    return f"{card.brand} {card.last_four} {card.expiration_year}-{card.expiration_month}"
