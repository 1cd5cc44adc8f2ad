"""Every request to Stripe that a test of this folder sends is held against Stripe's document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from mesh.outbound.connections import Answer, Connections
from tests.support.openapi_requests import Sent, Watch, stripe_document_if_there


@pytest.fixture(autouse=True)
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    """What adapters send to Stripe. A test in which one sends what the document refuses fails."""
    it = Watch(stripe_document_if_there())
    request = Connections.request

    async def watched(
        self: Connections,
        method: str,
        path: str,
        *,
        body: bytes | None,
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> Answer:
        lines = (line.split(": ", 1) for line in self._headers.splitlines())
        sent = {name.lower(): value for name, value in (*lines, *(headers or {}).items())}
        if "stripe-version" in sent:
            it.saw(Sent(method=method, target=path, headers=sent, body=body))
        return await request(self, method, path, body=body, headers=headers, **more)

    monkeypatch.setattr(Connections, "request", watched)
    yield it
    assert it.problems == []
