"""localstripe, a Stripe that nobody here wrote, on one port of 127.0.0.1: `python -m
tests.support.localstripe_peer PORT`.

It is older than some fields of Stripe's API: it refuses those that a request has, and lacks
`amount_received` and `amount_capturable` in its answers. Both are put right here from its own
state; whatever it decides about payments stays its own. Its own command listens on all interfaces.
"""

from __future__ import annotations

import sys
from typing import Any

from aiohttp import web
from localstripe import resources, server

_TOO_NEW = ("automatic_payment_methods", "description", "return_url")
_read_form = server.get_post_data


async def _read_what_it_knows(request: Any, remove_auth: bool = True) -> Any:
    form = await _read_form(request, remove_auth=remove_auth)
    if form and request.path.startswith("/v1/payment_intents"):
        for name in _TOO_NEW:
            form.pop(name, None)
        if request.path.endswith("/confirm"):
            form.pop("off_session", None)  # it takes it when a payment is created only
    return form


def _received(intent: Any) -> int:
    return int(intent.amount) if intent.status == "succeeded" else 0


def _capturable(intent: Any) -> int:
    return int(intent.amount) if intent.status == "requires_capture" else 0


def main() -> None:
    server.get_post_data = _read_what_it_knows
    resources.PaymentIntent.amount_received = property(_received)
    resources.PaymentIntent.amount_capturable = property(_capturable)
    resources.store.dump_to_disk = lambda: (
        None
    )  # it would write into the folder for temporary files
    web.run_app(server.app, host="127.0.0.1", port=int(sys.argv[1]), print=None)


if __name__ == "__main__":
    main()
