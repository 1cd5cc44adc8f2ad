"""Reads orders, and answers that are no refusals."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

from mesh.outbound.connections import Answer
from payment_rpc.channels.doubt import Unclear, message_of
from payment_rpc.channels.paypal.api import CREATED, OK, PayPalApi
from payment_rpc.channels.paypal.objects import Order, decode, issue_of
from payment_rpc.channels.time_left import TimeLeft

NOT_FOUND: Final = 404
UNPROCESSABLE: Final = 422
_GONE: Final = frozenset({"INVALID_RESOURCE_ID", "RESOURCE_NOT_FOUND"})


async def fetch_order(api: PayPalApi, ref: str, left: TimeLeft) -> Order | None:
    """An order; None when PayPal does not know it (any more).

    Raises:
        Unclear: no usable answer. NotSent, Lost: no answer.
    """
    answer = await api.call("GET", path_of(ref), left=left)
    if answer.status_code == NOT_FOUND and issue_of(answer.body) in _GONE:
        return None
    return read_order_answer(answer, ref=ref)


def path_of(ref: str) -> str:
    """Where an order is."""
    return f"/v2/checkout/orders/{quote(ref, safe='')}"


def read_order_answer(answer: Answer, *, ref: str = "") -> Order:
    """The order in an answer.

    Raises:
        Unclear: it is a refusal, or about another order than `ref`.
    """
    must_be_done(answer)
    order = decode(answer.body, Order)
    if ref not in ("", order.id):
        raise Unclear("the answer is about another order")
    return order


def must_be_done(answer: Answer) -> None:
    """Raises Unclear for a refusal."""
    if answer.status_code not in (OK, CREATED):
        raise Unclear(refusal_of(answer))


def refusal_of(answer: Answer) -> str:
    """A refusal in words."""
    return f"answered {answer.status_code} {message_of(issue_of(answer.body))}".rstrip()
