"""The cashier page without a server: amounts of both languages, contrast, and what a page for
everybody needs.
"""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from importlib import resources

import pytest

from mesh.languages import Language
from mesh.money import Money
from sandbox import cashier
from sandbox.cashier_texts import texts_for
from sandbox.cashier_values import amount_text, needs_code, plain_text, time_text
from sandbox.domain import (
    CAPTURED,
    CLOSED_BY_SHOP,
    EXPIRED,
    REFUSED_BY_PAYER,
    Kind,
    PayMethod,
    Status,
    Transaction,
)

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
OPEN = Transaction(
    attempt_id="ATT1",
    kind=Kind.CHECKOUT,
    trade_no="SBX1",
    status=Status.PENDING,
    amount=Money(9999, "CNY"),
    created_at=NOW,
    expires_at=NOW + timedelta(minutes=30),
    subject="Order ORD1",
    return_url="https://shop.test/done?a=1&b=2",
    cashier_token="token",
    merchant_name="Lamps & Co",
    description="Two lamps",
)
PAGES = {
    "open": OPEN,
    "open for ever": replace(OPEN, expires_at=None),
    "paid": replace(OPEN, pay_method=PayMethod.BANK_TRANSFER).finish(CAPTURED, at=NOW),
    "paid by a signature": OPEN.finish(CAPTURED, at=NOW),
    "failed": OPEN.finish(REFUSED_BY_PAYER, at=NOW),
    "expired": OPEN.finish(EXPIRED, at=NOW),
    "closed": OPEN.finish(CLOSED_BY_SHOP, at=NOW),
}
VOID = {"meta", "input", "path", "circle", "br"}


def rendered(transaction: Transaction, language: Language = Language.EN) -> str:
    answer = cashier.page(
        transaction,
        now=NOW,
        shop_name="paymesh mall",
        texts=texts_for("", chosen=language),
        language_query="",
    )
    return bytes(answer.body).decode()


class Outline(HTMLParser):
    """The elements of a page; refuses one that is not closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag


@pytest.mark.parametrize(
    ("minor", "currency", "english", "chinese"),
    [
        (9999, "CNY", "CN¥99.99", "¥99.99"),
        (123456789, "CNY", "CN¥1,234,567.89", "¥1,234,567.89"),
        (1, "USD", "$0.01", "US$0.01"),
        (500, "JPY", "¥500", "JP¥500"),
        (1234567, "KRW", "₩1,234,567", "₩1,234,567"),
        (1234, "KWD", "KWD\u00a01.234", "KWD\u00a01.234"),
        (10**15 - 1, "EUR", "€9,999,999,999,999.99", "€9,999,999,999,999.99"),
    ],
)
def test_an_amount_is_written_exactly_in_the_way_of_each_language(
    minor: int, currency: str, english: str, chinese: str
) -> None:
    amount = Money(minor, currency)
    assert amount_text(amount, Language.EN) == english
    assert amount_text(amount, Language.ZH) == chinese


@pytest.mark.parametrize("language", Language)
@pytest.mark.parametrize("currency", ["CNY", "JPY", "USD", "KWD"])
def test_no_page_leaves_open_which_currency_is_paid(language: Language, currency: str) -> None:
    """Yuan and yen share a sign, and a dozen dollars do."""
    amount = Money(100, currency)
    page = rendered(replace(OPEN, amount=amount), language)
    assert (f"<span>{currency}</span>" in page) is needs_code(amount, language)
    assert needs_code(amount, language) or amount_text(amount, language)[0].isalpha()


@pytest.mark.parametrize(
    ("language", "text"),
    [(Language.EN, "2026-11-20 23:59 UTC"), (Language.ZH, "2026-11-21 07:59 (UTC+8)")],
)
def test_a_time_names_its_zone_and_is_never_later_than_the_moment(
    language: Language, text: str
) -> None:
    assert time_text(datetime(2026, 11, 20, 23, 59, 59, tzinfo=UTC), language) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("  a \r\n b\tc ", "a b c"),
        ("\u202eevil\u202c", "evil"),
        ("\u2066a\u2069", "a"),
        ("\u200b\ufeff", ""),
        ("a\x00b", "a b"),
        ("\U000e0041b", "b"),
        ("👩\u200d🔧", "👩\u200d🔧"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("א\u200f!", "א\u200f!"),
    ],
)
def test_characters_that_hide_or_turn_a_text_are_dropped_and_scripts_keep_theirs(
    text: str, shown: str
) -> None:
    assert plain_text(text) == shown


@pytest.mark.parametrize("language", Language)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_well_formed_and_loads_and_runs_nothing(name: str, language: Language) -> None:
    elements = Outline(rendered(PAGES[name], language)).elements
    tags = [tag for tag, _ in elements]
    assert set(tags).isdisjoint({"script", "link", "img", "iframe", "object", "base"})
    assert [tag for tag in tags if tag in ("html", "main", "h1", "title")] == [
        "html",
        "title",
        "main",
        "h1",
    ]
    for _, attributes in elements:
        assert not any(attribute.startswith("on") for attribute in attributes)
        assert "style" not in attributes
        assert "src" not in attributes


@pytest.mark.parametrize("language", Language)
def test_each_control_of_an_open_page_has_a_name_and_its_group_has_one(language: Language) -> None:
    page = rendered(OPEN, language)
    assert re.search(r"<fieldset>\s*<legend>[^<]+</legend>", page)
    assert len(re.findall(r"<label[^>]*><input[^>]*>[^<]+</label>", page)) == len(PayMethod)
    assert page.count("<input") == len(PayMethod)
    assert page.count(" checked") == 1
    assert re.findall(r"<button[^>]*>([^<]*)</button>", page)[0].split(maxsplit=1)[0] == (
        "Pay" if language is Language.EN else "支付"
    )


@pytest.mark.parametrize("name", PAGES)
def test_only_an_open_page_has_buttons_and_only_an_ended_one_a_way_back(name: str) -> None:
    page = rendered(PAGES[name])
    ended = PAGES[name].is_final
    assert ("<form" in page) is not ended
    assert ('role="status"' in page) is ended
    url = "https://shop.test/done?a=1&amp;b=2"  # as the shop gave it
    assert (f'<a href="{url}"' in page) is ended
    assert (f'content="5;url={url}"' in page) is ended


def test_a_page_without_a_return_address_sends_nobody_away() -> None:
    page = rendered(replace(OPEN, return_url="").finish(CAPTURED, at=NOW))
    assert "http-equiv" not in page
    assert 'class="back"' not in page


def test_a_payment_that_stays_open_for_ever_shows_no_time() -> None:
    page = rendered(PAGES["open for ever"])
    assert "Time left" not in page
    assert "http-equiv" not in page


def test_a_paid_page_shows_what_was_taken_and_not_what_was_asked() -> None:
    page = rendered(OPEN.finish(CAPTURED, at=NOW, captured=Money(9899, "CNY")))
    assert "CN¥98.99" in page
    assert "CN¥99.99" not in page


def luminance(colour: str) -> float:
    def linear(value: int) -> float:
        share = value / 255
        return share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4

    red, green, blue = (linear(int(colour[i : i + 2], 16)) for i in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", [0, 1])  # light, dark
def test_texts_have_the_contrast_that_wcag_asks_for(scheme: int) -> None:
    source = resources.files("sandbox").joinpath("cashier.html").read_text(encoding="utf-8")
    palette = re.findall(r":root \{([^}]*)\}", source)[scheme]
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", palette))

    def contrast(one: str, other: str) -> float:
        dark, light = sorted((luminance(colours[one]), luminance(colours[other])))
        return (light + 0.05) / (dark + 0.05)

    for ink in ("ink", "soft", "go", "good", "bad"):
        assert contrast(ink, "paper") >= 4.5, ink
    assert contrast("on-go", "go") >= 4.5
    assert contrast("ink", "wash") >= 4.5
    assert contrast("edge", "paper") >= 3  # borders of controls


def test_the_style_keeps_a_mark_where_the_focus_is_and_the_page_can_be_zoomed() -> None:
    source = resources.files("sandbox").joinpath("cashier.html").read_text(encoding="utf-8")
    assert "outline: none" not in source
    assert "outline: 0" not in source
    assert re.search(r"button:focus-visible, a:focus-visible[^{]*\{ outline: 3px", source)
    assert "user-scalable" not in source
    assert "maximum-scale" not in source
    sizes = [float(size) for size in re.findall(r"font-size: ([\d.]+)rem", source)]
    assert min(sizes) >= 0.8
