"""The part of `paymesh demo` in which a merchant signs up, gets a key and takes the money for an
order of its own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

from paymesh_cli.demo_client import Conversation, DemoFailed, forms_of

LINK_SECONDS_MAX = 15.0
PAID_SECONDS_MAX = 20.0
_POLL_SECONDS = 0.1
_PASSWORD = "correct horse battery staple"  # noqa: S105  of a merchant that the demo makes up
_AMOUNT_MINOR = 10_000


class MerchantDemo:
    """What a new merchant does one after the other. Raises DemoFailed or httpx.HTTPError at the
    first thing that goes wrong.
    """

    def __init__(self, conversation: Conversation, *, run_id: str, log_file: Path) -> None:
        """`log_file`: of merchant_rpc, which writes mail there in development."""
        self._conversation = conversation
        self._merchant_id = f"demo-{run_id[-10:].lower()}"
        self._email = f"owner@{self._merchant_id}.example"
        self._log_file = log_file

    def run(self) -> str:
        """The whole story; returns the merchant's order number."""
        self.sign_up()
        key = self.create_key(self.log_in())
        return self.sell(key)

    def sign_up(self) -> None:
        """Signs up and follows the link of the mail."""
        self._conversation.heading("A merchant signs up")
        self._conversation.call(
            "POST",
            "/api/v1/merchants:sign-up",
            expect=202,
            body={
                "email": self._email,
                "name": "Demo Shop",
                "merchant_id": self._merchant_id,
                "default_currency": "USD",
            },
        )
        token = self._token_of_link()
        self._conversation.note(f"the link is in {self._log_file}")
        self._conversation.call(
            "POST",
            "/api/v1/merchants:confirm",
            expect=201,
            body={"token": token, "password": _PASSWORD},
        )

    def log_in(self) -> str:
        """A session; returns its access token, for the test sibling."""
        session = self._conversation.call(
            "POST",
            "/api/v1/sessions",
            expect=201,
            body={"email": self._email, "password": _PASSWORD},
        )
        return str(session["access_token"])

    def create_key(self, token: str) -> str:
        """A secret key for the test sibling."""
        self._conversation.heading("It makes an API key")
        made = self._conversation.call(
            "POST",
            "/api/v1/api-keys",
            token=token,
            expect=201,
            body={"kind": "SECRET", "name": "web shop"},
        )
        return str(made["key"])

    def sell(self, key: str) -> str:
        """An order of its own, paid at the checkout page."""
        order_no = f"{self._merchant_id}-1"
        self._conversation.heading("It sells an order of its own")
        payment = self._conversation.call(
            "POST",
            "/api/v1/payments",
            token=key,
            expect=200,
            body={
                "order_no": order_no,
                "amount_minor": _AMOUNT_MINOR,
                "currency": "USD",
                "customer_email": "test@example.com",
                "customer_name": "John Doe",
                "description": "Test payment",
            },
        )
        page = self._conversation.page("GET", str(payment["checkout_url"]))
        form = forms_of(page.text).get("Pay")
        if form is None:
            raise DemoFailed(f"{page.url}: the page has no button Pay")
        self._conversation.note("the customer presses Pay")
        self._conversation.page(form[0], urljoin(str(page.url), form[1]))
        path = f"/api/v1/orders/{order_no}"
        self._conversation.poll(path, token=key, state="PAID", timeout_seconds=PAID_SECONDS_MAX)
        shown = self._conversation.call(
            "GET", f"/api/v1/payments/{payment['payment_id']}", token=key, expect=200
        )
        if shown["state"] != "SUCCESS":
            raise DemoFailed(f"the payment of {order_no} is {shown['state']}")
        return order_no

    def _token_of_link(self) -> str:
        deadline = time.monotonic() + LINK_SECONDS_MAX
        while time.monotonic() < deadline:
            for entry in self._mails():
                if entry.get("address") == self._email:
                    fragment = urlsplit(str(entry["link"])).fragment
                    return parse_qs(fragment)["token"][0]
            time.sleep(_POLL_SECONDS)
        raise DemoFailed(
            f"{self._log_file}: no mail to {self._email} within {LINK_SECONDS_MAX:g} s"
        )

    def _mails(self) -> Iterator[dict[str, Any]]:
        try:
            lines = self._log_file.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return
        for line in lines:
            if '"mail"' in line:
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue
                if entry.get("event") == "mail":
                    yield entry
