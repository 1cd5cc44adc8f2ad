"""Renders the hosted cashier page, where a person sees the amount and presses Pay or Fail. No
JavaScript; all external text is escaped.

The address is the credential: it contains an unguessable token, so a foreign site cannot forge the
form post.
"""

from __future__ import annotations

import base64
import hashlib
import html
from importlib import resources
from string import Template
from typing import assert_never

from starlette.responses import HTMLResponse

from sandbox.cashier_texts import Texts
from sandbox.domain import Status, Transaction

_SOURCE = resources.files("sandbox").joinpath("cashier.html").read_text(encoding="utf-8")
_PAGE = Template(_SOURCE)
_STYLE = _SOURCE.partition("<style>")[2].partition("</style>")[0]
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_HEADERS = {
    # The page may load nothing, run nothing and not be framed; its forms post only to it.
    "content-security-policy": f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; "
    f"form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",  # the address is a credential and the state changes
    "vary": "Accept-Language",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
_RETURN_AFTER_SECONDS = 5
_BUTTONS = """<form method="post" action="{path}/pay"><button class="pay" type="submit">{pay}</button></form>
<form method="post" action="{path}/fail"><button class="fail" type="submit">{fail}</button></form>
<p class="hint">{hint}</p>"""
_ORDER = "Order "  # prefix of the subject of an order's payment


def page(transaction: Transaction, *, shop_name: str, texts: Texts) -> HTMLResponse:
    """The page of a transaction: buttons while it is open, afterwards its outcome and a link to the
    shop.
    """
    title, tone, text = _state(transaction, texts)
    amount = html.escape(str(transaction.amount))
    back, refresh = "", ""
    if transaction.is_final:
        body = f'<p class="state {tone}" role="status">{text}</p>'
        if transaction.return_url:
            url = html.escape(transaction.return_url)
            back = f'<p class="back"><a href="{url}" rel="noreferrer">{texts.back.format(shop=html.escape(shop_name))}</a></p>'
            refresh = f'<meta http-equiv="refresh" content="{_RETURN_AFTER_SECONDS};url={url}">'
    else:
        expires_at = (
            "" if transaction.expires_at is None else f"{transaction.expires_at:%Y-%m-%d %H:%M} UTC"
        )
        body = _BUTTONS.format(
            path=f"/cashier/{html.escape(transaction.cashier_token)}",
            pay=texts.pay.format(amount=amount),
            fail=texts.fail,
            hint=texts.hint.format(time=expires_at),
        )
    of_order = transaction.subject.startswith(_ORDER)
    shop_name = transaction.merchant_name or shop_name
    facts = {
        texts.order if of_order else texts.purpose: transaction.subject.removeprefix(_ORDER),
        **({texts.purpose: transaction.description} if transaction.description else {}),
        texts.number: transaction.trade_no,
    }
    rows = "".join(f"<dt>{name}</dt><dd>{html.escape(value)}</dd>" for name, value in facts.items())
    return _render(
        texts,
        title=title,
        shop_name=shop_name,
        amount=amount,
        rows=rows,
        body=body + back,
        refresh=refresh,
        status_code=200,
    )


def not_found(*, shop_name: str, texts: Texts) -> HTMLResponse:
    """The page for an unknown address."""
    title, text = texts.not_found
    return _render(
        texts,
        title=title,
        shop_name=shop_name,
        amount="",
        rows="",
        refresh="",
        status_code=404,
        body=f'<p class="state bad" role="status">{text}</p>',
    )


def _state(transaction: Transaction, texts: Texts) -> tuple[str, str, str]:
    """Title, tone and sentence. Who cancelled it, the buyer at the shop or the shop, the shop
    knows.
    """
    match transaction.status:
        case Status.PENDING:
            return texts.pay_title, "", ""
        case Status.CAPTURED:
            title, text = texts.paid
            return title, "good", text
        case Status.DECLINED | Status.FAILED:
            title, text = texts.failed
        case Status.CLOSED:
            title, text = (
                texts.expired if transaction.decline_code == "expired" else texts.cancelled
            )
        case _:
            assert_never(transaction.status)
    return title, "bad", text


def _render(
    texts: Texts,
    *,
    title: str,
    shop_name: str,
    amount: str,
    rows: str,
    body: str,
    refresh: str,
    status_code: int,
) -> HTMLResponse:
    content = _PAGE.substitute(
        lang=texts.tag,
        banner=texts.banner,
        title=title,
        shop_name=html.escape(shop_name),
        amount=amount,
        rows=rows,
        body=body,
        refresh=refresh,
    )
    return HTMLResponse(content, status_code=status_code, headers=_HEADERS)
