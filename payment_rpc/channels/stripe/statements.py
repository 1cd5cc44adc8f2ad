"""Statements: the rows of the account's balance, one JSON array per line.

Stripe has no file of a day. Its rows are paged, and each is kept with the fields that are read
here, because whole rows with their sources would take ten times the space. The last line counts
the others, so that a file that was cut off is noticed.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from datetime import date
from itertools import islice

import msgspec

from mesh.money import Money
from mesh.outbound.connections import Lost, NotSent
from mesh.times import milliseconds
from payment_rpc.channels.capabilities import UTC_DAY
from payment_rpc.channels.doubt import Unclear
from payment_rpc.channels.statement_rows import bad_line, line_of
from payment_rpc.channels.stripe.answers import ATTEMPT, REFUND, moment, money
from payment_rpc.channels.stripe.api import (
    OK,
    PAGE_BYTES_MAX,
    StripeApi,
    decode,
    refusal,
)
from payment_rpc.channels.stripe.objects import UNREADABLE
from payment_rpc.channels.time_left import TimeLeft
from payment_rpc.domain.errors import ChannelUnavailable
from payment_rpc.domain.statement import (
    BadLine,
    Entry,
    Line,
    LineType,
    StatementUnreadable,
)

BYTES_MAX = 96 * 1024 * 1024
_PAGE = "100"
_PARTIAL = "partial_capture_reversal"
_PARTIAL_BYTES = _PARTIAL.encode()

_TYPES = {
    "charge": LineType.CAPTURE,
    "refund": LineType.REFUND,
    "refund_failure": LineType.REFUND_REVERSED,
    **dict.fromkeys(("fee", "network_cost", "tax"), LineType.FEE),
    "dispute": LineType.DISPUTE,
    "dispute_reversal": LineType.DISPUTE_REVERSED,
    **dict.fromkeys(("payout", "payout_reversal", "topup", "topup_reversal"), LineType.PAYOUT),
    **dict.fromkeys(
        (
            "advance",
            "advance_funding",
            "anticipation_repayment",
            "connect_collection_transfer",
            "connect_reserved_funds",
            "contribution",
            "other_adjustment",
            "payout_minimum_balance_hold",
            "payout_minimum_balance_release",
            "platform_earning",
            "platform_earning_refund",
            "risk_reserved_funds",
            "transfer",
            "transfer_reversal",
        ),
        LineType.ADJUSTMENT,
    ),
}
_OF_THE_ACCOUNT = frozenset({LineType.FEE, LineType.PAYOUT, LineType.ADJUSTMENT})


class _Source(msgspec.Struct, frozen=True, kw_only=True):
    """The charge or refund behind a row, in the currency that the buyer paid in."""

    id: str = ""
    amount: int = 0
    currency: str = ""
    payment_intent: str | None = None
    metadata: dict[str, str] = {}


class _Row(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the balance, in the currency of the bank account."""

    id: str
    reporting_category: str
    amount: int
    fee: int
    currency: str
    created: int
    source: _Source | str | None = None


class _Page(msgspec.Struct, frozen=True, kw_only=True):
    data: list[_Row]
    has_more: bool


class _Kept(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A row in the file. `paid` and `paid_currency` are what the buyer paid or got back: of one of
    several captures, what all of them may take.
    """

    id: str
    category: str
    amount: int
    fee: int
    currency: str
    created: int
    source: str
    intent: str
    attempt_id: str
    refund_id: str
    paid: int
    paid_currency: str


class _End(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The last line."""

    rows: int


async def download(api: StripeApi, day: date, *, time_left: TimeLeft) -> bytes:
    """The rows of a day, counted in UTC.

    Raises:
        ChannelUnavailable: no usable answer; asking again is safe.
    """
    begins, ends = (milliseconds(bound) // 1000 for bound in UTC_DAY.bounds(day))
    lines, after, is_more = list[bytes](), "", True
    while is_more:
        query = [
            ("created[gte]", str(begins)),
            ("created[lt]", str(ends)),
            ("limit", _PAGE),
            ("expand[]", "data.source"),
        ]
        if after:
            query.append(("starting_after", after))
        page = await _page(api, query, time_left=time_left)
        lines += [msgspec.json.encode(_kept(row)) for row in page.data]
        is_more = page.has_more
        if is_more and not page.data:
            raise ChannelUnavailable("no statement: a page without rows is not the last one")
        after = page.data[-1].id if page.data else ""
    lines.append(msgspec.json.encode(_End(rows=len(lines))))
    return b"\n".join(lines) + b"\n"


async def _page(api: StripeApi, query: Sequence[tuple[str, str]], *, time_left: TimeLeft) -> _Page:
    try:
        answer = await api.get(
            "/v1/balance_transactions",
            query,
            time_left=time_left,
            answer_bytes_max=PAGE_BYTES_MAX,
        )
        if answer.status_code != OK:
            raise ChannelUnavailable(f"no statement: {refusal(answer)}")
        return decode(answer.body, _Page)
    except (NotSent, Lost, Unclear) as problem:
        raise ChannelUnavailable(f"no statement: {problem}") from None


def _kept(row: _Row) -> _Kept:
    source = row.source if isinstance(row.source, _Source) else _Source(id=row.source or "")
    return _Kept(
        id=row.id,
        category=row.reporting_category,
        amount=row.amount,
        fee=row.fee,
        currency=row.currency,
        created=row.created,
        source=source.id,
        intent=source.payment_intent or "",
        attempt_id=source.metadata.get(ATTEMPT, ""),
        refund_id=source.metadata.get(REFUND, ""),
        paid=source.amount,
        paid_currency=source.currency,
    )


def parse(content: bytes) -> Iterator[Entry]:
    """Reads a file, line by line.

    Raises:
        StatementUnreadable: too long, cut off, or not one of these files.
    """
    if len(content) > BYTES_MAX:
        raise StatementUnreadable(f"more than {BYTES_MAX} bytes")
    if not content.endswith(b"\n"):
        raise StatementUnreadable("cut off: the last line does not end")
    last = content.rfind(b"\n", 0, -1) + 1
    try:
        end = msgspec.json.decode(content[last:], type=_End)
    except UNREADABLE:
        raise StatementUnreadable("cut off: the last line does not count the others") from None
    if end.rows != (there := content.count(b"\n") - 1):
        raise StatementUnreadable(f"cut off: it counts {end.rows} lines, there are {there}")
    returned = _returned(content)
    for number, body in enumerate(islice(io.BytesIO(content), there), start=1):
        try:
            row = msgspec.json.decode(body, type=_Kept)
        except UNREADABLE:
            yield bad_line(number, _shown(body), "not a row of this channel")
            continue
        try:
            yield from _lines(number, _shown(body), row, returned)
        except Unclear as problem:
            yield bad_line(number, _shown(body), str(problem))


def _shown(body: bytes) -> str:
    return body.rstrip().decode(errors="backslashreplace")


def _returned(content: bytes) -> dict[str, int]:
    """What was let go of holds, by payment: a capture of a part is booked as the whole charge, and
    the rest as a row of its own, which may come later. Such rows are few: only they are read here.
    """
    found: dict[str, int] = {}
    at = content.find(_PARTIAL_BYTES)
    while at >= 0:
        begins, ends = content.rfind(b"\n", 0, at) + 1, content.find(b"\n", at)
        try:
            row = msgspec.json.decode(content[begins:ends], type=_Kept)
        except UNREADABLE:  # told when its turn comes
            row = None
        if row is not None and row.category == _PARTIAL and row.intent:
            found[row.intent] = found.get(row.intent, 0) - row.amount
        at = content.find(_PARTIAL_BYTES, ends)
    return found


def _lines(
    number: int, shown: str, row: _Kept, returned: dict[str, int]
) -> Iterator[Line | BadLine]:
    """The lines that a row stands for. What the buyer paid counts,
    not what it became in the currency of the bank account; a fee in that currency is a line of its
    own.
    """
    if row.category == _PARTIAL:
        if not row.intent:
            raise Unclear("it names no payment")
        return
    if row.category not in _TYPES:
        raise Unclear("an unknown reporting category")
    kind = _TYPES[row.category]
    if kind in _OF_THE_ACCOUNT:
        # some rows have the amount, others the fee
        whole = money(abs(row.amount) or row.fee, row.currency)
        yield _account_line(number, shown, row, kind, whole)
        return
    amount = (
        _paid(row, returned) if kind is LineType.CAPTURE else money(row.paid, row.paid_currency)
    )
    fee = money(abs(row.fee), row.currency, allow_zero=True)
    is_same = fee.currency == amount.currency
    yield line_of(
        number,
        shown,
        kind=kind,
        trade_no=row.intent if kind is LineType.CAPTURE else row.source,
        attempt_id=row.attempt_id,
        refund_id=row.refund_id,
        amount=amount,
        fee=fee if is_same else Money.zero(amount.currency),
        occurred_at=moment(row.created),
    )
    if not is_same and fee.minor:
        yield _account_line(number, shown, row, LineType.FEE, fee)


def _paid(row: _Kept, returned: dict[str, int]) -> Money:
    """What a capture took. Each of several captures of a hold has a row of its own, whose amount is
    the only one that tells it: behind it stands the charge with all that was held. What was let go
    is in no such row, only in the row of a single capture, which is of the whole charge.
    """
    rest = returned.get(row.intent, 0)
    if row.currency == row.paid_currency:
        is_whole = row.amount == row.paid
        return money(row.amount - rest if is_whole else row.amount, row.currency)
    if rest:
        raise Unclear("a part of a hold was taken in another currency")
    return money(row.paid, row.paid_currency)


def _account_line(
    number: int, shown: str, row: _Kept, kind: LineType, amount: Money
) -> Line | BadLine:
    return line_of(
        number,
        shown,
        kind=kind,
        trade_no=row.id,
        attempt_id=row.attempt_id,
        amount=amount,
        fee=Money.zero(amount.currency),
        occurred_at=moment(row.created),
    )
