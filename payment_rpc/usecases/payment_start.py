"""The first transaction of a payment (docs/protocols.md 1, tx1): idempotency record, order gate,
payment and attempt, before any channel is called.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from mesh import idempotency, outbox
from mesh.call import Caller
from mesh.clock import Clock
from mesh.db import ConstraintViolated, Database, StaleRow
from mesh.errors import InvalidArgument
from mesh.failpoints import failpoint
from mesh.idempotency import IdempotencyKey
from mesh.ids import Ids
from payment_rpc.domain.attempt import OPEN, Attempt
from payment_rpc.domain.card import CardSummary
from payment_rpc.domain.errors import (
    OrderAlreadyPaid,
    OrderNotPayable,
    PaymentInProgress,
    TransactionIdFailed,
)
from payment_rpc.domain.facts import ChannelFact, ChannelStatus, apply_channel_fact
from payment_rpc.domain.hold import CaptureMode
from payment_rpc.domain.order import OrderToPay
from payment_rpc.domain.payment import BALANCE, CASHIER, TOP_UP, UNDECIDED, Payment, PaymentState
from payment_rpc.domain.snapshot import to_json
from payment_rpc.domain.wallet import BALANCE_MINOR_MAX
from payment_rpc.store import attempts, ledger, order_gates, payments, wallets
from payment_rpc.usecases.channel_results import Applied
from payment_rpc.usecases.messages import RELAY_DELAY, messages_of

IN_PROGRESS_RETRY_SECONDS = 2.0  # a card answers within a second or two


@dataclass(frozen=True, slots=True, kw_only=True)
class NewPayment:
    """A payment to be started, once per idempotency key. An `order` without an id is a top-up: it
    gets the id of the payment.
    """

    order: OrderToPay
    payment_method: str
    channel: str
    card: CardSummary | None
    idempotency_key: IdempotencyKey | None
    fingerprint: Mapping[str, str]
    capture_mode: CaptureMode = CaptureMode.AUTOMATIC
    watch: timedelta | None = None  # of its channel


@dataclass(frozen=True, slots=True, kw_only=True)
class StartResult:
    """What became of a request for a new payment: started or paid by this call, begun or answered
    by an earlier one, or refused because of `blocking_payment`.
    """

    payment: Payment | None = None
    attempt: Attempt | None = None  # to be sent by this call
    paid: Applied | None = None  # paid out of the buyer's wallet by this call
    answer: str | None = None  # the first final answer of an earlier call with the same key
    earlier_id: str = ""  # the payment that an earlier call began
    replayed: bool = False  # that call had the same idempotency key
    blocking_payment: Payment | None = None  # a live payment of the same order


class PaymentStart:
    """Writes payments that are about to be sent."""

    def __init__(self, *, db: Database, clock: Clock, ids: Ids, lease: timedelta) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids
        self._lease = lease

    async def find_earlier(
        self, idempotency_key: IdempotencyKey | None, fingerprint: Mapping[str, str]
    ) -> StartResult | None:
        """What an earlier call with the same idempotency key left, or None. Reads only our own
        rows, so a replay works while order_rpc is away.

        Raises:
            IdempotencyKeyReused: the key was used with another request.
        """
        if idempotency_key is None:
            return None
        return await self._db.read(self._find_earlier, idempotency_key, fingerprint)

    async def start(self, new: NewPayment) -> StartResult:
        """Runs tx1. Two calls for one order lock its gate one after the other: the first one starts
        its payment, the second one finds it as `blocking_payment`.

        Raises:
            OrderAlreadyPaid, OrderNotPayable, PaymentInProgress, IdempotencyKeyReused,
            InsufficientBalance, InvalidArgument (more than a wallet
                holds), TransactionIdFailed: nothing was written.
        """
        try:
            return await self._db.run(self._start, new)
        except ConstraintViolated as violated:
            if violated.name == "pk_payment":  # the id exists already
                raise TransactionIdFailed from violated
            raise

    def _new_payment_id(self) -> str:
        try:
            return self._ids.new("PAY")
        # no random bits, or a clock beyond all years
        except (OSError, ArithmeticError, LookupError, NotImplementedError) as problem:
            raise TransactionIdFailed from problem

    async def renew(self, payment: Payment, attempt: Attempt) -> Attempt | None:
        """Leases an attempt whose lease is over, to send it once more under the same id. None when
        it has a result, its payment is being closed, or another call leased it.
        """
        return await self._db.run(self._renew, payment, attempt)

    async def _find_earlier(
        self, tx: AsyncConnection, idempotency_key: IdempotencyKey, fingerprint: Mapping[str, str]
    ) -> StartResult | None:
        found = await idempotency.find(tx, idempotency_key, fingerprint=fingerprint)
        if found is None:
            return None
        return StartResult(answer=found.answer, earlier_id=found.resource_id, replayed=True)

    async def _start(self, tx: AsyncConnection, new: NewPayment) -> StartResult:
        now = self._clock.now()
        payment_id = self._new_payment_id()
        order = new.order if new.order.order_id else replace(new.order, order_id=payment_id)
        is_open, live = await order_gates.enter_gate(
            tx, merchant_id=order.merchant_id, order_id=order.order_id, at=now
        )
        # With the gate locked: a call that held it before us has committed its record.
        if new.idempotency_key is not None and (
            earlier := await self._find_earlier(tx, new.idempotency_key, new.fingerprint)
        ):
            return earlier
        for payment in live:
            if payment.state is PaymentState.SUCCESS:
                raise OrderAlreadyPaid(payment_id=payment.payment_id)
            if payment.state not in UNDECIDED:  # late money that the order has not answered yet
                raise PaymentInProgress(
                    payment_id=payment.payment_id, retry_after_seconds=IN_PROGRESS_RETRY_SECONDS
                )
        if not is_open:
            raise OrderNotPayable("The order was closed.", order_state="CLOSED")
        if live:
            return await self._join(tx, live[0], new)
        payment = Payment.start(
            payment_id=payment_id,
            merchant_id=order.merchant_id,
            order_id=order.order_id,
            user_id=order.user_id,
            amount=order.amount,
            payment_method=new.payment_method,
            channel=new.channel,
            card=new.card,
            expires_at=order.expires_at,
            at=now,
            order_no=order.order_no,
            customer_digest=order.customer_digest,
            capture_mode=new.capture_mode,
        )
        attempt = Attempt.start(
            attempt_id=self._ids.new("ATT"),
            payment_id=payment.payment_id,
            merchant_id=order.merchant_id,
            channel=new.channel,
            amount=order.amount,
            lease=self._lease,
            watch_until=None if new.watch is None else order.expires_at + new.watch,
            at=now,
        )
        if new.payment_method == TOP_UP:
            await self._require_room(tx, payment)
        if new.payment_method == BALANCE:
            return StartResult(paid=await self._spend(tx, payment, attempt, new))
        await payments.insert_payment(tx, payment, idempotency_key=new.idempotency_key)
        await attempts.insert_attempt(tx, attempt)
        await _claim_key(tx, new, payment.payment_id, at=now)
        return StartResult(payment=payment, attempt=attempt)

    async def _require_room(self, tx: AsyncConnection, payment: Payment) -> None:
        """Checked before the channel is called: what it captures goes into the wallet.

        Raises:
            InvalidArgument: the wallet would hold more than it can.
        """
        wallet = await wallets.read_wallet(
            tx,
            merchant_id=payment.merchant_id,
            user_id=payment.user_id,
            currency=payment.amount.currency,
        )
        if wallet.balance.minor + payment.amount.minor > BALANCE_MINOR_MAX:
            raise InvalidArgument.of("amount", "the wallet would hold more than it can")

    async def _spend(
        self, tx: AsyncConnection, payment: Payment, attempt: Attempt, new: NewPayment
    ) -> Applied:
        """Pays out of the wallet within this transaction: there is no channel to wait for.

        Raises:
            InsufficientBalance: nothing is written.
        """
        now = self._clock.now()
        entry_id = self._ids.new("WE")
        decision = apply_channel_fact(
            payment,
            attempt,
            ChannelFact(
                attempt_id=attempt.attempt_id,
                status=ChannelStatus.CAPTURED,
                amount=payment.amount,
                trade_no=entry_id,
                occurred_at=now,
            ),
            others_open=False,
            at=now,
        )
        if decision.booking is None:
            raise ValueError("a payment out of a wallet is booked")
        paid = await ledger.book(tx, decision.payment, decision.booking, at=now)
        await payments.insert_payment(tx, paid, idempotency_key=new.idempotency_key)
        await attempts.insert_attempt(tx, decision.attempt)
        await wallets.spend(tx, paid, entry_id=entry_id, at=now)
        messages = messages_of(paid, before=payment, ids=self._ids, at=now, relay_delay=RELAY_DELAY)
        await outbox.put(tx, *messages)
        await _claim_key(tx, new, paid.payment_id, at=now, answer=to_json(paid))
        failpoint("payment.balance.before_commit")
        return Applied(payment=paid, attempt=decision.attempt, changed=True, to_order=messages[0])

    async def _join(self, tx: AsyncConnection, live: Payment, new: NewPayment) -> StartResult:
        """Answers a second call for a cashier with the one that waits for its buyer, and binds it
        to that call's key too. Any other live payment blocks a new one.
        """
        if not (
            live.payment_method == CASHIER == new.payment_method
            and live.channel == new.channel
            and live.capture_mode is new.capture_mode
            and live.state is PaymentState.PAYING
        ):
            return StartResult(blocking_payment=live)
        if new.idempotency_key is not None:
            if (await payments.lock_payment(tx, live.payment_id)).version != live.version:
                raise StaleRow
            await _claim_key(tx, new, live.payment_id, at=self._clock.now())
        return StartResult(earlier_id=live.payment_id)

    async def _renew(
        self, tx: AsyncConnection, payment: Payment, attempt: Attempt
    ) -> Attempt | None:
        now = self._clock.now()
        is_open, _ = await order_gates.enter_gate(
            tx, merchant_id=payment.merchant_id, order_id=payment.order_id, at=now
        )
        locked = await payments.lock_payment(tx, payment.payment_id)
        present = await attempts.get_attempt(tx, attempt.attempt_id)
        if (
            not is_open
            or locked.state is not PaymentState.PAYING
            or present.version != attempt.version
            or present.lease_until > now
        ):
            return None
        renewed = present.resend(lease=self._lease, at=now)
        await attempts.save_attempt(tx, renewed, read_version=present.version)
        return renewed


async def _claim_key(
    tx: AsyncConnection,
    new: NewPayment,
    payment_id: str,
    *,
    at: datetime,
    answer: str | None = None,
) -> None:
    """Binds a payment to the idempotency key of the call, when it has one."""
    if new.idempotency_key is not None:
        await idempotency.claim(
            tx,
            new.idempotency_key,
            fingerprint=new.fingerprint,
            resource_id=payment_id,
            now=at,
            answer=answer,
        )


async def payment_and_open_attempt(
    tx: AsyncConnection, payment_id: str
) -> tuple[Payment, Attempt | None]:
    """A payment and the attempt that may be under way."""
    # Attempts first: each statement sees what is committed when it starts, so a payment that is
    # read later is never older than its attempts.
    found = await attempts.attempts_of(tx, payment_id)
    payment = await payments.read_payment(tx, payment_id)
    return payment, next((attempt for attempt in reversed(found) if attempt.state in OPEN), None)


def idempotency_key_of(
    caller: Caller, method: str, key: str, merchant_id: str
) -> IdempotencyKey | None:
    """The key of a call, or None when the caller sent none."""
    if not key:
        return None
    return IdempotencyKey(merchant_id=merchant_id, caller=caller.key, method=method, key=key)
