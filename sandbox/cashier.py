"""The hosted cashier page: a person sees what is paid and presses Pay or Fail. No JavaScript; whatever came from outside is escaped.

The address is the credential: it holds an unguessable token, so a foreign site cannot name the form it would have to post.
"""

from __future__ import annotations

import base64
import hashlib
import html
from importlib import resources
from string import Template
from typing import assert_never

from starlette.responses import HTMLResponse

from sandbox.domain import Status, Transaction

_SOURCE = resources.files("sandbox").joinpath("cashier.html").read_text(encoding="utf-8")
_PAGE = Template(_SOURCE)
_STYLE = _SOURCE.partition("<style>")[2].partition("</style>")[0]
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_HEADERS = {
    # The page may load nothing, run nothing and be framed by nobody; its forms go back to it.
    "content-security-policy": f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",          # the address is a credential and the state changes
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
_RETURN_AFTER_SECONDS = 5
_BUTTONS = """<form method="post" action="{path}/pay"><button class="pay" type="submit">Pay {amount}</button></form>
<form method="post" action="{path}/fail"><button class="fail" type="submit">Fail</button></form>
<p class="hint">Simulated: no money moves. Open until <time>{expires_at}</time>.</p>"""


def page(transaction: Transaction, *, shop_name: str) -> HTMLResponse:
    """The page of a transaction: buttons while it is open, afterwards its end and the way back to the shop."""
    title, tone, text = _state(transaction)
    amount = html.escape(str(transaction.amount))
    back, refresh = "", ""
    if transaction.is_final:
        body = f'<p class="state {tone}" role="status">{html.escape(text)}</p>'
        if transaction.return_url:
            url = html.escape(transaction.return_url)
            back = f'<p class="back"><a href="{url}" rel="noreferrer">Back to {html.escape(shop_name)}</a></p>'
            refresh = f'<meta http-equiv="refresh" content="{_RETURN_AFTER_SECONDS};url={url}">'
    else:
        expires_at = "" if transaction.expires_at is None else f"{transaction.expires_at:%Y-%m-%d %H:%M} UTC"
        body = _BUTTONS.format(path=f"/cashier/{html.escape(transaction.cashier_token)}", amount=amount, expires_at=expires_at)
    facts = {"For": transaction.subject, "Number": transaction.trade_no}
    rows = "".join(f"<dt>{name}</dt><dd>{html.escape(value)}</dd>" for name, value in facts.items())
    return _render(title=title, shop_name=shop_name, amount=amount, rows=rows, body=body + back, refresh=refresh, status_code=200)


def not_found(*, shop_name: str) -> HTMLResponse:
    """The page of an address that we never gave out."""
    return _render(title="Not found", shop_name=shop_name, amount="", rows="", refresh="", status_code=404,
                   body='<p class="state bad" role="status">There is no such payment.</p>')


def _state(transaction: Transaction) -> tuple[str, str, str]:
    match transaction.status:
        case Status.PENDING:
            return "Pay", "", ""
        case Status.CAPTURED:
            return "Paid", "good", "Paid. Thank you."
        case Status.DECLINED | Status.FAILED:
            return "Not paid", "bad", "The payment failed. No money moved."
        case Status.CLOSED if transaction.decline_code == "expired":
            return "Expired", "bad", "This payment has expired. No money moved."
        case Status.CLOSED:
            return "Closed", "bad", "The shop closed this payment. No money moved."
        case _:
            assert_never(transaction.status)


def _render(*, title: str, shop_name: str, amount: str, rows: str, body: str, refresh: str, status_code: int) -> HTMLResponse:
    content = _PAGE.substitute(title=title, shop_name=html.escape(shop_name), amount=amount, rows=rows, body=body, refresh=refresh)
    return HTMLResponse(content, status_code=status_code, headers=_HEADERS)
