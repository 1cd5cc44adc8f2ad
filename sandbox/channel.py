"""What the channel does, one method per request and one transaction per method. An outcome is committed, together with the callback that tells
it, before anything is answered; a repetition of an attempt id answers what happened the first time.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
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
    InvalidRequest,
    Kind,
    Outcome,
    OutcomeDiffers,
    SignatureDisabled,
    Status,
    Transaction,
    TransactionNotFound,
)
from sandbox.signatures import sign_hint
from sandbox.store import Store, Tx

_EXPIRE_BATCH = 100  # keeps one transaction of the background worker short
_ATTEMPT_ID = re.compile(wire.ATTEMPT_ID)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelRules:
    """What configuration decides.

    Attributes:
        owes_callbacks: False when nobody is configured to receive them; then none are recorded.
        allow_signatures: True in development: an outcome may be recorded by asking for its signature.
        md5_secret: of source 001's rule.
        signed_callback_delay_seconds: how long the callback of a signed outcome waits: whoever asked for the signature delivers the hint first.
    """

    owes_callbacks: bool
    allow_signatures: bool
    md5_secret: str
    signed_callback_delay_seconds: float

    def __repr__(self) -> str:
        return "ChannelRules(hidden)"


class SimulatedChannel:
    """The channel's truth."""

    def __init__(self, channel_store: Store, *, clock: Clock, ids: Ids, new_token: Callable[[], str], rules: ChannelRules,
                 wake_deliveries: Callable[[], None]) -> None:
        self._store = channel_store
        self._clock = clock
        self._ids = ids
        self._new_token = new_token
        self._rules = rules
        self._wake_deliveries = wake_deliveries

    async def charge(self, *, attempt_id: str, amount: Money, card: Card, expires_at: datetime | None) -> tuple[Transaction, bool]:
        """Charges a card. The second value is True when the answer has to be late.

        Raises:
            AttemptReused: the attempt id was used for something else.
        """
        answer = await self._store.run(self._charge, attempt_id=attempt_id, amount=amount, card=card, expires_at=expires_at)
        self._wake_deliveries()
        return answer

    async def checkout(self, *, attempt_id: str, amount: Money, subject: str, return_url: str, expires_at: datetime) -> Transaction:
        """Opens a cashier page.

        Raises:
            AttemptReused: the attempt id was used for something else.
        """
        return await self._store.run(self._checkout, attempt_id=attempt_id, amount=amount, subject=subject, return_url=return_url,
                                     expires_at=expires_at)

    async def query(self, attempt_id: str) -> Transaction:
        """Shows a transaction.

        Raises:
            TransactionNotFound: the channel does not know the id.
        """
        return await self._store.run(self._known, attempt_id)

    async def list_transactions(self, *, after: int, limit: int) -> list[tuple[int, Transaction]]:
        """Transactions in the order in which they came, with their positions."""
        return await self._store.run(store.list_transactions, after=after, limit=limit)

    async def close(self, attempt_id: str) -> Transaction:
        """Closes what is open. An id that is not known becomes a tombstone; what ended before stays as it is."""
        if not _ATTEMPT_ID.match(attempt_id):
            raise InvalidRequest("attempt_id: 1 to 64 letters, digits, - or _")
        return await self._store.run(self._close, attempt_id)

    async def find_cashier(self, token: str) -> Transaction:
        """The transaction of a cashier page.

        Raises:
            TransactionNotFound: there is no such page.
        """
        return await self._store.run(self._by_token, token)

    async def press(self, token: str, *, pay: bool) -> Transaction:
        """A person pressed Pay or Fail. On a transaction that ended before nothing changes.

        Raises:
            TransactionNotFound: there is no such page.
        """
        transaction = await self._store.run(self._press, token, CAPTURED if pay else REFUSED_BY_PAYER)
        self._wake_deliveries()
        return transaction

    async def sign(self, attempt_id: str, request: wire.SignatureRequest) -> str:
        """Records an outcome as the truth and signs it.

        Raises:
            SignatureDisabled: this sandbox does not do that.
            TransactionNotFound: the channel does not know the id.
            OutcomeDiffers: it ended otherwise.
        """
        if not self._rules.allow_signatures:
            raise SignatureDisabled("signatures on request are for development")
        await self._store.run(self._record_signed, attempt_id, request.callback_status)
        return sign_hint(self._rules.md5_secret, payment_id=request.payment_id, callback_status=request.callback_status,
                         timestamp=request.timestamp, nonce=request.nonce)

    async def expire_due(self) -> int:
        """Closes what nobody paid in time; answers how many."""
        return await self._store.run(self._expire_due)

    def _charge(self, tx: Tx, *, attempt_id: str, amount: Money, card: Card, expires_at: datetime | None) -> tuple[Transaction, bool]:
        known = self._find(tx, attempt_id)
        if known is not None:
            known.must_match(kind=Kind.CHARGE, amount=amount)
            return known, False
        now = self._clock.now()
        opened = Transaction(attempt_id=attempt_id, kind=Kind.CHARGE, trade_no=self._ids.new("SBX"), status=Status.PENDING, amount=amount,
                             created_at=now, expires_at=expires_at, card_brand=card.brand, card_last4=card.last4)
        behaviour = behaviour_of(card, now=now)
        ended = opened.finish(EXPIRED if opened.is_due(now) else behaviour.outcome, at=now)
        store.insert(tx, ended)
        self._owe_callback(tx, ended)
        return ended, behaviour.is_slow

    def _checkout(self, tx: Tx, *, attempt_id: str, amount: Money, subject: str, return_url: str, expires_at: datetime) -> Transaction:
        known = self._find(tx, attempt_id)
        if known is not None:
            known.must_match(kind=Kind.CHECKOUT, amount=amount)
            return known
        store.insert(tx, Transaction(
            attempt_id=attempt_id, kind=Kind.CHECKOUT, trade_no=self._ids.new("SBX"), status=Status.PENDING, amount=amount,
            created_at=self._clock.now(), expires_at=expires_at, subject=subject, return_url=return_url, cashier_token=self._new_token()))
        return self._known(tx, attempt_id)

    def _close(self, tx: Tx, attempt_id: str) -> Transaction:
        known = self._find(tx, attempt_id)
        now = self._clock.now()
        if known is None:
            tombstone = Transaction(attempt_id=attempt_id, kind=Kind.TOMBSTONE, trade_no=self._ids.new("SBX"), status=Status.PENDING, amount=None,
                                    created_at=now).finish(CLOSED_BY_SHOP, at=now)
            store.insert(tx, tombstone)
            return tombstone
        if known.is_final:
            return known
        closed = known.finish(CLOSED_BY_SHOP, at=now)
        store.save_outcome(tx, closed)  # no callback: the shop asked for it
        return closed

    def _press(self, tx: Tx, token: str, outcome: Outcome) -> Transaction:
        transaction = self._by_token(tx, token)
        return transaction if transaction.is_final else self._end(tx, transaction, outcome)

    def _record_signed(self, tx: Tx, attempt_id: str, callback_status: str) -> None:
        transaction = self._known(tx, attempt_id)
        if not transaction.is_final:
            outcome = CAPTURED if callback_status == "SUCCESS" else REFUSED_BY_SIGNATURE
            self._end(tx, transaction, outcome, callback_delay_seconds=self._rules.signed_callback_delay_seconds)
            return
        matching = {Status.CAPTURED} if callback_status == "SUCCESS" else {Status.DECLINED, Status.FAILED}
        if transaction.status not in matching:
            raise OutcomeDiffers(f"the transaction is {transaction.status}")

    def _expire_due(self, tx: Tx) -> int:
        due = store.list_due(tx, now=self._clock.now(), limit=_EXPIRE_BATCH)
        for transaction in due:
            self._end(tx, transaction, EXPIRED)
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
        """Nobody sees a transaction open after its deadline, whether or not the worker came by."""
        return self._end(tx, transaction, EXPIRED) if transaction.is_due(self._clock.now()) else transaction

    def _end(self, tx: Tx, transaction: Transaction, outcome: Outcome, *, callback_delay_seconds: float = 0) -> Transaction:
        ended = transaction.finish(outcome, at=self._clock.now())
        store.save_outcome(tx, ended)
        self._owe_callback(tx, ended, delay_seconds=callback_delay_seconds)
        return ended

    def _owe_callback(self, tx: Tx, transaction: Transaction, *, delay_seconds: float = 0) -> None:
        if not self._rules.owes_callbacks:
            return
        event_id = self._ids.new("EVT")
        store.insert_delivery(tx, event_id=event_id, body=wire.callback_body(transaction, event_id=event_id),
                              due_at=self._clock.now() + timedelta(seconds=delay_seconds))
