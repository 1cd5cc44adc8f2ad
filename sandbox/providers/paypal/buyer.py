"""What somebody else than the shop does: the buyer, a bank, PayPal's own people."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sandbox.providers.control import DeedRefused
from sandbox.providers.paypal.authorizations import AuthorizationDesk
from sandbox.providers.paypal.books import Books
from sandbox.providers.paypal.captures import CaptureDesk
from sandbox.providers.paypal.objects import CaptureStatus, Dispute, RefundStatus
from sandbox.providers.paypal.orders import OrderDesk
from sandbox.providers.paypal.refunds import RefundDesk
from sandbox.providers.paypal.refusals import Refused


class Buyer:
    """Does deeds by name, at what `ref` names, or at what was last made under `own_id`.

    | does | at | what happens |
    |---|---|---|
    | approve, pay | order | the buyer agrees |
    | decline | order | the buyer goes back to the shop; nothing changes |
    | expire | order | its life ends now |
    | settle, deny | authorization, capture, refund | a pending one ends |
    | fail | refund | a completed one fails |
    | dispute, win, lose | capture | a dispute opens; the seller wins or loses it |
    | charge_back | capture | a bank takes the money back |
    """

    def __init__(
        self,
        books: Books,
        orders: OrderDesk,
        authorizations: AuthorizationDesk,
        captures: CaptureDesk,
        refunds: RefundDesk,
    ) -> None:
        self._books = books
        self._captures = captures
        complete, failed = RefundStatus.COMPLETED, RefundStatus.FAILED
        self._deeds: dict[tuple[str, str], Callable[[str], object]] = {
            ("order", "approve"): orders.approve,
            ("order", "pay"): orders.approve,
            ("order", "decline"): books.order,
            ("order", "expire"): orders.expire,
            ("authorization", "settle"): authorizations.grant,
            ("authorization", "deny"): authorizations.deny,
            ("capture", "settle"): lambda ref: captures.settle(ref, CaptureStatus.COMPLETED),
            ("capture", "deny"): lambda ref: captures.settle(ref, CaptureStatus.DECLINED),
            ("capture", "dispute"): captures.dispute,
            ("capture", "win"): lambda ref: self._resolve(ref, "RESOLVED_SELLER_FAVOUR"),
            ("capture", "lose"): lambda ref: self._resolve(ref, "RESOLVED_BUYER_FAVOUR"),
            ("capture", "charge_back"): captures.charge_back,
            ("refund", "settle"): lambda ref: refunds.settle(ref, complete),
            ("refund", "deny"): lambda ref: refunds.settle(ref, failed),
            ("refund", "fail"): lambda ref: refunds.settle(ref, failed),
        }

    def __call__(self, sent: Mapping[str, Any]) -> Mapping[str, Any]:
        """Does it.

        Raises:
            DeedRefused: there is no such thing, or it cannot be done to it now.
        """
        does = str(sent["does"])
        for kind, ref in self._found(sent):
            if deed := self._deeds.get((kind, does)):
                try:
                    deed(ref)
                except Refused as refusal:
                    raise DeedRefused(refusal.issue) from None
                return {"ref": ref, "status": self._status(kind, ref)}
        raise DeedRefused(f"nothing to {does}")

    def _found(self, sent: Mapping[str, Any]) -> list[tuple[str, str]]:
        """What may be meant, newest first."""
        kinds: tuple[tuple[str, Mapping[str, Any]], ...] = (
            ("refund", self._books.refunds),
            ("capture", self._books.captures),
            ("authorization", self._books.authorizations),
            ("order", self._books.orders),
        )
        return [
            (kind, found.id)
            for kind, kept in kinds
            for found in reversed(list(kept.values()))
            if found.id == sent.get("ref")
            or ("ref" not in sent and found.custom_id == sent.get("own_id"))
        ]

    def _status(self, kind: str, ref: str) -> str:
        kept: Mapping[str, Any] = getattr(self._books, f"{kind}s")
        return str(kept[ref].status)

    def _resolve(self, capture_id: str, outcome: str) -> None:
        for dispute in self._open_disputes(capture_id):
            self._captures.resolve(dispute.id, outcome)

    def _open_disputes(self, capture_id: str) -> list[Dispute]:
        return [
            found
            for found in self._books.disputes.values()
            if found.capture_id == capture_id and not found.outcome
        ]
