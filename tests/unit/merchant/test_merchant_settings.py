"""Which settings of a shop can be in force."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from merchant_rpc.domain.shop_settings import (
    BODY_BYTES_MAX,
    AmountRule,
    IntegerAmounts,
    LateMoney,
    ShopSettings,
)
from mesh.errors import InvalidArgument

FULL = ShopSettings(
    return_urls=("https://acme.example/", "http://127.0.0.1:8080/back?x="),
    late_money=LateMoney.REVIVE_IF_STOCK,
    shipping=(
        AmountRule(currency="EUR", amount="4.90", threshold="50"),
        AmountRule(currency="KWD", amount="0.125"),
    ),
    discount=(AmountRule(currency="JPY", amount="0"),),
    payment_window_minutes=15,
    integer_amounts=IntegerAmounts.MINOR,
    channels=("sandbox",),
    ship_on_authorized=True,
    buyers_may_hold=True,
)


def rule(currency: str = "EUR", amount: str = "1", threshold: str = "") -> AmountRule:
    return AmountRule(currency=currency, amount=amount, threshold=threshold)


@pytest.mark.parametrize("settings", [ShopSettings(), FULL])
def test_what_is_stored_is_read_as_it_was(settings: ShopSettings) -> None:
    settings.check()
    assert ShopSettings.from_body(settings.body()) == settings
    assert settings.body().isascii()
    older = {**json.loads(settings.body())}
    for name in ("ship_on_authorized", "buyers_may_hold"):  # versions of before lack them
        del older[name]
    assert ShopSettings.from_body(json.dumps(older)) == replace(
        settings, ship_on_authorized=False, buyers_may_hold=False
    )


@pytest.mark.parametrize(
    ("values", "fields"),
    [
        ({"shipping": (rule("XXX"),)}, {"settings.shipping[0].currency"}),
        ({"discount": (rule(), rule("JPY", "1.5"))}, {"settings.discount[1].amount"}),
        ({"shipping": (rule("EUR", "1.001"),)}, {"settings.shipping[0].amount"}),
        ({"shipping": (rule("EUR", "1", "0.001"),)}, {"settings.shipping[0].threshold"}),
        (
            {"shipping": (rule("EUR", "1.001", "0.001"),)},
            {"settings.shipping[0].amount", "settings.shipping[0].threshold"},
        ),
        ({"shipping": (rule("EUR", "1e3"),)}, {"settings.shipping[0].amount"}),
        ({"shipping": (rule("EUR", "-1"),)}, {"settings.shipping[0].amount"}),
        ({"shipping": (rule("EUR", "9" * 16),)}, {"settings.shipping[0].amount"}),
        ({"shipping": (rule(), rule())}, {"settings.shipping[1].currency"}),
        ({"discount": (rule(), rule())}, {"settings.discount[1].currency"}),
        ({"channels": ("a", "b", "a")}, {"settings.channels[2]"}),
        ({"return_urls": ("https://a.example/",) * 2}, {"settings.return_urls[1]"}),
        ({"return_urls": ("https://a.example@evil.example/",)}, {"settings.return_urls[0]"}),
        ({"return_urls": ("https://a.example",)}, {"settings.return_urls[0]"}),
        ({"return_urls": ("https:///path",)}, {"settings.return_urls[0]"}),
        ({"return_urls": ("https://[::1/",)}, {"settings.return_urls[0]"}),
        ({"return_urls": ("https://a.example:99999/",)}, {"settings.return_urls[0]"}),
    ],
)
def test_every_wrong_field_is_named(values: dict[str, Any], fields: set[str]) -> None:
    with pytest.raises(InvalidArgument) as refused:
        ShopSettings(**values).check()
    assert set(refused.value.fields) == fields


def test_shipping_and_discount_may_have_the_same_currency() -> None:
    ShopSettings(shipping=(rule(),), discount=(rule(),)).check()


def test_settings_have_a_largest_size() -> None:
    urls = tuple(f"https://a.example/{at}/{'x' * 500}" for at in range(200))
    settings = ShopSettings(return_urls=urls)
    assert len(settings.body()) > BODY_BYTES_MAX
    with pytest.raises(InvalidArgument) as refused:
        settings.check()
    assert set(refused.value.fields) == {"settings"}


@pytest.mark.parametrize("body", ["", "[]", "{}", '{"return_urls": 1}'])
def test_a_body_that_nobody_wrote_is_no_settings(body: str) -> None:
    with pytest.raises((ValueError, TypeError, KeyError)):
        ShopSettings.from_body(body)
