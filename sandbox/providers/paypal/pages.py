"""The page on which a buyer approves an order. It works without script."""

from __future__ import annotations

from html import escape
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from sandbox.providers.paypal.amounts import written_value
from sandbox.providers.paypal.objects import Order, OrderStatus

_OPEN = frozenset({OrderStatus.CREATED, OrderStatus.PAYER_ACTION_REQUIRED, OrderStatus.APPROVED})


def approval_page(order: Order) -> str:
    """The page of an order."""
    what = escape(str(order.unit.get("description") or order.invoice_id or order.id))
    amount = escape(f"{written_value(order.amount)} {order.amount.currency}")
    if order.status not in _OPEN:
        return _page(f"<p>{what}</p><p>Nothing is left to approve.</p>")
    note = "<p>Please choose another way to pay.</p>" if order.funding_refused else ""
    return _page(
        f"<p>{what}</p><p><strong>{amount}</strong></p>{note}"
        '<form method="post"><button name="does" value="approve">Pay with PayPal</button> '
        '<button name="does" value="cancel">Cancel and return</button></form>'
    )


def done_page(text: str) -> str:
    """A page for an order without an address to return to, or for none at all."""
    return _page(f"<p>{escape(text)}</p>")


def with_parameters(url: str, **parameters: str) -> str:
    """An address with more parameters."""
    parts = urlsplit(url)
    query = urlencode([*parse_qsl(parts.query, keep_blank_values=True), *parameters.items()])
    return urlunsplit(parts._replace(query=query))


def _page(content: str) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>PayPal (simulated)</title></head><body><h1>PayPal (simulated)</h1>{content}"
        "</body></html>"
    )
