"""What a merchant decides for its shop. A version of it never changes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

from mesh.errors import InvalidArgument
from mesh.money import Money, currency_exponent

BODY_BYTES_MAX = 64 * 1024


class LateMoney(StrEnum):
    """What becomes of money that arrives for a cancelled order."""

    UNSPECIFIED = "UNSPECIFIED"  # the default of the installation
    ALWAYS_REFUND = "ALWAYS_REFUND"
    REVIVE_IF_STOCK = "REVIVE_IF_STOCK"


class IntegerAmounts(StrEnum):
    """How a bare JSON integer in a field `amount` is read."""

    UNSPECIFIED = "UNSPECIFIED"  # it is refused
    MINOR = "MINOR"


@dataclass(frozen=True, slots=True, kw_only=True)
class AmountRule:
    """An amount in major units of a currency, and the price of the lines from which on it counts;
    "" means always.
    """

    currency: str
    amount: str
    threshold: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShopSettings:
    """The settings of a merchant. What is empty is as the installation has it."""

    return_urls: tuple[str, ...] = ()
    late_money: LateMoney = LateMoney.UNSPECIFIED
    shipping: tuple[AmountRule, ...] = ()
    discount: tuple[AmountRule, ...] = ()
    payment_window_minutes: int = 0
    integer_amounts: IntegerAmounts = IntegerAmounts.UNSPECIFIED
    channels: tuple[str, ...] = ()
    ship_on_authorized: bool = False  # ShipOrder captures held money first
    buyers_may_hold: bool = False  # a buyer may ask for capture MANUAL

    def check(self) -> None:
        """Raises InvalidArgument, which names every field, for what cannot be in force."""
        problems: dict[str, str] = {}
        for at, url in enumerate(self.return_urls):
            if problem := _url_problem(url):
                problems[f"settings.return_urls[{at}]"] = problem
        problems |= _twice("settings.return_urls", self.return_urls)
        problems |= _twice("settings.channels", self.channels)
        for name, rules in (("shipping", self.shipping), ("discount", self.discount)):
            path = f"settings.{name}"
            for at, rule in enumerate(rules):
                problems |= _rule_problems(f"{path}[{at}]", rule)
            problems |= {
                f"{field}.currency": problem
                for field, problem in _twice(path, [rule.currency for rule in rules]).items()
            }
        if not problems and len(self.body()) > BODY_BYTES_MAX:
            problems["settings"] = f"must be at most {BODY_BYTES_MAX} bytes"
        if problems:
            raise InvalidArgument(fields=problems)

    def body(self) -> str:
        """As it is stored: JSON in ASCII."""
        return json.dumps(asdict(self), separators=(",", ":"), sort_keys=True)

    @classmethod
    def from_body(cls, body: str) -> ShopSettings:
        """What `body` made.

        Raises:
            ValueError, TypeError, KeyError: it is not what `body` makes.
        """
        values: dict[str, Any] = json.loads(body)
        return cls(
            return_urls=tuple(values["return_urls"]),
            late_money=LateMoney(values["late_money"]),
            shipping=tuple(AmountRule(**rule) for rule in values["shipping"]),
            discount=tuple(AmountRule(**rule) for rule in values["discount"]),
            payment_window_minutes=int(values["payment_window_minutes"]),
            integer_amounts=IntegerAmounts(values["integer_amounts"]),
            channels=tuple(values["channels"]),
            # older ones lack these
            ship_on_authorized=bool(values.get("ship_on_authorized", False)),
            buyers_may_hold=bool(values.get("buyers_may_hold", False)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsVersion:
    """One version of the settings of a merchant."""

    merchant_id: str
    version: int  # 0: nothing was ever set
    settings: ShopSettings
    created_by: str
    created_at: datetime


def _rule_problems(path: str, rule: AmountRule) -> dict[str, str]:
    try:
        currency_exponent(rule.currency, field=f"{path}.currency")
    except InvalidArgument as problem:
        return dict(problem.fields)
    problems: dict[str, str] = {}
    for name, text in (("amount", rule.amount), ("threshold", rule.threshold)):
        if name == "threshold" and not text:
            continue
        try:
            Money.parse(text, rule.currency, field=f"{path}.{name}", allow_zero=True)
        except InvalidArgument as problem:
            problems |= problem.fields
    return problems


def _url_problem(url: str) -> str:
    """What is wrong with the beginning of a URL; "" for nothing. The host must be whole: a
    beginning that ends inside it, or that has another host behind an `@`, admits strangers' hosts.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "is not a host"
    if not host or not parts.path.startswith("/") or parts.username is not None:
        return "is not a host"
    return ""


def _twice(path: str, values: Iterable[str]) -> dict[str, str]:
    seen: set[str] = set()
    found = {}
    for at, value in enumerate(values):
        if value in seen:
            found[f"{path}[{at}]"] = "is given twice"
        seen.add(value)
    return found
