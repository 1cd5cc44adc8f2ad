"""Ends transactions: records every outcome, with the callback that reports it and with later steps
of a misbehaving channel. Every method runs inside the caller's transaction.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

from mesh.clock import Clock
from mesh.ids import Ids
from mesh.money import Money
from sandbox import misbehaviour, store, wire
from sandbox.callback_queue import CallbackQueue
from sandbox.domain import (
    CAPTURED,
    DECLINED_FIRST,
    EXPIRED,
    REFUSED_BY_BANK,
    Outcome,
    Status,
    Transaction,
    fee_of,
)
from sandbox.misbehaviour import GOOD, Misbehaviour
from sandbox.store import Scheduled, Tx

# what is scheduled of a transaction
END, PAY_AFTER_ALL, SECOND_CAPTURE = "END", "PAY_AFTER_ALL", "SECOND_CAPTURE"
_ATTEMPT_ID_MAX = 64
_AGAIN = "-2"  # ends the attempt id of a second capture


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelRules:
    """The configured rules of the channel.

    Attributes:
        misbehaves: True in development: amounts and cards may choose misbehaviour.
        fee_basis_points: the fee of each capture.
        allow_signatures: True in development: an outcome may be recorded by asking for its
            signature.
        md5_secret: of source 001's rule.
        signed_callback_delay_seconds: how long the callback of a signed outcome waits, so that the
            hint arrives first.
    """

    misbehaves: bool
    fee_basis_points: int
    allow_signatures: bool
    md5_secret: str
    signed_callback_delay_seconds: float

    def __repr__(self) -> str:
        return "ChannelRules(hidden)"


class Outcomes:
    """Ends transactions."""

    def __init__(
        self, *, clock: Clock, ids: Ids, rules: ChannelRules, callbacks: CallbackQueue
    ) -> None:
        self._clock = clock
        self._ids = ids
        self._rules = rules
        self._callbacks = callbacks

    def end(
        self,
        tx: Tx,
        transaction: Transaction,
        outcome: Outcome,
        *,
        callback_delay_seconds: float = 0,
    ) -> Transaction:
        """Ends a pending transaction, and returns it as it is then."""
        now = self._clock.now()
        behaviour = self.behaviour_of(transaction)
        if outcome.status is Status.CAPTURED and transaction.amount is not None:
            if behaviour.declines:
                outcome = DECLINED_FIRST
            captured = behaviour.captured(transaction.amount)
            ended = transaction.finish(outcome, at=now, captured=captured, fee=self._fee(captured))
            if behaviour.second_capture_seconds is not None:
                store.schedule(
                    tx,
                    what=SECOND_CAPTURE,
                    subject=transaction.attempt_id,
                    due_at=now + timedelta(seconds=behaviour.second_capture_seconds),
                )
        else:
            ended = transaction.finish(outcome, at=now)
        store.save_outcome(tx, ended)
        if outcome in (DECLINED_FIRST, EXPIRED):
            self.schedule_late_payment(tx, ended, behaviour)
        self._enqueue_callback(tx, ended, behaviour, delay_seconds=callback_delay_seconds)
        return ended

    def take_scheduled(self, tx: Tx, scheduled: Scheduled) -> None:
        """Applies the scheduled step of a transaction, unless it has ended otherwise."""
        transaction = store.find(tx, scheduled.subject)
        if transaction is None or transaction.amount is None:
            return
        # it was scheduled, so it happens even if misbehaviour was switched off since
        behaviour = misbehaviour.of_payment(transaction.amount)
        match scheduled.what:
            case "END" if not transaction.is_final:
                self.end(
                    tx,
                    transaction,
                    CAPTURED if behaviour.ends_later is Status.CAPTURED else REFUSED_BY_BANK,
                )
            case "PAY_AFTER_ALL" if not transaction.is_final:  # its close was refused
                self.end(tx, transaction, CAPTURED)
            case "PAY_AFTER_ALL" if transaction.status is not Status.CAPTURED:
                captured = behaviour.captured(transaction.amount)
                paid = transaction.pay_after_all(
                    at=self._clock.now(), captured=captured, fee=self._fee(captured)
                )
                store.save_outcome(tx, paid, before=transaction.status)
                self._enqueue_callback(tx, paid, behaviour)
            case "SECOND_CAPTURE":
                self._capture_again(tx, transaction, behaviour)

    def schedule_late_payment(
        self, tx: Tx, transaction: Transaction, behaviour: Misbehaviour
    ) -> None:
        """Schedules a capture after a close or a decline, for a misbehaving channel."""
        if behaviour.paid_after_all_seconds is not None:
            store.schedule(
                tx,
                what=PAY_AFTER_ALL,
                subject=transaction.attempt_id,
                due_at=self._clock.now() + timedelta(seconds=behaviour.paid_after_all_seconds),
            )

    def _capture_again(self, tx: Tx, first: Transaction, behaviour: Misbehaviour) -> None:
        """Charges the same buyer once more, as another trade. It names the attempt that it
        duplicates, because the shop does not know this one.
        """
        again_id = f"{first.attempt_id[: _ATTEMPT_ID_MAX - len(_AGAIN)]}{_AGAIN}"
        if first.amount is None or store.find(tx, again_id) is not None:
            return
        now, captured = self._clock.now(), behaviour.captured(first.amount)
        again = replace(
            first,
            attempt_id=again_id,
            trade_no=self._ids.new("SBX"),
            status=Status.PENDING,
            captured=None,
            fee=None,
            created_at=now,
            finished_at=None,
            cashier_token="",
            duplicate_of=first.attempt_id,
        )
        paid = again.finish(CAPTURED, at=now, captured=captured, fee=self._fee(captured))
        store.insert(tx, paid)
        self._enqueue_callback(tx, paid, behaviour)

    def _enqueue_callback(
        self, tx: Tx, transaction: Transaction, behaviour: Misbehaviour, *, delay_seconds: float = 0
    ) -> None:
        self._callbacks.enqueue(
            tx,
            lambda event_id: wire.callback_body(transaction, event_id=event_id),
            times=behaviour.callbacks,
            delay_seconds=delay_seconds,
        )

    def behaviour_of(self, transaction: Transaction) -> Misbehaviour:
        """The behaviour of the channel for a transaction."""
        return GOOD if transaction.amount is None else self.behaviour(transaction.amount)

    def behaviour(self, amount: Money) -> Misbehaviour:
        """The behaviour of the channel for a new payment of this amount."""
        return misbehaviour.of_payment(amount) if self._rules.misbehaves else GOOD

    def _fee(self, captured: Money) -> Money:
        return fee_of(captured, basis_points=self._rules.fee_basis_points)
