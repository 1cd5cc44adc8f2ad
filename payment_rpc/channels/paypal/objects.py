"""PayPal's objects as answers and events have them. Unknown fields are ignored."""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec

from mesh.money import Money
from payment_rpc.channels.doubt import Unclear
from payment_rpc.channels.paypal.amounts import read_amount

Id = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z")]
T = TypeVar("T")


class Amount(msgspec.Struct, frozen=True):
    """An amount."""

    currency_code: str
    value: str

    def money(self) -> Money:
        """Zero or more.

        Raises:
            Unclear: it cannot be read.
        """
        try:
            return read_amount(self.value, self.currency_code)
        except ValueError as problem:
            raise Unclear(f"the amount cannot be read: {problem}") from None


class StatusDetails(msgspec.Struct, frozen=True):
    """Why something waits."""

    reason: str = ""


class Breakdown(msgspec.Struct, frozen=True):
    """What PayPal keeps of a capture."""

    paypal_fee: Amount | None = None


class RelatedIds(msgspec.Struct, frozen=True):
    """What a capture belongs to."""

    order_id: str = ""
    authorization_id: str = ""


class SupplementaryData(msgspec.Struct, frozen=True):
    """In events."""

    related_ids: RelatedIds = RelatedIds()


class Capture(msgspec.Struct, frozen=True):
    """Money that was taken, or will be."""

    id: Id
    status: str
    amount: Amount | None = None
    custom_id: str = ""
    final_capture: bool = False
    status_details: StatusDetails = StatusDetails()
    seller_receivable_breakdown: Breakdown = Breakdown()
    supplementary_data: SupplementaryData = SupplementaryData()
    create_time: str = ""


class Authorization(msgspec.Struct, frozen=True):
    """Money that is held."""

    id: Id
    status: str
    amount: Amount | None = None
    custom_id: str = ""
    expiration_time: str = ""


class Refund(msgspec.Struct, frozen=True):
    """Money that was given back, or will be."""

    id: Id
    status: str
    amount: Amount | None = None
    custom_id: str = ""
    invoice_id: str = ""
    create_time: str = ""
    update_time: str = ""
    seller_payable_breakdown: Breakdown = Breakdown()


class Payments(msgspec.Struct, frozen=True):
    """What happened to a unit."""

    authorizations: tuple[Authorization, ...] = ()
    captures: tuple[Capture, ...] = ()
    refunds: tuple[Refund, ...] = ()


class Unit(msgspec.Struct, frozen=True):
    """What is bought."""

    custom_id: str = ""
    amount: Amount | None = None
    payments: Payments = Payments()


class Link(msgspec.Struct, frozen=True):
    """What can be done next."""

    rel: str
    href: str


class Order(msgspec.Struct, frozen=True):
    """An order. Orders of ours have one unit."""

    id: Id
    status: str
    intent: str = ""
    purchase_units: tuple[Unit, ...] = ()
    links: tuple[Link, ...] = ()

    @property
    def unit(self) -> Unit:
        """The one unit.

        Raises:
            Unclear: there are more.
        """
        if len(self.purchase_units) > 1:
            raise Unclear("the order has several units")
        return self.purchase_units[0] if self.purchase_units else Unit()


class _Detail(msgspec.Struct, frozen=True):
    issue: str = ""


class _Error(msgspec.Struct, frozen=True):
    name: str = ""
    details: tuple[_Detail, ...] = ()


def decode(content: bytes, kind: type[T]) -> T:
    """An object.

    Raises:
        Unclear: it is none.
    """
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise Unclear("the answer cannot be read") from None


def issue_of(content: bytes) -> str:
    """The issue of an error, its name where it has none, or ""."""
    try:
        error = msgspec.json.decode(content, type=_Error)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""
    return next((detail.issue for detail in error.details if detail.issue), error.name)[:64]
