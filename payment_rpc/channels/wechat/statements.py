"""WeChat Pay's bill of trades of a day: CSV in which a backtick stands before each value."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import io
import zlib
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Final
from urllib.parse import urlsplit

import msgspec

from mesh.money import Money
from payment_rpc.channels.china import china_moment, yuan
from payment_rpc.channels.doubt import Unclear
from payment_rpc.channels.statement_rows import bad_line, line_of, without_sign
from payment_rpc.channels.time_left import TimeLeft
from payment_rpc.channels.wechat.answers import decode
from payment_rpc.channels.wechat.api import Reply, WechatApi
from payment_rpc.domain.statement import (
    BadLine,
    BadTotal,
    Entry,
    Line,
    LineType,
    StatementUnreadable,
)

NO_TRADES: Final = "NO_STATEMENT_EXIST"  # of that day; asking again gives no other answer
FILE_BYTES_MAX: Final = 64 * 1024 * 1024
TEXT_BYTES_MAX: Final = 256 * 1024 * 1024

_NOTHING: Final = Money.zero("CNY")
_GZIP: Final = b"\x1f\x8b"
_TRADE_NO, _ATTEMPT, _STATE, _AT = "微信订单号", "商户订单号", "交易状态", "交易时间"
_AMOUNT, _REFUNDED, _FEE, _CURRENCY = "订单金额", "申请退款金额", "手续费", "货币种类"
_REFUND_NO, _REFUND = "微信退款单号", "商户退款单号"
_COLUMNS: Final = (
    _TRADE_NO,
    _ATTEMPT,
    _STATE,
    _AT,
    _AMOUNT,
    _REFUNDED,
    _FEE,
    _CURRENCY,
    _REFUND_NO,
    _REFUND,
)
# columns of the totals, and those of the rows that they sum
_COUNT: Final = "总交易单数"
_SUMS: Final = {"订单总金额": _AMOUNT, "申请退款总金额": _REFUNDED}


class _Address(msgspec.Struct, frozen=True, kw_only=True):
    hash_type: str
    hash_value: str
    download_url: str


async def download(api: WechatApi, reply: Reply, *, base_url: str, left: TimeLeft) -> bytes:
    """The file that a signed answer names. The download itself is not signed: its text must have
    the hash of the answer.

    Raises:
        Unclear: no such answer, no address of WeChat Pay's, or another file. NotSent, Lost: no
            answer.
    """
    if reply.status_code != 200:
        raise Unclear(reply)
    told = decode(reply.content, _Address)
    try:
        url, own = urlsplit(told.download_url), urlsplit(base_url)
        target = f"{url.path}?{url.query}" if url.query else url.path
        # it is fetched with our signature, which nobody else may see
        if (url.scheme, url.netloc) != (own.scheme, own.netloc) or not target.isascii():
            raise ValueError("another host")  # noqa: TRY301  # handled like every other bad address
    except ValueError:
        raise Unclear("the bill's address is not one of WeChat Pay's") from None
    answer = await api.fetch("GET", target, left=left, answer_bytes_max=FILE_BYTES_MAX)
    if answer.status_code != 200:
        raise Unclear(f"the bill's address answered {answer.status_code}")
    await asyncio.to_thread(_must_have_hash, answer.body, told)
    return answer.body


def parse(content: bytes) -> Iterator[Entry]:
    """Reads a bill, row by row; no bytes are a day without trades. Columns are found by their
    names.

    Raises:
        StatementUnreadable: cut off, or not a bill of trades.
    """
    if not content:
        return
    text = io.TextIOWrapper(io.BytesIO(_unpacked(content)), encoding="utf-8-sig", newline="\r\n")
    try:
        yield from _entries(row.removesuffix("\r\n") for row in text)
    except UnicodeDecodeError:
        raise StatementUnreadable("not UTF-8") from None


def _entries(lines: Iterator[str]) -> Iterator[Entry]:
    rows = filter(None, lines)
    header = next(rows, "").split(",")
    if missing := [name for name in _COLUMNS if name not in header]:
        raise StatementUnreadable(f"there is no column {', '.join(missing)}")
    wanted = [(name, header.index(name)) for name in _COLUMNS]
    number, there, waiting = 0, Counter[str](), deque[str]()
    for later in rows:
        waiting.append(later)
        if len(waiting) < 3:
            continue  # after the trades: the names of the totals, and the totals
        number, row = number + 1, waiting.popleft()
        field = _named(wanted, len(header), row)
        if field is not None:
            for column in _SUMS.values():
                there[column] += (yuan(field[column]) or _NOTHING).minor
        yield _line(number, field, row)
    if len(waiting) < 2 or _COUNT not in waiting[0].split(","):
        raise StatementUnreadable("cut off: there are no totals at the end")
    names = waiting[0].split(",")
    totals = _named([(name, at) for at, name in enumerate(names)], len(names), waiting[1])
    yield from _bad_totals(totals, waiting[1], number, there)


def _must_have_hash(content: bytes, told: _Address) -> None:
    """
    Raises:
        Unclear: the text has another hash than WeChat Pay signed.
    """
    try:
        text = _unpacked(content)
    except StatementUnreadable as problem:
        raise Unclear(problem) from None
    found = hashlib.sha1(text, usedforsecurity=False).hexdigest()
    if told.hash_type != "SHA1" or not hmac.compare_digest(
        found.encode(), told.hash_value.lower().encode()
    ):
        raise Unclear("the bill has another hash than WeChat Pay said")


def _unpacked(content: bytes) -> bytes:
    """The text of a file, which may come packed."""
    if not content.startswith(_GZIP):
        return content
    unpacking = zlib.decompressobj(wbits=31)
    try:
        text = unpacking.decompress(content, TEXT_BYTES_MAX)
    except zlib.error:
        raise StatementUnreadable("not gzip") from None
    if not unpacking.eof:
        raise StatementUnreadable(f"cut off, or more than {TEXT_BYTES_MAX} bytes")
    return text


def _named(wanted: Sequence[tuple[str, int]], columns: int, row: str) -> dict[str, str] | None:
    """The wanted fields of a row, by name and position. A product's name may hold a comma, but no
    comma and backtick.
    """
    values = row.split(",`")
    if len(values) != columns or not values[0].startswith("`"):
        return None
    values[0] = values[0][1:]
    return {name: values[at].strip() for name, at in wanted}


def _line(number: int, field: Mapping[str, str] | None, text: str) -> Line | BadLine:
    if field is None:
        return bad_line(number, text, "another number of fields than the header")
    if field[_CURRENCY] != "CNY":
        return bad_line(number, text, "currency: not CNY", attempt_id=field[_ATTEMPT])
    fee = without_sign(yuan(field[_FEE] or "0", round_half_up=True))
    occurred_at = china_moment(field[_AT])
    match field[_STATE]:
        case "SUCCESS":
            return line_of(
                number,
                text,
                kind=LineType.CAPTURE,
                trade_no=field[_TRADE_NO],
                attempt_id=field[_ATTEMPT],
                amount=yuan(field[_AMOUNT]),
                fee=fee,
                occurred_at=occurred_at,
            )
        case "REFUND":
            return line_of(
                number,
                text,
                kind=LineType.REFUND,
                trade_no=field[_REFUND_NO],
                attempt_id=field[_ATTEMPT],
                refund_id=field[_REFUND],
                amount=yuan(field[_REFUNDED]),
                fee=fee,
                occurred_at=occurred_at,
            )
        case "REVOKED":  # of payments by scanned codes, which we do not take
            return bad_line(number, text, "a revoked payment", attempt_id=field[_ATTEMPT])
        case _:
            return bad_line(number, text, f"{_STATE}: not one we know", attempt_id=field[_ATTEMPT])


def _bad_totals(
    totals: Mapping[str, str] | None, text: str, lines: int, there: Mapping[str, int]
) -> Iterator[BadTotal]:
    """Totals that the rows do not add up to."""
    if totals is None:
        yield BadTotal(problem="the totals cannot be read", text=text[:500])
        return
    if totals[_COUNT] != str(lines):
        yield BadTotal(
            problem=f"it says {totals[_COUNT][:20]} rows, there are {lines}", text=text[:500]
        )
    for name, column in _SUMS.items():
        minor, told = there.get(column, 0), yuan(totals.get(name, ""))
        if told is None or told.minor != minor:
            yield BadTotal(
                problem=f"{name}: it says {totals.get(name, 'nothing')[:20]}, there are "
                f"{Money(minor, 'CNY').format()}",
                text=text[:500],
            )
