"""What keeps the cashier page honest in front of hostile texts and impatient buyers, removed piece
by piece. The name of a mutant is the sentence that it breaks.
"""

from __future__ import annotations

from functools import partial

from tests.mutants.runner import Edit, Mutant


def _mutant(path: str, sentence: str, *, old: str, new: str, fails: str) -> Mutant:
    return Mutant(sentence, fails, (Edit(f"sandbox/{path}", old, new),))


_page = partial(_mutant, "cashier.py")
_values = partial(_mutant, "cashier_values.py")
_endpoints = partial(_mutant, "cashier_endpoints.py")
_channel = partial(_mutant, "channel.py")


def _served(name: str) -> str:
    return f"test_sandbox_cashier.py::{name}"


def _rendered(name: str) -> str:
    return f"test_cashier_page.py::{name}"


_HOSTILE = "test_a_hostile_text_of_a_merchant_is_shown_as_text_in_its_place"

MUTANTS = [
    _page(
        "a description is text",
        old='dir="auto">{html.escape(description)}</p>',
        new='dir="auto">{description}</p>',
        fails=_served(f"{_HOSTILE}[markup]"),
    ),
    _page(
        "a merchant's name is text",
        old="<h1><bdi>{html.escape(shop_name)}</bdi></h1>",
        new="<h1><bdi>{shop_name}</bdi></h1>",
        fails=_served(f"{_HOSTILE}[markup]"),
    ),
    _page(
        "a merchant's name is text in the title too",
        old="shop_name=html.escape(shop_name), body=body",
        new="shop_name=shop_name, body=body",
        fails=_served(f"{_HOSTILE}[markup]"),
    ),
    _page(
        "the page of a payment is kept by no cache",
        old='"cache-control": "no-store",',
        new="",
        fails=_served("test_every_answer_to_a_browser_is_private_and_cannot_be_framed"),
    ),
    _page(
        "no other site shows the page in a frame",
        old="base-uri 'none'; frame-ancestors 'none'",
        new="base-uri 'none'",
        fails=_served("test_every_answer_to_a_browser_is_private_and_cannot_be_framed"),
    ),
    _page(
        "an open page reloads when its time is over",
        old="refresh = _refresh_at_the_end(transaction, now)",
        new='refresh = ""',
        fails=_served("test_the_page_says_how_much_time_is_left_and_reloads_when_it_is_over"),
    ),
    _page(
        "a paid page shows what was taken",
        old="(amount := transaction.shown_amount)",
        new="(amount := transaction.amount)",
        fails=_rendered("test_a_paid_page_shows_what_was_taken_and_not_what_was_asked"),
    ),
    _values(
        "no text of a merchant turns the page around",
        old='!= "Cf" or character in _KEPT_FORMATS',
        new='!= "Cf" or True',
        fails=_served(f"{_HOSTILE}[turned around]"),
    ),
    _values(
        "a sign that several currencies share stands with a code",
        old="amount.currency)) == 1",
        new="amount.currency)) == 0",
        fails=_rendered("test_no_page_leaves_open_which_currency_is_paid[CNY-zh]"),
    ),
    _endpoints(
        "a method that there is not pays nothing",
        old="return await self.go_back(request) if method is None else await",
        new="return await",
        fails=_served(
            "test_a_method_that_there_is_not_pays_nothing_and_shows_the_page_again[method=cash]"
        ),
    ),
    _channel(
        "a second click finds the payment ended",
        old="if transaction.is_final: return transaction if method is None",
        new="if method is None",
        fails=_served("test_twenty_clicks_at_once_pay_once"),
    ),
    _channel(
        "the method that a buyer chose is kept",
        old="replace(transaction, pay_method=method), CAPTURED",
        new="transaction, CAPTURED",
        fails=_served("test_a_buyer_chooses_a_method_and_is_told_which_he_used"),
    ),
]
