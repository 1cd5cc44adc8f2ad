"""An Alipay application as a channel. The buyer alone moves money, on a page or with a QR code that
is payable until its deadline.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta
from typing import Final

from mesh.errors import InvalidArgument
from mesh.money import Money
from mesh.outbound.connections import Lost, NotSent
from payment_rpc.channels.absent import ChargesNothing, HoldsNothing, KeysConfigured
from payment_rpc.channels.alipay import answers, notices, statements
from payment_rpc.channels.alipay.amounts import LIMITS, write_amount
from payment_rpc.channels.alipay.api import LIVE_URL, SANDBOX_URL, AlipayApi
from payment_rpc.channels.alipay.credentials import Credentials
from payment_rpc.channels.alipay.signatures import read_form, signed_notice
from payment_rpc.channels.capabilities import (
    Capabilities,
    Close,
    FeeKnown,
    Instrument,
    StatementKind,
)
from payment_rpc.channels.china import CHINA_DAY, china_moment, china_text
from payment_rpc.channels.doubt import Doubt, Unclear
from payment_rpc.channels.inbound import Ack, Inbound, Received
from payment_rpc.channels.requests import (
    CapturedAttempt,
    Checkout,
    Remember,
)
from payment_rpc.channels.time_left import TimeLeft
from payment_rpc.domain.callback import Subject
from payment_rpc.domain.errors import ChannelUnavailable, SignatureInvalid
from payment_rpc.domain.facts import ChannelFact, ChannelStatus
from payment_rpc.domain.payment import NextAction
from payment_rpc.domain.refund_facts import RefundChannelStatus, RefundFact
from payment_rpc.domain.statement import Entry

CAPABILITIES: Final = Capabilities(
    instruments=frozenset({Instrument.REDIRECT, Instrument.QR}),
    currencies=LIMITS,
    close=Close.DEADLINE,
    refund_window=timedelta(days=365),
    refund_spacing=timedelta(seconds=3),
    expires=(timedelta(minutes=1), timedelta(days=15)),
    statement=StatementKind.TRADES,
    statement_day=CHINA_DAY,
    statement_ready=statements.READY,
    fee_known=FeeKnown.STATEMENT,
)
_PAGES: Final = {
    "": ("alipay.trade.page.pay", "FAST_INSTANT_TRADE_PAY"),
    "page": ("alipay.trade.page.pay", "FAST_INSTANT_TRADE_PAY"),
    "wap": ("alipay.trade.wap.pay", "QUICK_WAP_WAY"),
}
_SUBJECT_MAX: Final = 256
_REASON_MAX: Final = 256
_TAKEN_OUT: Final = str.maketrans("/=&", "   ")  # Alipay refuses them in a subject


def open_channel(
    *,
    account: str,
    credentials: Credentials,
    is_live: bool,
    notify_url: str,
    base_url: str | None,
    now: Callable[[], datetime],
) -> AlipayChannel:
    """Opens an account; must be called in a running loop.

    Args:
        notify_url: where Alipay's notices arrive; https, at most 256 characters.
        base_url: of the gateway; None for Alipay's own of the mode.
    """
    own_url = LIVE_URL if is_live else SANDBOX_URL
    return AlipayChannel(
        account=account,
        credentials=credentials,
        notify_url=notify_url,
        base_url=own_url if base_url is None else base_url,
        now=now,
    )


class AlipayChannel(ChargesNothing, HoldsNothing, KeysConfigured):
    """The adapter. It keeps connections open until `aclose`."""

    def __init__(
        self,
        *,
        account: str,
        credentials: Credentials,
        notify_url: str,
        base_url: str,
        now: Callable[[], datetime],
    ) -> None:
        self._account = account
        self._credentials = credentials
        self._notify_url = notify_url
        self._base_url = base_url
        self._now = now
        self._api = AlipayApi(credentials, base_url=base_url, now=now)
        self._doubt = Doubt(account)

    @property
    def name(self) -> str:
        """The account, as in `channel` of a payment."""
        return self._account

    @property
    def provider(self) -> str:
        """Whose account it is."""
        return "alipay"

    @property
    def capabilities(self) -> Capabilities:
        """The same for all accounts."""
        return CAPABILITIES

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._api.aclose()

    async def checkout(
        self,
        *,
        attempt_id: str,
        amount: Money,
        order: Checkout,
        expires_at: datetime,
        remember: Remember,
        timeout_seconds: float,
        capture: bool = True,
    ) -> ChannelFact:
        """A page ("page", the usual, or "wap" for phones): REDIRECT_URL, signed here, and Alipay
        hears of it when the buyer opens it. "qr": QR_CODE, which Alipay makes. Our own id is its
        key, so there is nothing to remember.
        """
        if not capture:
            raise ValueError("Alipay holds no money")  # its capabilities say so
        content = {
            "out_trade_no": attempt_id,
            "total_amount": write_amount(amount),
            "subject": order.subject.translate(_TAKEN_OUT)[:_SUBJECT_MAX],
            # the only end of a page that was never opened: never later than our own deadline
            "time_expire": china_text(expires_at),
        }
        if order.method == "qr":
            content["product_code"] = "QR_CODE_OFFLINE"
            return await self._precreate(attempt_id, amount, content, TimeLeft(timeout_seconds))
        if order.method not in _PAGES:
            return self._doubt.not_sent(attempt_id, "the channel has no such way to pay")
        method, content["product_code"] = _PAGES[order.method]
        if order.method == "wap" and order.return_url:
            content["quit_url"] = order.return_url
        url = self._api.page_url(
            method, content, notify_url=self._notify_url, return_url=order.return_url
        )
        return _waiting(attempt_id, amount, NextAction(kind="REDIRECT_URL", value=url))

    async def _precreate(
        self, attempt_id: str, amount: Money, content: dict[str, str], left: TimeLeft
    ) -> ChannelFact:
        try:
            reply = await self._api.call(
                "alipay.trade.precreate", content, left=left, notify_url=self._notify_url
            )
            if reply.code in answers.NOT_EXECUTED or reply.sub_code in answers.PRECREATE_REFUSED:
                return self._doubt.not_sent(attempt_id, reply)
            code = answers.read_qr_code(reply, attempt_id=attempt_id)
        except NotSent as problem:
            return self._doubt.not_sent(attempt_id, problem)
        except (Lost, Unclear) as problem:
            return self._doubt.unknown(attempt_id, problem)
        return _waiting(attempt_id, amount, NextAction(kind="QR_CODE", value=code))

    async def advance(self, attempt_id: str, *, ref: str, timeout_seconds: float) -> ChannelFact:
        """No step of an attempt is ours."""
        return await self.query(attempt_id, ref=ref, timeout_seconds=timeout_seconds)

    async def query(self, attempt_id: str, *, timeout_seconds: float, ref: str = "") -> ChannelFact:
        """What became of an attempt. NOT_FOUND: nobody has opened the page or scanned the code yet,
        and until the deadline somebody may.
        """
        return await self._query(attempt_id, TimeLeft(timeout_seconds))

    async def _query(self, attempt_id: str, left: TimeLeft) -> ChannelFact:
        try:
            reply = await self._api.call(
                "alipay.trade.query", {"out_trade_no": attempt_id}, left=left
            )
            return answers.read_query(reply, attempt_id=attempt_id)
        except (NotSent, Lost, Unclear) as problem:
            return self._doubt.unknown(attempt_id, problem)

    async def close(self, attempt_id: str, *, timeout_seconds: float, ref: str = "") -> ChannelFact:
        """Closes a trade that waits for the buyer. NOT_CLOSABLE when there is none: a page that
        nobody opened stays payable until its deadline. After any other answer a query says what the
        attempt is: an answer to close names no amount.
        """
        left = TimeLeft(timeout_seconds)
        try:
            reply = await self._api.call(
                "alipay.trade.close", {"out_trade_no": attempt_id}, left=left
            )
        except (NotSent, Lost, Unclear) as problem:
            return self._doubt.unknown(attempt_id, problem)
        if reply.sub_code == answers.NO_TRADE:
            return ChannelFact(attempt_id=attempt_id, status=ChannelStatus.NOT_CLOSABLE)
        return await self._query(attempt_id, left)

    async def refund(
        self,
        *,
        refund_id: str,
        of: CapturedAttempt,
        amount: Money,
        reason: str,
        timeout_seconds: float,
    ) -> RefundFact:
        """Gives back a part of a trade, once per refund id for ever. A refusal is believed only
        after a question: a repeated call is refused too where the first one was carried out.
        """
        left = TimeLeft(timeout_seconds)
        content = {
            "out_trade_no": of.attempt_id,
            "refund_amount": write_amount(amount),
            "out_request_no": refund_id,
        }
        if reason:
            content["refund_reason"] = reason[:_REASON_MAX]
        try:
            reply = await self._api.call("alipay.trade.refund", content, left=left)
            if reply.code in answers.NOT_EXECUTED:
                return self._doubt.refund_not_sent(refund_id, reply)
            if reply.is_success or reply.sub_code not in answers.REFUND_REFUSED:
                return answers.read_refund(
                    reply, refund_id=refund_id, attempt_id=of.attempt_id, amount=amount
                )
        except NotSent as problem:
            return self._doubt.refund_not_sent(refund_id, problem)
        except (Lost, Unclear) as problem:
            return self._doubt.refund_unknown(refund_id, problem)
        asked = await self._query_refund(refund_id, of.attempt_id, amount, left)
        return (
            answers.refund_refused(reply, refund_id=refund_id)
            if asked.status is RefundChannelStatus.NOT_FOUND
            else asked
        )

    async def query_refund(
        self,
        refund_id: str,
        *,
        of: CapturedAttempt,
        amount: Money,
        timeout_seconds: float,
        refund_no: str = "",
    ) -> RefundFact:
        """SUCCESS, or NOT_FOUND: Alipay answers alike for a refund that it does not know and for
        one that is not decided.
        """
        return await self._query_refund(refund_id, of.attempt_id, amount, TimeLeft(timeout_seconds))

    async def _query_refund(
        self, refund_id: str, attempt_id: str, amount: Money, left: TimeLeft
    ) -> RefundFact:
        content = {
            "out_trade_no": attempt_id,
            "out_request_no": refund_id,
            "query_options": ["gmt_refund_pay"],
        }
        try:
            reply = await self._api.call("alipay.trade.fastpay.refund.query", content, left=left)
            return answers.read_refund_query(
                reply, refund_id=refund_id, attempt_id=attempt_id, amount=amount
            )
        except (NotSent, Lost, Unclear) as problem:
            return self._doubt.refund_unknown(refund_id, problem)

    def receive(self, inbound: Inbound, *, now: datetime) -> Received:
        """Reads a notice. Alipay repeats one for a day under the time of the first, so its age
        proves nothing; the guards of the states make a replay harmless.
        """
        fields = signed_notice(inbound.body, self._api.alipay_keys)
        notices.must_be_ours(fields, self._credentials)
        try:
            news = notices.read(fields)
        except KeyError:
            raise InvalidArgument.of("body", "about neither a payment nor a refund") from None
        except Unclear as problem:
            news = self._doubt.unknown(fields["out_trade_no"], problem)
        return Received(
            news=() if news is None else (news,),
            event_id=notices.event_id(fields),
            occurred_at=china_moment(fields.get("notify_time", "")),
            summary=notices.summary(fields),
        )

    def subject_of(self, inbound: Inbound) -> Subject:
        """The ids in a notice."""
        try:
            return notices.subject_of(read_form(inbound.body))
        except SignatureInvalid:
            return Subject()

    def ack(self, *, accepted: bool) -> Ack:
        """The seven letters on which Alipay stops; every other answer is a failure to it."""
        return Ack(status_code=200, body=b"success" if accepted else b"fail")

    async def statement(
        self, date: date, *, timeout_seconds: float, until: datetime | None = None
    ) -> bytes:
        """The ZIP of a day's trades; no bytes for a day without trades."""
        left = TimeLeft(timeout_seconds)
        try:
            reply = await self._api.call(
                "alipay.data.dataservice.bill.downloadurl.query",
                {"bill_type": "trade", "bill_date": date.isoformat()},
                left=left,
            )
            if reply.sub_code in statements.NO_BILL:
                statements.must_be_ready(date, self._now())
                return b""
            address = answers.read_bill_address(reply)
            return await statements.download(address, base_url=self._base_url, left=left)
        except (NotSent, Lost, Unclear) as problem:
            raise ChannelUnavailable(f"no statement: {problem}") from None

    def parse_statement(self, content: bytes, date: date) -> Iterator[Entry]:
        """Reads the ZIP."""
        return statements.parse(content)

    async def check(self, *, timeout_seconds: float) -> str:
        """Asks for a trade that nobody made."""
        fact = await self.query("check", timeout_seconds=timeout_seconds)
        return "" if fact.status is ChannelStatus.NOT_FOUND else fact.message


def _waiting(attempt_id: str, amount: Money, action: NextAction) -> ChannelFact:
    return ChannelFact(
        attempt_id=attempt_id, status=ChannelStatus.PENDING, amount=amount, next_action=action
    )
