"""The simulated PayPal account, and the rule by which its webhook is told."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import timedelta

from mesh.clock import Clock
from sandbox.providers.paypal.answers import written_time
from sandbox.providers.paypal.signing import ALGORITHM, Signer
from sandbox.providers.webhooks import DeliveryRule, Notice, Outgoing, Target

CERTIFICATES = "/v1/notifications/certs/"
# 25 repetitions within three days
_FIRST_PAUSE_SECONDS = 10
_PAUSE_SECONDS_MAX = 4 * 3600
_REPETITIONS = 25


@dataclass(slots=True, kw_only=True)
class PayPalConfig:
    """The account.

    Attributes:
        webhook_id: what notices are signed for. `POST /_sim/webhooks` takes another as `secret`.
        token_life: of an access token.
        reporting_delay: how late transaction search sees something; PayPal says up to three hours.
        signer: its key and certificate are made at every start.
        certificate_url: where the certificate is served; set when the application is made.
    """

    client_id: str = "paymesh-simulator-client"
    client_secret: str = "paymesh-simulator-secret"  # noqa: S105  # opens nothing
    webhook_id: str = "WHK0000000000001"
    account: str = "SIM0000000001"
    token_life: timedelta = timedelta(hours=9)
    reporting_delay: timedelta = timedelta(0)
    signer: Signer = field(default_factory=Signer.make, repr=False)
    certificate_url: str = ""


def delivery_rule(config: PayPalConfig, clock: Clock) -> DeliveryRule:
    """How events are signed and repeated: each try has a transmission of its own."""

    def render(notice: Notice, target: Target, tries: int) -> Outgoing:
        digest = hashlib.sha256(f"{notice.id} {tries}".encode()).hexdigest()
        parts = digest[:8], digest[8:12], digest[12:16], digest[16:20], digest[20:32]
        transmission_id = "-".join(parts)
        transmission_time = written_time(clock.now())
        signature = config.signer.sign(
            transmission_id=transmission_id,
            transmission_time=transmission_time,
            webhook_id=target.secret or config.webhook_id,
            body=notice.body,
        )
        return Outgoing(
            headers={
                "content-type": "application/json",
                "user-agent": "PayPal/AUHD-1.0-1",
                "paypal-auth-algo": ALGORITHM,
                "paypal-auth-version": "v2",
                "paypal-cert-url": config.certificate_url,
                "paypal-transmission-id": transmission_id,
                "paypal-transmission-sig": signature,
                "paypal-transmission-time": transmission_time,
            },
            body=notice.body,
        )

    return DeliveryRule(
        render=render,
        is_accepted=lambda status, _body: 200 <= status < 300,
        pause_seconds=pause_seconds,
        target=Target(url="", secret=config.webhook_id),
    )


def pause_seconds(tries: int, _status: int | None) -> float | None:
    """The pause after so many failed tries, from 1; None: no more."""
    if tries > _REPETITIONS:
        return None
    return min(_FIRST_PAUSE_SECONDS << (tries - 1), _PAUSE_SECONDS_MAX)
