"""Implements the requests of the channel, one method and one transaction each. An outcome is
committed with its callback before the response; a repeated attempt id gets the first outcome again.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from mesh.clock import Clock
from mesh.ids import Ids
from mesh.money import Money
from sandbox import store, wire
from sandbox.cards import Card, behaviour_of
from sandbox.domain import (
    CAPTURED,
    CLOSED_BY_SHOP,
    EXPIRED,
    REFUSED_BY_PAYER,
    REFUSED_BY_SIGNATURE,
    Breakdown,
    InvalidRequest,
    Kind,
    NotClosable,
    OutcomeDiffers,
    PayMethod,
    SignatureDisabled,
    Status,
    Transaction,
    TransactionNotFound,
)
from sandbox.misbehaviour import ResponseFault
from sandbox.outcomes import END, ChannelRules, Outcomes
from sandbox.signatures import sign_hint
from sandbox.store import Store, Tx

_BATCH = 100  # keeps one transaction of the background worker short
_ATTEMPT_ID = re.compile(wire.ATTEMPT_ID)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChargeResult:
    """The transaction after a charge or checkout, and how its response misbehaves."""

    transaction: Transaction
    answer: ResponseFault = ResponseFault.NORMAL
    callback_first: bool = False


class SimulatedChannel:
    """Transactions of the simulated channel."""

    def __init__(
        self,
        channel_store: Store,
        *,
        clock: Clock,
        ids: Ids,
        new_token: Callable[[], str],
        rules: ChannelRules,
        outcomes: Outcomes,
        wake_deliveries: Callable[[], None],
    ) -> None:
        self._store = channel_store
        self._clock = clock
        self._ids = ids
        self._new_token = new_token
        self._rules = rules
        self._outcomes = outcomes
        self._wake_deliveries = wake_deliveries

    async def charge(
        self, *, attempt_id: str, amount: Money, card: Card, expires_at: datetime | None
    ) -> ChargeResult:
        """Charges a card.

        Raises:
            AttemptReused: the attempt id was used for something else.
            Breakdown: the amount asked for it; nothing was recorded.
        """
        result = await self._store.run(
            self._charge, attempt_id=attempt_id, amount=amount, card=card, expires_at=expires_at
        )
        self._wake_deliveries()
        return result

    async def checkout(
        self,
        *,
        attempt_id: str,
        amount: Money,
        subject: str,
        return_url: str,
        expires_at: datetime,
        merchant_name: str = "",
        description: str = "",
    ) -> ChargeResult:
        """Opens a cashier page.

        Raises:
            AttemptReused: the attempt id was used for something else.
            Breakdown: the amount asked for it; nothing was recorded.
        """
        return await self._store.run(
            self._checkout,
            attempt_id=attempt_id,
            amount=amount,
            subject=subject,
            return_url=return_url,
            expires_at=expires_at,
            merchant_name=merchant_name,
            description=description,
        )

    async def query(self, attempt_id: str) -> Transaction:
        """A transaction.

        Raises:
            TransactionNotFound: the channel does not know the id.
        """
        return await self._store.run(self._known, attempt_id)

    async def list_transactions(self, *, after: int, limit: int) -> list[tuple[int, Transaction]]:
        """Transactions in the order in which they came, with their positions."""
        return await self._store.run(store.list_transactions, after=after, limit=limit)

    async def close(self, attempt_id: str) -> Transaction:
        """Closes an open transaction. An unknown id becomes a tombstone; a final transaction stays
        unchanged.

        Raises:
            NotClosable: this one may still be paid, and may be so for ever.
        """
        if not _ATTEMPT_ID.match(attempt_id):
            raise InvalidRequest("attempt_id: 1 to 64 letters, digits, - or _")
        closed = await self._store.run(self._close, attempt_id)
        if closed is None:
            raise NotClosable("this payment cannot be closed")
        return closed

    async def find_cashier(self, token: str) -> Transaction:
        """The transaction of a cashier page.

        Raises:
            TransactionNotFound: there is no such page.
        """
        return await self._store.run(self._by_token, token)

    async def press(self, token: str, method: PayMethod | None) -> Transaction:
        """Applies Pay with a method, or Fail (None), pressed by a person. A final transaction stays
        unchanged.

        Raises:
            TransactionNotFound: there is no such page.
        """
        transaction = await self._store.run(self._press, token, method)
        self._wake_deliveries()
        return transaction

    async def sign(self, attempt_id: str, request: wire.SignatureRequest) -> str:
        """Records an outcome as final and signs it.

        Raises:
            SignatureDisabled: this sandbox does not sign outcomes.
            TransactionNotFound: the channel does not know the id.
            OutcomeDiffers: it ended otherwise.
        """
        if not self._rules.allow_signatures:
            raise SignatureDisabled("signatures on request are for development")
        await self._store.run(self._record_signed, attempt_id, request.callback_status)
        return sign_hint(
            self._rules.md5_secret,
            payment_id=request.payment_id,
            callback_status=request.callback_status,
            timestamp=request.timestamp,
            nonce=request.nonce,
        )

    async def expire_due(self) -> int:
        """Closes transactions that were not paid in time; returns how many."""
        return await self._store.run(self._expire_due)

    def _charge(
        self, tx: Tx, *, attempt_id: str, amount: Money, card: Card, expires_at: datetime | None
    ) -> ChargeResult:
        known = self._find(tx, attempt_id)
        if known is not None:
            known.must_match(kind=Kind.CHARGE, amount=amount)
            return ChargeResult(transaction=known)
        now = self._clock.now()
        by_amount, by_card = self._outcomes.behaviour(amount), behaviour_of(card, now=now)
        if not by_amount.is_recorded:
            raise Breakdown("broken on demand; nothing was recorded")
        opened = Transaction(
            attempt_id=attempt_id,
            kind=Kind.CHARGE,
            trade_no=self._ids.new("SBX"),
            status=Status.PENDING,
            amount=amount,
            created_at=now,
            expires_at=expires_at if by_amount.expires else None,
            card_brand=card.brand,
            card_last4=card.last4,
            refund_card=by_card.refund_card,
        )
        store.insert(tx, opened)
        if opened.is_due(now):
            self._outcomes.end(tx, opened, EXPIRED)
        elif by_amount.ends_later is None or by_card.outcome.status is not Status.CAPTURED:
            self._outcomes.end(tx, opened, by_card.outcome)
        elif by_amount.ends_later is not Status.PENDING:
            store.schedule(
                tx,
                what=END,
                subject=attempt_id,
                due_at=now + timedelta(seconds=by_amount.later_seconds),
            )
        return ChargeResult(
            transaction=self._known(tx, attempt_id),
            answer=ResponseFault.LATE if by_card.is_slow else by_amount.answer,
            callback_first=by_amount.callback_first,
        )

    def _checkout(
        self,
        tx: Tx,
        *,
        attempt_id: str,
        amount: Money,
        subject: str,
        return_url: str,
        expires_at: datetime,
        merchant_name: str,
        description: str,
    ) -> ChargeResult:
        known = self._find(tx, attempt_id)
        if known is not None:
            known.must_match(kind=Kind.CHECKOUT, amount=amount)
            return ChargeResult(transaction=known)
        behaviour = self._outcomes.behaviour(amount)
        if not behaviour.is_recorded:
            raise Breakdown("broken on demand; nothing was recorded")
        store.insert(
            tx,
            Transaction(
                attempt_id=attempt_id,
                kind=Kind.CHECKOUT,
                trade_no=self._ids.new("SBX"),
                status=Status.PENDING,
                amount=amount,
                created_at=self._clock.now(),
                expires_at=expires_at if behaviour.expires else None,
                subject=subject,
                return_url=return_url,
                cashier_token=self._new_token(),
                merchant_name=merchant_name,
                description=description,
            ),
        )
        return ChargeResult(transaction=self._known(tx, attempt_id), answer=behaviour.answer)

    def _close(self, tx: Tx, attempt_id: str) -> Transaction | None:
        """The closed transaction, or None when it cannot be closed."""
        known = self._find(tx, attempt_id)
        now = self._clock.now()
        if known is None:
            tombstone = Transaction(
                attempt_id=attempt_id,
                kind=Kind.TOMBSTONE,
                trade_no=self._ids.new("SBX"),
                status=Status.PENDING,
                amount=None,
                created_at=now,
            ).finish(CLOSED_BY_SHOP, at=now)
            store.insert(tx, tombstone)
            return tombstone
        if known.is_final:
            return known
        behaviour = self._outcomes.behaviour_of(known)
        self._outcomes.schedule_late_payment(tx, known, behaviour)
        if not behaviour.closable:
            return None
        closed = known.finish(CLOSED_BY_SHOP, at=now)
        store.save_outcome(tx, closed)  # no callback: the shop asked for it
        return closed

    def _press(self, tx: Tx, token: str, method: PayMethod | None) -> Transaction:
        transaction = self._by_token(tx, token)
        if transaction.is_final:
            return transaction
        if method is None:
            return self._outcomes.end(tx, transaction, REFUSED_BY_PAYER)
        return self._outcomes.end(tx, replace(transaction, pay_method=method), CAPTURED)

    def _record_signed(self, tx: Tx, attempt_id: str, callback_status: str) -> None:
        transaction = self._known(tx, attempt_id)
        if not transaction.is_final:
            outcome = CAPTURED if callback_status == "SUCCESS" else REFUSED_BY_SIGNATURE
            self._outcomes.end(
                tx,
                transaction,
                outcome,
                callback_delay_seconds=self._rules.signed_callback_delay_seconds,
            )
            return
        matching = (
            {Status.CAPTURED} if callback_status == "SUCCESS" else {Status.DECLINED, Status.FAILED}
        )
        if transaction.status not in matching:
            raise OutcomeDiffers(f"the transaction is {transaction.status}")

    def _expire_due(self, tx: Tx) -> int:
        due = store.list_due(tx, now=self._clock.now(), limit=_BATCH)
        for transaction in due:
            self._outcomes.end(tx, transaction, EXPIRED)
        return len(due)

    def _known(self, tx: Tx, attempt_id: str) -> Transaction:
        transaction = self._find(tx, attempt_id)
        if transaction is None:
            raise TransactionNotFound("no transaction with this attempt_id")
        return transaction

    def _find(self, tx: Tx, attempt_id: str) -> Transaction | None:
        transaction = store.find(tx, attempt_id)
        return None if transaction is None else self._expired_if_due(tx, transaction)

    def _by_token(self, tx: Tx, token: str) -> Transaction:
        transaction = store.find_by_cashier_token(tx, token)
        if transaction is None:
            raise TransactionNotFound("no such cashier page")
        return self._expired_if_due(tx, transaction)

    def _expired_if_due(self, tx: Tx, transaction: Transaction) -> Transaction:
        """Closes a transaction past its deadline, so that it is never shown open, even before the
        worker runs.
        """
        return (
            self._outcomes.end(tx, transaction, EXPIRED)
            if transaction.is_due(self._clock.now())
            else transaction
        )
