"""The pages of the buyer: an invoice, and a claim. They work without script."""

from __future__ import annotations

from html import escape

from sandbox.providers.btcpay.answers import address, payment_link, written_coins
from sandbox.providers.btcpay.objects import Invoice, Payout, PullPayment, Status


def invoice_page(invoice: Invoice) -> str:
    """The page of an invoice: where to pay, and a button that pays."""
    amount = f"{invoice.amount.format()} {invoice.currency}" if invoice.amount else "any amount"
    back = str(invoice.checkout.get("redirectURL") or "")
    leave = f'<p><a href="{escape(back)}">Back to the shop</a></p>' if back else ""
    content = f"<p><strong>{escape(amount)}</strong></p><p>{invoice.status}</p>"
    if invoice.status is Status.NEW:
        content += (
            f"<p>{written_coins(invoice.due_satoshi)} BTC to "
            f"<code>{escape(address(invoice))}</code></p>"
            f"<p>QR code: <code>{escape(payment_link(invoice))}</code></p>"
            '<form method="post"><button>Pay</button></form>'
        )
    return _page(content + leave)


def claim_page(found: PullPayment, payouts: list[Payout]) -> str:
    """The page of a claim link."""
    states = "".join(f"<p>{payout.state}</p>" for payout in payouts)
    button = '<form method="post"><button>Claim</button></form>' if not payouts else ""
    amount = escape(str(found.amount))
    return _page(f"<p>{escape(found.name)}</p><p><strong>{amount}</strong></p>{states}{button}")


def _page(content: str) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>BTCPay Server (simulated)</title></head><body><h1>BTCPay Server (simulated)</h1>"
        f"{content}</body></html>"
    )
