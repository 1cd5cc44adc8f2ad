"""What the buyer, the chain and people of the store do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sandbox.providers.btcpay.invoices import InvoiceDesk
from sandbox.providers.btcpay.objects import SATOSHI, PayoutState, Status
from sandbox.providers.btcpay.refunds import RefundDesk
from sandbox.providers.btcpay.refusals import Refused
from sandbox.providers.control import DeedRefused


class Buyer:
    """Does deeds by name, at the invoice, pull payment or payout that `ref` names, or at the newest
    invoice with the order id `own_id`.

    | does | at | what happens |
    |---|---|---|
    | pay | invoice | pays as the amount asks for, see `triggers` |
    | pay_full, pay_partial, pay_over | invoice | pays what is due, half of it, a tenth more, now |
    | pay_unconfirmed | invoice | pays what is due; nothing confirms it before `confirm` |
    | pay_late | invoice | lets it expire first |
    | confirm | invoice | confirms what was paid |
    | expire | invoice | its time to pay ends now |
    | mark_settled, mark_invalid | invoice | a human says so |
    | claim | pull payment | the buyer claims the whole |
    | approve, complete, cancel | payout | moves it on |
    """

    def __init__(self, desk: InvoiceDesk, refunds: RefundDesk) -> None:
        self._desk = desk
        move = refunds.move
        self._deeds: dict[str, Callable[[str], object]] = {
            "pay": desk.pay_as_asked,
            "pay_full": lambda ref: self._pay(ref, 100),
            "pay_partial": lambda ref: self._pay(ref, 50),
            "pay_over": lambda ref: self._pay(ref, 110),
            "pay_unconfirmed": lambda ref: self._pay(ref, 100, confirms=False),
            "pay_late": self._pay_late,
            "confirm": desk.confirm,
            "expire": desk.expire,
            "mark_settled": lambda ref: desk.mark(ref, Status.SETTLED),
            "mark_invalid": lambda ref: desk.mark(ref, Status.INVALID),
            "claim": refunds.claim,
            "approve": lambda ref: move(ref, PayoutState.AWAITING_PAYMENT),
            "complete": lambda ref: move(ref, PayoutState.COMPLETED),
            "cancel": lambda ref: move(ref, PayoutState.CANCELLED),
        }

    def __call__(self, sent: Mapping[str, Any]) -> Mapping[str, Any]:
        """Does it.

        Raises:
            DeedRefused: there is no such thing, or it cannot be done to it now.
        """
        ref = str(sent["ref"]) if "ref" in sent else self._newest(str(sent["own_id"]))
        deed = self._deeds.get(str(sent["does"]))
        if deed is None:
            raise DeedRefused(f"nobody can {sent['does']}")
        try:
            deed(ref)
        except Refused as refusal:
            raise DeedRefused(str(refusal.body)) from None
        except KeyError:
            raise DeedRefused(f"no {ref}") from None
        invoice = self._desk.invoices.get(ref)
        return {"ref": ref, **({"status": invoice.status} if invoice else {})}

    def _newest(self, own_id: str) -> str:
        for invoice in reversed(list(self._desk.invoices.values())):
            if invoice.order_id == own_id:
                return invoice.id
        raise DeedRefused(f"no invoice of {own_id}")

    def _pay(self, invoice_id: str, per_cent: int, *, confirms: bool = True) -> None:
        due = self._desk.find(invoice_id).due_satoshi or SATOSHI // 1000
        self._desk.pay(invoice_id, due * per_cent // 100, confirms=confirms)

    def _pay_late(self, invoice_id: str) -> None:
        self._desk.expire(invoice_id)
        self._pay(invoice_id, 100)
