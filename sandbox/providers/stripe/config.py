"""Keys of the simulated Stripe account, and its rule of sending events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mesh.clock import Clock
from mesh.times import milliseconds
from sandbox.providers.stripe.signatures import signature_header
from sandbox.providers.webhooks import DeliveryRule, Notice, Outgoing, Target

API_VERSION: Final = "2026-10-28.endive"
# Stripe documents three tries within hours for its sandboxes
_PAUSES_SECONDS = (60.0, 3600.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class StripeConfig:
    """The account.

    Attributes:
        secret_key: sent as Bearer token. reading_key: a restricted one that may only read.
        publishable_key: for pages, never accepted by /v1.
        webhook_secret: signs events; two joined by a space while one is rolled.
        account: the account's id.
        settlement_currency: of the balance; captures in other currencies are exchanged.
        livemode: what objects and events say; no money is real anyway.
        multicapture: whether `final_capture=false` is allowed.
        fee_basis_points, fee_fixed_minor: the fee of a capture, in the settlement currency.
    """

    secret_key: str = "sk_test_paymesh_simulator"  # noqa: S105  # opens nothing
    reading_key: str = "rk_test_paymesh_reads"
    publishable_key: str = "pk_test_paymesh_simulator"
    webhook_secret: str = "whsec_paymesh_simulator"  # noqa: S105  # opens nothing
    account: str = "acct_1PaymeshSimulator"
    country: str = "US"
    settlement_currency: str = "usd"
    multicapture: bool = True
    livemode: bool = False
    fee_basis_points: int = 290
    fee_fixed_minor: int = 30


def delivery_rule(config: StripeConfig, clock: Clock) -> DeliveryRule:
    """How events are signed and repeated."""

    def render(notice: Notice, target: Target, _tries: int) -> Outgoing:
        header = signature_header(
            tuple(target.secret.split()),
            timestamp=milliseconds(clock.now()) // 1000,
            body=notice.body,
        )
        headers = {
            "content-type": "application/json; charset=utf-8",
            "user-agent": "Stripe/1.0 (+https://stripe.com/docs/webhooks)",
            "stripe-signature": header,
        }
        return Outgoing(headers=headers, body=notice.body)

    def pause_seconds(tries: int, _status: int | None) -> float | None:
        return _PAUSES_SECONDS[tries - 1] if tries <= len(_PAUSES_SECONDS) else None

    return DeliveryRule(
        render=render,
        is_accepted=lambda status, _body: 200 <= status < 300,
        pause_seconds=pause_seconds,
        target=Target(url="", secret=config.webhook_secret),
    )
