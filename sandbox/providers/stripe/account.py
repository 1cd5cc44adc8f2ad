"""The account: objects, the balance, and telling events. All services work on one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta
from fractions import Fraction
from typing import Any

from sandbox.providers.ledger import MoneyKind
from sandbox.providers.simulation import Simulation
from sandbox.providers.stripe import currencies, triggers
from sandbox.providers.stripe.config import API_VERSION, StripeConfig
from sandbox.providers.stripe.objects import (
    BalanceTransaction,
    Event,
    PaymentIntent,
    Store,
    seconds,
)
from sandbox.providers.stripe.triggers import Method
from sandbox.providers.stripe.views import Json, Views
from sandbox.providers.webhooks import Notice


@dataclass(frozen=True, slots=True)
class Cause:
    """The request that an event comes from; None for what happens by itself."""

    request_id: str | None = None
    idempotency_key: str | None = None


class Account:
    """Everything that one account has."""

    def __init__(self, simulation: Simulation[StripeConfig]) -> None:
        self.simulation = simulation
        self.config = simulation.config
        self.store = Store()
        self.views = Views(
            self.store, base_url=simulation.base_url, livemode=simulation.config.livemode
        )
        self.methods: dict[str, Method] = {}  # by the id of the PaymentMethod
        self.cause = Cause()  # operations are synchronous: one at a time

    def new_id(self, prefix: str) -> str:
        """An identifier such as `pi_…`."""
        return prefix + self.simulation.ids.new("")

    def now(self) -> int:
        """Whole seconds since 1970."""
        return seconds(self.simulation.clock.now())

    def tell(self, kind: str, data: Json, *, twice: bool = False) -> None:
        """Records an event about an object as it is now, and queues its notice.

        Args:
            twice: two Event objects describe this one change.
        """
        event = Event(
            id=self.new_id("evt_"),
            created=self.now(),
            kind=kind,
            data=json.loads(json.dumps(data)),
            request=self.cause.request_id,
            idempotency_key=self.cause.idempotency_key,
        )
        self.store.events[event.id] = event
        body = json.dumps(self.event(event), indent=2, ensure_ascii=False)
        self.simulation.deliveries.send(Notice(id=event.id, kind=kind, body=body.encode()))
        if twice:
            self.tell(kind, data)

    def tell_payment(self, kind: str, pi: PaymentIntent) -> None:
        """Tells an event about a PaymentIntent."""
        data = self.views.payment_intent(pi)
        self.tell(kind, data, twice=triggers.doubles_events(pi.amount))

    def tell_charge(self, kind: str, ref: str) -> None:
        """Tells an event about a charge."""
        self.tell(kind, self.views.charge(self.store.charges[ref]))

    def event(self, event: Event) -> Json:
        """An Event as JSON."""
        taken = self.simulation.deliveries.is_accepted(event.id)
        return {
            "id": event.id,
            "object": "event",
            "api_version": API_VERSION,
            "created": event.created,
            "data": {"object": event.data},
            "livemode": self.config.livemode,
            "pending_webhooks": 0 if taken else 1,
            "request": {"id": event.request, "idempotency_key": event.idempotency_key},
            "type": event.kind,
        }

    def post(
        self,
        kind: str,
        *,
        amount: int,
        currency: str,
        source: str,
        category: str = "",
        fee: int = 0,
        created: int | None = None,
    ) -> BalanceTransaction:
        """Books a row in the settlement currency.

        Args:
            amount: in the smallest unit of `currency`; negative when money leaves.
            fee: in the settlement currency.
            created: when it happened, in seconds since 1970; None: now.
        """
        settled = self.config.settlement_currency
        rate = None if currency == settled else currencies.rate(currency, settled)
        row = BalanceTransaction(
            id=self.new_id("txn_"),
            created=self.now() if created is None else created,
            amount=currencies.exchanged(amount, currency, settled),
            fee=fee,
            currency=settled,
            kind=kind,
            reporting_category=category or kind,
            source=source,
            exchange_rate=None if rate is None else round(float(rate), 6),
        )
        self.store.balance[row.id] = row
        return row

    def fee(self, amount: int, currency: str) -> int:
        """The fee of a capture in the settlement currency, half up."""
        settled = currencies.exchanged(amount, currency, self.config.settlement_currency)
        share = Fraction(settled * self.config.fee_basis_points, 10_000) + Fraction(1, 2)
        return int(share) + self.config.fee_fixed_minor

    def move(self, kind: MoneyKind, *, ref: str, own_id: str, amount: int, currency: str) -> None:
        """Records that money moved."""
        self.simulation.money.record(
            kind, ref=ref, own_id=own_id, money=currencies.money(amount, currency)
        )

    def save(self, pi: PaymentIntent) -> PaymentIntent:
        """Keeps a PaymentIntent."""
        self.store.payment_intents[pi.id] = pi
        return pi

    def later(self, after_seconds: float, deed: Any) -> None:
        """Does something later; events of it have no request."""

        def by_itself() -> None:
            self.cause = Cause()
            deed()

        moment = self.simulation.clock.now() + timedelta(seconds=after_seconds)
        self.simulation.agenda.at(moment, by_itself)
