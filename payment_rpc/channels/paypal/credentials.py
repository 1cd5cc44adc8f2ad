"""Credentials of a PayPal application."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import msgspec

from payment_rpc.channels.credential_fields import AccountSecrets, read_fields

Key = Annotated[str, msgspec.Meta(pattern=r"^[!-~]{8,200}\Z")]
WebhookId = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{4,64}\Z")]
MerchantId = Annotated[str, msgspec.Meta(pattern=r"^[A-Z0-9]{8,20}\Z|^\Z")]


class Credentials(AccountSecrets, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What PayPal's dashboard shows of a REST application.

    Attributes:
        client_id, client_secret: of the application, live or sandbox.
        webhook_id: of the webhook that points at us; notices are signed for it.
        other_webhook_ids: accepted too, while a webhook is replaced by another.
        merchant_id: of the account that is paid. Notices that name another one are refused. "":
            not compared.
    """

    client_id: Key
    client_secret: Key
    webhook_id: WebhookId
    other_webhook_ids: tuple[WebhookId, ...] = ()
    merchant_id: MerchantId = ""

    @property
    def webhook_ids(self) -> tuple[str, ...]:
        """All that notices may be signed for."""
        return (self.webhook_id, *self.other_webhook_ids)


def parse(fields: Mapping[str, object]) -> Credentials:
    """Reads credentials.

    Raises:
        InvalidArgument: a field is missing, unknown or wrong; names it.
    """
    return read_fields(fields, Credentials)
