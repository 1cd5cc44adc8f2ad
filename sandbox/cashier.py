"""Renders the hosted cashier page, where a person sees whom he pays, what for and how much, chooses
a method and presses Pay or Fail. No JavaScript; all external text is escaped.

The address is the credential: it contains an unguessable token, so a foreign site cannot forge the
form post.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterable
from datetime import datetime
from importlib import resources
from string import Template
from typing import Final, assert_never

from starlette.responses import HTMLResponse

from mesh.languages import Language
from sandbox.cashier_texts import Texts
from sandbox.cashier_values import amount_text, needs_code, plain_text, time_text
from sandbox.domain import PayMethod, Status, Transaction

_SOURCE = resources.files("sandbox").joinpath("cashier.html").read_text(encoding="utf-8")
_PAGE = Template(_SOURCE)
_STYLE = _SOURCE.partition("<style>")[2].partition("</style>")[0]
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
HEADERS: Final = {
    # The page may load nothing, run nothing and not be framed; its forms post only to it.
    "content-security-policy": f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; "
    f"form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",  # the address is a credential and the state changes
    "vary": "Accept-Language",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
_RETURN_AFTER_SECONDS = 5
_LONG_AMOUNT = 14  # characters that fit on a phone in the large size
_ORDER = "Order "  # prefix of the subject of an order's payment
_BUTTONS = """<form method="post" action="{path}/pay{query}"><fieldset><legend>{choose}</legend>{methods}</fieldset><button class="pay" type="submit">{pay}</button></form>
<form method="post" action="{path}/fail{query}"><button class="fail" type="submit">{fail}</button></form>
<p class="hint">{hint}</p>"""
_METHOD = """<label class="method"><input type="radio" name="method" value="{value}"{checked} required>{name}</label>"""
_GOOD_MARK = '<svg viewBox="0 0 24 24" aria-hidden="true"><circle cx="12" cy="12" r="10"/><path d="m7.5 12.5 3 3 6-6.5"/></svg>'
_BAD_MARK = '<svg viewBox="0 0 24 24" aria-hidden="true"><circle cx="12" cy="12" r="10"/><path d="M12 7v6M12 16.5v.01"/></svg>'
# Each language in its own words, for a person who does not read the page's.
_OTHER_LANGUAGE: Final = {
    Language.EN: '<a href="?lang=zh" hreflang="zh-CN" lang="zh-CN">中文</a>',
    Language.ZH: '<a href="?lang=en" hreflang="en" lang="en">English</a>',
}


def page(
    transaction: Transaction, *, now: datetime, shop_name: str, texts: Texts, language_query: str
) -> HTMLResponse:
    """The page of a transaction: methods and buttons while it is open, afterwards its outcome and a
    link to the shop.

    Args:
        shop_name: shown when the checkout named no merchant.
        language_query: kept in the addresses of the buttons; "" or `?lang=…`.
    """
    shop_name = plain_text(transaction.merchant_name) or shop_name
    if transaction.is_final:
        title, tone, text = _outcome(transaction, texts)
        before = _state(tone, text)
        after, refresh = _way_back(transaction.return_url, shop_name, texts)
    else:
        title, before = texts.pay_title, ""
        after = _buttons(transaction, texts, language_query)
        refresh = _refresh_at_the_end(transaction, now)
    return _render(
        texts,
        title=title,
        shop_name=shop_name,
        switch=_OTHER_LANGUAGE[texts.language],
        body="\n".join((before, *_what(transaction, now, shop_name, texts), after)),
        refresh=refresh,
    )


def not_found(*, shop_name: str, texts: Texts) -> HTMLResponse:
    """The page for an unknown address."""
    title, text = texts.not_found
    return _render(
        texts,
        title=title,
        shop_name=shop_name,
        body=f"<h1>{title}</h1>{_state('bad', text)}",
        status_code=404,
    )


def _what(transaction: Transaction, now: datetime, shop_name: str, texts: Texts) -> Iterable[str]:
    """Who is paid, what for, how much, and the rest of the facts."""
    yield f'<p class="label">{texts.payee}</p><h1><bdi>{html.escape(shop_name)}</bdi></h1>'
    if description := plain_text(transaction.description):
        yield f'<p class="about" dir="auto">{html.escape(description)}</p>'
    if (amount := transaction.shown_amount) is not None:
        text = html.escape(amount_text(amount, texts.language))
        code = f" <span>{amount.currency}</span>" if needs_code(amount, texts.language) else ""
        size = " long" if len(text) > _LONG_AMOUNT else ""
        yield f'<p class="amount{size}">{text}{code}</p>'
    rows = "".join(f"<dt>{name}</dt>{value}" for name, value in _facts(transaction, now, texts))
    yield f"<dl>{rows}</dl>"


def _facts(transaction: Transaction, now: datetime, texts: Texts) -> Iterable[tuple[str, str]]:
    """Names of facts and their escaped values."""
    of_order = transaction.subject.startswith(_ORDER)
    if subject := plain_text(transaction.subject.removeprefix(_ORDER)):
        value = f"<dd><bdi>{html.escape(subject)}</bdi></dd>"
        yield texts.order if of_order else texts.purpose, value
    yield texts.number, f'<dd class="number">{html.escape(transaction.trade_no)}</dd>'
    if transaction.status is Status.CAPTURED:
        if transaction.pay_method is not None:
            yield texts.method, f"<dd>{texts.method_name(transaction.pay_method)}</dd>"
        if transaction.finished_at is not None:
            yield texts.paid_at, f"<dd>{_time(transaction.finished_at, texts)}</dd>"
    elif not transaction.is_final and transaction.expires_at is not None:
        until = texts.until.format(time=_time(transaction.expires_at, texts))
        left = _time_left((transaction.expires_at - now).total_seconds(), texts)
        yield texts.time_left, f"<dd>{left}<small>{until}</small></dd>"


def _time(moment: datetime, texts: Texts) -> str:
    return (
        f'<time datetime="{moment:%Y-%m-%dT%H:%M:%SZ}">{time_text(moment, texts.language)}</time>'
    )


def _time_left(seconds: float, texts: Texts) -> str:
    hours, minutes = divmod(int(seconds // 60), 60)
    if hours:
        return texts.hours_left.format(hours=hours, minutes=minutes)
    return texts.minutes_left.format(minutes=minutes) if minutes else texts.seconds_left


def _buttons(transaction: Transaction, texts: Texts, language_query: str) -> str:
    amount = "" if transaction.amount is None else amount_text(transaction.amount, texts.language)
    methods = "".join(
        _METHOD.format(
            value=method,
            checked="" if number else " checked",
            name=texts.method_name(method),
        )
        for number, method in enumerate(PayMethod)
    )
    return _BUTTONS.format(
        path=f"/cashier/{html.escape(transaction.cashier_token)}",
        query=language_query,
        choose=texts.choose,
        methods=methods,
        pay=html.escape(texts.pay.format(amount=amount)),
        fail=texts.fail,
        hint=texts.hint,
    )


def _refresh_at_the_end(transaction: Transaction, now: datetime) -> str:
    """Lets an open page say that it has expired when it has."""
    if transaction.expires_at is None:
        return ""
    seconds = int((transaction.expires_at - now).total_seconds()) + 1
    return f'<meta http-equiv="refresh" content="{seconds}">'


def _way_back(return_url: str, shop_name: str, texts: Texts) -> tuple[str, str]:
    """A link to the shop, and what opens it without a click."""
    if not return_url:
        return "", ""
    url, name = html.escape(return_url), html.escape(shop_name)
    link = texts.back.format(shop=f"<bdi>{name}</bdi>")
    return (
        f'<a href="{url}" class="back" rel="noreferrer">{link}</a><p class="hint">{texts.back_soon}</p>',
        f'<meta http-equiv="refresh" content="{_RETURN_AFTER_SECONDS};url={url}">',
    )


def _state(tone: str, text: str) -> str:
    mark = _GOOD_MARK if tone == "good" else _BAD_MARK
    return f'<p class="state {tone}" role="status">{mark}<span>{text}</span></p>'


def _outcome(transaction: Transaction, texts: Texts) -> tuple[str, str, str]:
    """Title, tone and sentence. Who cancelled it, the buyer at the shop or the shop, the shop
    knows.
    """
    match transaction.status:
        case Status.CAPTURED:
            title, text = texts.paid
            return title, "good", text
        case Status.PENDING | Status.DECLINED | Status.FAILED:
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
    body: str,
    switch: str = "",
    refresh: str = "",
    status_code: int = 200,
) -> HTMLResponse:
    content = _PAGE.substitute(
        lang=texts.tag,
        banner=texts.banner,
        switch=switch,
        title=title,
        shop_name=html.escape(shop_name),
        body=body,
        refresh=refresh,
    )
    return HTMLResponse(content, status_code=status_code, headers=HEADERS)
