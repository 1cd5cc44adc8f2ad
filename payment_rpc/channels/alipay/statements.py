"""Alipay's bill of a day: a ZIP with CSV files in GBK, one of which lists the trades."""

from __future__ import annotations

import csv
import io
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Final
from urllib.parse import urlsplit

from mesh.money import Money
from mesh.outbound.connections import Connections
from payment_rpc.channels.china import CHINA_DAY, china_moment, yuan
from payment_rpc.channels.doubt import Unclear
from payment_rpc.channels.provider_clocks import PROVIDER_CLOCKS
from payment_rpc.channels.statement_rows import bad_line, line_of, without_sign
from payment_rpc.channels.time_left import TimeLeft
from payment_rpc.domain.errors import ChannelUnavailable
from payment_rpc.domain.statement import (
    BadLine,
    BadTotal,
    Entry,
    Line,
    LineType,
    StatementUnreadable,
)

READY: Final = timedelta(hours=9)  # after the end of a day
# of a day without trades, and of one whose bill is not ready
NO_BILL: Final = frozenset({"BILL_NOT_EXIST", "NO_BILL_DATA"})
ZIP_BYTES_MAX: Final = 64 * 1024 * 1024
CSV_BYTES_MAX: Final = 256 * 1024 * 1024

_NOTES_MAX: Final = 100  # totals that are looked at
_NOTHING: Final = Money.zero("CNY")
_HOSTS: Final = (".alipay.com", ".alipaydev.com", ".alipayobjects.com")
_DETAILS: Final = "业务明细"
_SUMMARY: Final = "汇总"
_KINDS: Final = {"交易": LineType.CAPTURE, "退款": LineType.REFUND}
_TRADE_NO, _ATTEMPT, _KIND = "支付宝交易号", "商户订单号", "业务类型"
_AMOUNT, _RECEIVED, _FEE = "订单金额（元）", "商家实收（元）", "服务费（元）"
_REFUND, _AT = "退款批次号/请求号", "完成时间"
_COLUMNS: Final = (_TRADE_NO, _ATTEMPT, _KIND, _AMOUNT, _RECEIVED, _FEE, _REFUND, _AT)
# at the end: "#交易合计：2笔，商家实收共100.90元"
_TOTAL: Final = re.compile(
    r"#(?P<kind>交易|退款)合计：(?P<lines>[0-9]{1,9})笔，[^，]{0,20}共(?P<amount>-?[0-9.]{1,20})元"
)


def must_be_ready(day: date, now: datetime) -> None:
    """Before a day's bill is ready Alipay says that there is none, as for a day without trades.

    Raises:
        ChannelUnavailable: it is too early.
    """
    _, ends = CHINA_DAY.bounds(day)
    if now < ends + READY:
        raise ChannelUnavailable("the channel's statement of the day is not ready")


async def download(address: str, *, base_url: str, left: TimeLeft) -> bytes:
    """The ZIP at an address that a signed answer named. It lives for 30 s.

    Args:
        base_url: of the gateway; another host must be Alipay's own.

    Raises:
        Unclear: not an address of Alipay's, or no file there. NotSent, Lost: no answer.
    """
    try:
        url, own = urlsplit(address), urlsplit(base_url)
        origin = f"{url.scheme}://{url.netloc}"
        is_own = (url.scheme, url.netloc) == (own.scheme, own.netloc)
        is_alipays = url.scheme == "https" and (url.hostname or "").endswith(_HOSTS)
        if not (is_own or is_alipays):
            raise ValueError("another host")  # noqa: TRY301  # handled like every other bad address
        connections = Connections(
            origin, headers={"accept-encoding": "identity"}, heard=PROVIDER_CLOCKS.heard
        )
        target = f"{url.path or '/'}?{url.query}" if url.query else url.path or "/"
        target.encode("ascii")
    except ValueError:
        raise Unclear("the bill's address is not one of Alipay's") from None
    try:
        answer = await connections.exchange(
            "GET",
            target,
            body=None,
            timeout_seconds=left.in_seconds,
            answer_bytes_max=ZIP_BYTES_MAX,
        )
    finally:
        await connections.aclose()
    if answer.status_code != 200:
        raise Unclear(f"the bill's address answered {answer.status_code}")
    return answer.body


def parse(content: bytes) -> Iterator[Entry]:
    """Reads a bill, row by row; no bytes are a day without trades. Columns are found by their
    names.

    Raises:
        StatementUnreadable: cut off, or not a bill of trades.
    """
    if not content:
        return
    try:
        with (
            zipfile.ZipFile(io.BytesIO(content), metadata_encoding="gbk") as archive,
            archive.open(_details(archive)) as member,
        ):
            yield from _entries(io.TextIOWrapper(member, encoding="gb18030", newline="\n"))
    except UnicodeDecodeError:
        raise StatementUnreadable("not GB18030") from None
    except csv.Error as error:
        raise StatementUnreadable(f"not CSV: {error}") from None
    # the last three: an encrypted member, another compression, a cut one
    except (
        *(zipfile.BadZipFile, zlib.error, ValueError),
        *(RuntimeError, NotImplementedError, OSError, EOFError),
    ):
        raise StatementUnreadable("cut off, or not a ZIP") from None


def _details(archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    """The file that lists trades. Names of files are in GBK too."""
    found = [
        member
        for member in archive.infolist()
        if _DETAILS in member.filename and _SUMMARY not in member.filename
    ]
    if len(found) != 1:
        raise StatementUnreadable(f"{len(found)} files of the ZIP list trades")
    if found[0].file_size > CSV_BYTES_MAX:
        raise StatementUnreadable(f"more than {CSV_BYTES_MAX} bytes")
    return found[0]


def _entries(text: Iterable[str]) -> Iterator[Entry]:
    notes = list[re.Match[str]]()
    table = csv.reader(_rows(text, notes))
    header = [name.strip() for name in next(table, [])]
    if missing := [name for name in _COLUMNS if name not in header]:
        raise StatementUnreadable(f"there is no column {', '.join(missing)}")
    wanted = [(name, header.index(name)) for name in _COLUMNS]
    totals = Counter[str]()
    for number, row in enumerate(table, start=1):
        field = None
        if len(row) == len(header):  # Alipay pads its values with tabs
            field = {name: row[at].strip() for name, at in wanted}
            totals[f"{field[_KIND]} lines"] += 1
            totals[field[_KIND]] += (yuan(field[_RECEIVED]) or _NOTHING).minor
        yield _line(number, field, row)
    yield from _bad_totals(notes, totals)


def _rows(text: Iterable[str], notes: list[re.Match[str]]) -> Iterator[str]:
    """The lines that are rows. Totals among the others go into `notes`."""
    for line in text:
        if line.startswith("#"):
            total = _TOTAL.match(line)
            if total is not None and len(notes) < _NOTES_MAX:
                notes.append(total)
        elif line.strip():
            yield line.rstrip("\r\n") + "\n"


def _line(number: int, field: Mapping[str, str] | None, row: Sequence[str]) -> Line | BadLine:
    text = ",".join(row)
    if field is None:
        return bad_line(number, text, "another number of fields than the header")
    kind = _KINDS.get(field[_KIND])
    if kind is None:
        return bad_line(
            number, text, f"{_KIND}: not one of {', '.join(_KINDS)}", attempt_id=field[_ATTEMPT]
        )
    amount, fee = yuan(field[_AMOUNT]), yuan(field[_FEE] or "0")
    if amount is not None and (amount.minor < 0) is not (kind is LineType.REFUND):
        return bad_line(
            number, text, "amount: of the other sign than its type", attempt_id=field[_ATTEMPT]
        )
    return line_of(
        number,
        text,
        kind=kind,
        trade_no=field[_TRADE_NO],
        attempt_id=field[_ATTEMPT],
        refund_id=field[_REFUND] if kind is LineType.REFUND else "",
        amount=without_sign(amount),
        fee=without_sign(fee),
        occurred_at=china_moment(field[_AT]),
    )


def _bad_totals(notes: Sequence[re.Match[str]], there: Counter[str]) -> Iterator[BadTotal]:
    """Totals at the end that the rows do not add up to."""
    for total in notes:
        kind, told = total["kind"], yuan(total["amount"])
        lines, minor = there[f"{kind} lines"], there[kind]
        if told is None or abs(told.minor) != abs(minor) or int(total["lines"]) != lines:
            yield BadTotal(
                problem=f"{kind}: it says {total['lines']} of {total['amount']}, there are "
                f"{lines} of {Money(minor, 'CNY').format()}",
                text=total.string.strip()[:500],
            )
