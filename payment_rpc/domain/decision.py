"""What a channel fact makes of the rows of a payment."""

from __future__ import annotations

from dataclasses import dataclass

from mesh.money import Money
from payment_rpc.domain.attempt import Attempt
from payment_rpc.domain.ledger import LedgerTransaction
from payment_rpc.domain.payment import Payment


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What the rows become. `late_booking` follows the others: money that was the merchant's is
    late money. `review_reason` opens a manual review; "" for none. `surplus` is money that nobody
    owed and that was not told of before: it is booked and goes back.
    """

    payment: Payment
    attempt: Attempt
    booking: LedgerTransaction | None = None
    fee_booking: LedgerTransaction | None = None
    surplus: Money | None = None
    late_booking: LedgerTransaction | None = None
    review_reason: str = ""

    def changes(self, payment: Payment, attempt: Attempt) -> bool:
        """False when the fact changed nothing."""
        return self.payment is not payment or self.attempt is not attempt
