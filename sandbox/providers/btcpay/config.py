"""The simulated store, and the rule by which its webhook is told."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from mesh.clock import Clock
from sandbox.providers.btcpay.signing import signature, written
from sandbox.providers.webhooks import DeliveryRule, Notice, Outgoing, Target

_PAUSES_SECONDS = (10, 60, 600, 600, 600, 600, 600, 600)
_REPEATED = frozenset({408, 429})  # besides 5xx and no answer; any other 4xx ends it for ever


@dataclass(frozen=True, slots=True, kw_only=True)
class BTCPayConfig:
    """The store.

    Attributes:
        api_key: has all rights that a shop needs. view_key: may only look.
        minor_per_coin: the rate, in minor units of whatever currency an invoice has, so that an
            amount and its coins convert without rest.
    """

    api_key: str = "paymesh-simulator-btcpay-key"
    view_key: str = "paymesh-simulator-btcpay-view-key"
    store_id: str = "STORE1"
    webhook_id: str = "WH0001"
    webhook_secret: str = "paymesh-simulator-btcpay-secret"  # noqa: S105  # opens nothing
    minor_per_coin: int = 5_000_000


def delivery_rule(config: BTCPayConfig, _clock: Clock) -> DeliveryRule:
    """How events are signed and repeated. A repetition is another delivery, with other bytes."""

    def render(notice: Notice, target: Target, tries: int) -> Outgoing:
        event = json.loads(notice.body)
        is_first = tries == 1 and not event.pop("again", False)
        digest = hashlib.sha256(f"{notice.id} {tries} {is_first}".encode()).hexdigest()
        body = written(
            {
                "deliveryId": notice.id if is_first else digest[:22],
                "webhookId": config.webhook_id,
                "originalDeliveryId": notice.id,
                "isRedelivery": not is_first,
                **event,
            }
        )
        headers = {
            "content-type": "application/json; charset=utf-8",
            "btcpay-sig": signature(target.secret or config.webhook_secret, body),
        }
        return Outgoing(headers=headers, body=body)

    return DeliveryRule(
        render=render,
        is_accepted=lambda status, _body: 200 <= status < 300,
        pause_seconds=pause_seconds,
        target=Target(url="", secret=config.webhook_secret),
    )


def pause_seconds(tries: int, status: int | None) -> float | None:
    """The pause after so many failed tries, from 1; None: no more."""
    again = status is None or status >= 500 or status in _REPEATED
    return _PAUSES_SECONDS[tries - 1] if again and tries <= len(_PAUSES_SECONDS) else None
