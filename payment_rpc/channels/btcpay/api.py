"""Calls to a BTCPay Server."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import quote, urlencode

from mesh.outbound.connections import Answer, Connections
from payment_rpc.channels.btcpay.answers import (
    CAPTURED,
    Invoice,
    Method,
    Payout,
    PullPayment,
    code_of,
    decode,
    status_of,
)
from payment_rpc.channels.btcpay.credentials import Credentials
from payment_rpc.channels.doubt import Unclear
from payment_rpc.channels.provider_clocks import PROVIDER_CLOCKS
from payment_rpc.channels.time_left import TimeLeft

OK: Final = 200
_NOT_FOUND: Final = 404
_INVOICES_MAX: Final = 100  # of one attempt; there should be one
_ANSWER_BYTES_MAX: Final = 4 * 1024 * 1024


class BTCPayApi:
    """Sends requests of one store."""

    def __init__(self, credentials: Credentials, *, base_url: str) -> None:
        self._store = f"/api/v1/stores/{quote(credentials.store_id, safe='')}"
        self._connections = Connections(
            base_url,
            headers={
                "authorization": f"token {credentials.api_key}",
                "content-type": "application/json",
                "accept-encoding": "identity",
            },
            heard=PROVIDER_CLOCKS.heard,
        )

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._connections.aclose()

    async def store(self, left: TimeLeft) -> Answer:
        """The store itself."""
        return await self._call("GET", self._store, left=left)

    async def create(self, body: Mapping[str, object], left: TimeLeft) -> Answer:
        """Makes an invoice. The server has no idempotency key: called twice it makes two."""
        return await self._call("POST", f"{self._store}/invoices", body, left=left)

    async def invoices_of(self, attempt_id: str, ref: str, left: TimeLeft) -> list[Invoice]:
        """All invoices of an attempt, the oldest first; one that was archived only by its `ref`.

        Raises:
            Unclear: no usable answer. NotSent, Lost: no answer.
        """
        query = urlencode({"orderId": attempt_id, "take": _INVOICES_MAX})
        answer = await self._call("GET", f"{self._store}/invoices?{query}", left=left)
        found = decode(_done(answer), list[Invoice])
        if len(found) >= _INVOICES_MAX:
            raise Unclear("the attempt has too many invoices")
        if ref and all(one.id != ref for one in found):
            path = f"/api/v1/invoices/{quote(ref, safe='')}"
            answer = await self._call("GET", path, left=left)
            if answer.status_code != _NOT_FOUND or code_of(answer.body) != "invoice-not-found":
                found.append(decode(_done(answer), Invoice))
        if any(one.attempt_id != attempt_id for one in found):
            raise Unclear("an invoice is of another attempt")
        return sorted(found, key=lambda one: (one.created_time, one.id))

    async def with_payments(
        self, invoices: Sequence[Invoice], left: TimeLeft
    ) -> list[tuple[Invoice, list[Method]]]:
        """Invoices with what was paid, where something may have been."""
        return [
            (one, await self.methods_of(one.id, left) if status_of(one) is CAPTURED else [])
            for one in invoices
        ]

    async def methods_of(self, invoice_id: str, left: TimeLeft) -> list[Method]:
        """How an invoice is paid, and what was."""
        path = f"/api/v1/invoices/{quote(invoice_id, safe='')}/payment-methods"
        return decode(_done(await self._call("GET", path, left=left)), list[Method])

    async def refund(self, invoice_id: str, body: Mapping[str, object], left: TimeLeft) -> Answer:
        """Makes a claim. The server has no idempotency key: called twice it makes two."""
        path = f"/api/v1/invoices/{quote(invoice_id, safe='')}/refund"
        return await self._call("POST", path, body, left=left)

    async def claim_named(self, name: str, left: TimeLeft) -> PullPayment | None:
        """The claim with a name, archived ones too."""
        path = f"{self._store}/pull-payments?includeArchived=true"
        answer = await self._call("GET", path, left=left)
        found = [one for one in decode(_done(answer), list[PullPayment]) if one.name == name]
        if len(found) > 1:
            raise Unclear("the refund was made twice")
        return found[0] if found else None

    async def payouts_of(self, claim_id: str, left: TimeLeft) -> list[Payout]:
        """The payouts of a claim, without cancelled ones."""
        path = f"/api/v1/pull-payments/{quote(claim_id, safe='')}/payouts"
        return decode(_done(await self._call("GET", path, left=left)), list[Payout])

    async def _call(
        self, method: str, path: str, body: Mapping[str, object] | None = None, *, left: TimeLeft
    ) -> Answer:
        return await self._connections.exchange(
            method,
            path,
            body=None if body is None else json.dumps(body).encode(),
            timeout_seconds=left.in_seconds,
            answer_bytes_max=_ANSWER_BYTES_MAX,
        )


def _done(answer: Answer) -> bytes:
    if answer.status_code != OK:
        raise Unclear(f"answered {answer.status_code} {code_of(answer.body)}".rstrip())
    return answer.body
