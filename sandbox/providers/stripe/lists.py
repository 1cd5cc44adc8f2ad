"""Lists in pages, newest first, with the filters that Stripe documents."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from sandbox.providers.stripe.account import Account
from sandbox.providers.stripe.errors import invalid, missing
from sandbox.providers.stripe.forms import EXPAND, Reader, boolean, bounds, list_of, read, text
from sandbox.providers.stripe.views import Json

_LIMIT: Final = 10
_LIMIT_MAX: Final = 100
_EVENT_SECONDS: Final = 30 * 86_400
_TYPES_MAX: Final = 20


def _limit(name: str, value: Any) -> int:
    if not isinstance(value, str) or not value.isdecimal() or not 1 <= int(value) <= _LIMIT_MAX:
        raise invalid("limit must be between 1 and 100", param=name)
    return int(value)


_PAGE: Final[Mapping[str, Reader]] = {
    "limit": _limit,
    "starting_after": text(),
    "ending_before": text(),
    "created": bounds,
    **EXPAND,
}


class Lists:
    """The lists of an account."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._store = account.store

    def balance_transactions(self, sent: dict[str, Any]) -> Json:
        """Rows of the balance."""
        given = read({**_PAGE, "type": text(), "source": text(), "currency": text()}, sent)
        rows = [
            row
            for row in self._store.balance.values()
            if row.kind == given.get("type", row.kind)
            and row.source == given.get("source", row.source)
            and row.currency == given.get("currency", row.currency)
        ]
        view = self._account.views.balance_transaction
        return _page("/v1/balance_transactions", rows, given, view)

    def refunds(self, sent: dict[str, Any]) -> Json:
        """Refunds, of one payment or charge."""
        given = read({**_PAGE, "payment_intent": text(), "charge": text()}, sent)
        if "payment_intent" in given:
            self._store.payment_intents.need(given["payment_intent"], param="payment_intent")
        found = [
            refund
            for refund in self._store.refunds.values()
            if refund.payment_intent == given.get("payment_intent", refund.payment_intent)
            and refund.charge == given.get("charge", refund.charge)
        ]
        return _page("/v1/refunds", found, given, self._account.views.refund)

    def payment_intents(self, sent: dict[str, Any]) -> Json:
        """PaymentIntents."""
        given = read(_PAGE, sent)
        found = self._store.payment_intents.values()
        return _page("/v1/payment_intents", found, given, self._account.views.payment_intent)

    def sessions(self, sent: dict[str, Any]) -> Json:
        """Checkout Sessions, of one payment."""
        given = read({**_PAGE, "payment_intent": text(), "status": text()}, sent)
        found = [
            session
            for session in self._store.sessions.values()
            if session.payment_intent == given.get("payment_intent", session.payment_intent)
            and session.status == given.get("status", session.status)
        ]
        return _page("/v1/checkout/sessions", found, given, self._account.views.session)

    def disputes(self, sent: dict[str, Any]) -> Json:
        """Disputes, of one payment or charge."""
        given = read({**_PAGE, "payment_intent": text(), "charge": text()}, sent)
        found = [
            dispute
            for dispute in self._store.disputes.values()
            if dispute.payment_intent == given.get("payment_intent", dispute.payment_intent)
            and dispute.charge == given.get("charge", dispute.charge)
        ]
        return _page("/v1/disputes", found, given, self._account.views.dispute)

    def events(self, sent: dict[str, Any]) -> Json:
        """Events of the last 30 days, those that no endpoint took with `delivery_success=false`."""
        given = read(
            {**_PAGE, "type": text(), "types": list_of(text()), "delivery_success": boolean}, sent
        )
        kinds = given.get("types") or ((given["type"],) if "type" in given else ())
        if len(kinds) > _TYPES_MAX:
            raise invalid("At most 20 types can be given", param="types")
        is_taken = self._account.simulation.deliveries.is_accepted
        wanted = given.get("delivery_success")
        oldest = self._account.now() - _EVENT_SECONDS
        found = [
            event
            for event in self._store.events.values()
            if event.created > oldest
            and (not kinds or any(_is_kind(event.kind, kind) for kind in kinds))
            and wanted in {None, is_taken(event.id)}
        ]
        return _page("/v1/events", found, given, self._account.event)


def _is_kind(kind: str, wanted: str) -> bool:
    """`charge.*` means every event of charges."""
    return kind == wanted or (wanted.endswith("*") and kind.startswith(wanted[:-1]))


def _page(
    url: str, found: Iterable[Any], given: Mapping[str, Any], view: Callable[[Any], Json]
) -> Json:
    within = given.get("created", lambda _moment: True)
    rows = [one for one in reversed(list(found)) if within(one.created)]
    limit = given.get("limit", _LIMIT)
    ids = [one.id for one in rows]
    for name in ("starting_after", "ending_before"):
        if name in given and given[name] not in ids:
            raise missing("object", given[name], param=name)
    if "ending_before" in given:
        rows = rows[: ids.index(given["ending_before"])]
        shown, has_more = rows[-limit:], len(rows) > limit
    else:
        begin = ids.index(given["starting_after"]) + 1 if "starting_after" in given else 0
        shown, has_more = rows[begin : begin + limit], len(rows) > begin + limit
    data = [view(one) for one in shown]
    return {"object": "list", "data": data, "has_more": has_more, "url": url}
