"""A WeChat Pay merchant as a channel. The buyer alone moves money, with a code, on a page or in
WeChat itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta
from typing import Final
from urllib.parse import quote

from mesh.errors import InvalidArgument
from mesh.money import Money
from mesh.outbound.connections import Lost, NotSent
from payment_rpc.channels.absent import ChargesNothing, HoldsNothing, KeysConfigured
from payment_rpc.channels.capabilities import (
    Capabilities,
    Close,
    FeeKnown,
    Instrument,
    StatementKind,
)
from payment_rpc.channels.china import CHINA, CHINA_DAY
from payment_rpc.channels.doubt import Doubt, Unclear
from payment_rpc.channels.inbound import Ack, Inbound, Received
from payment_rpc.channels.requests import (
    CapturedAttempt,
    Checkout,
    Remember,
)
from payment_rpc.channels.time_left import TimeLeft
from payment_rpc.channels.wechat import answers, notices, orders, statements
from payment_rpc.channels.wechat.amounts import LIMITS, write_fen
from payment_rpc.channels.wechat.api import BASE_URL, WechatApi
from payment_rpc.channels.wechat.credentials import Credentials
from payment_rpc.channels.wechat.signatures import must_be_signed
from payment_rpc.domain.callback import Subject
from payment_rpc.domain.errors import ChannelUnavailable
from payment_rpc.domain.facts import ChannelFact, ChannelStatus
from payment_rpc.domain.refund_facts import RefundChannelStatus, RefundFact
from payment_rpc.domain.statement import Entry

CAPABILITIES: Final = Capabilities(
    instruments=frozenset({Instrument.QR, Instrument.REDIRECT, Instrument.CLIENT_PARAMS}),
    currencies=LIMITS,
    close=Close.KNOWN,
    refunds_max=50,
    refund_window=timedelta(days=365),
    refund_spacing=timedelta(minutes=1),
    expires=(timedelta(minutes=1), timedelta(days=7)),
    statement=StatementKind.TRADES,
    statement_day=CHINA_DAY,
    statement_ready=timedelta(hours=10),
    fee_known=FeeKnown.STATEMENT,
)
_ORDERS: Final = "/v3/pay/transactions"
_REFUNDS: Final = "/v3/refund/domestic/refunds"
# WeChat Pay does not say whether it counts characters or bytes, so bytes of UTF-8
_DESCRIPTION_BYTES_MAX: Final = 127
_REASON_BYTES_MAX: Final = 80


def open_channel(
    *,
    account: str,
    credentials: Credentials,
    is_live: bool,
    notify_url: str,
    base_url: str | None,
    now: Callable[[], datetime],
) -> WechatChannel:
    """Opens an account; must be called in a running loop.

    Args:
        is_live: WeChat Pay has no sandbox, so a test account needs a `base_url`.
        notify_url: where notices arrive; https without a query, at most 255 characters.
        base_url: host and port of a simulator; None for WeChat Pay's own host.

    Raises:
        InvalidArgument: a test account without a `base_url` would take real money.
    """
    if base_url is None and not is_live:
        raise InvalidArgument.of("mode", "the channel has no test mode")
    return WechatChannel(
        account=account,
        credentials=credentials,
        notify_url=notify_url,
        base_url=BASE_URL if base_url is None else base_url,
        now=now,
    )


class WechatChannel(ChargesNothing, HoldsNothing, KeysConfigured):
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
        self._api = WechatApi(credentials, base_url=base_url, now=now)
        self._doubt = Doubt(account)

    @property
    def name(self) -> str:
        """The account, as in `channel` of a payment."""
        return self._account

    @property
    def provider(self) -> str:
        """Whose account it is."""
        return "wechat"

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
        """Opens an order. By `method`: "native", the usual, gives a QR_CODE; "h5" a REDIRECT_URL of
        phones, and needs the address of the buyer; "jsapi" CLIENT_PARAMS for a page inside
        WeChat, and needs the buyer's openid. Our own id is the key: there is nothing to remember.
        """
        if not capture:
            raise ValueError("WeChat Pay holds no money")  # its capabilities say so
        if problem := orders.problem_with(order):
            return self._doubt.not_sent(attempt_id, problem)
        method = orders.METHODS[order.method]
        content = {
            "appid": self._credentials.appid,
            "mchid": self._credentials.mchid,
            "description": orders.cut(order.subject, _DESCRIPTION_BYTES_MAX),
            "out_trade_no": attempt_id,
            "notify_url": self._notify_url,
            # never later than our own deadline
            "time_expire": expires_at.astimezone(CHINA).isoformat(timespec="seconds"),
            "amount": {"total": write_fen(amount), "currency": amount.currency},
            **orders.buyer_of(method, order),
        }
        left = TimeLeft(timeout_seconds)
        try:
            reply = await self._api.call("POST", f"{_ORDERS}/{method}", content, left=left)
            if 400 <= reply.status_code < 500 and reply.code in answers.PREPAY_REFUSED:
                return self._doubt.not_sent(attempt_id, reply)
            action = orders.next_action(method, reply, self._api, return_url=order.return_url)
        except NotSent as problem:
            return self._doubt.not_sent(attempt_id, problem)
        except (Lost, Unclear) as problem:
            return self._doubt.unknown(attempt_id, problem)
        return ChannelFact(
            attempt_id=attempt_id, status=ChannelStatus.PENDING, amount=amount, next_action=action
        )

    async def advance(self, attempt_id: str, *, ref: str, timeout_seconds: float) -> ChannelFact:
        """No step of an attempt is ours."""
        return await self.query(attempt_id, ref=ref, timeout_seconds=timeout_seconds)

    async def query(self, attempt_id: str, *, timeout_seconds: float, ref: str = "") -> ChannelFact:
        """What became of an attempt; NOT_FOUND when WeChat Pay does not know it."""
        return await self._query(attempt_id, TimeLeft(timeout_seconds))

    async def _query(self, attempt_id: str, left: TimeLeft) -> ChannelFact:
        target = f"{_order(attempt_id)}?mchid={self._credentials.mchid}"
        try:
            reply = await self._api.call("GET", target, left=left)
            return answers.read_query(reply, attempt_id=attempt_id)
        except (NotSent, Lost, Unclear) as problem:
            return self._doubt.unknown(attempt_id, problem)

    async def close(self, attempt_id: str, *, timeout_seconds: float, ref: str = "") -> ChannelFact:
        """Closes an order that nobody has paid. A refusal may mean that it is paid, and a success
        names no amount: after any answer a query says what the attempt is.
        """
        left = TimeLeft(timeout_seconds)
        try:
            await self._api.call(
                "POST",
                f"{_order(attempt_id)}/close",
                {"mchid": self._credentials.mchid},
                left=left,
            )
        except (NotSent, Lost, Unclear) as problem:
            return self._doubt.unknown(attempt_id, problem)
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
        """Gives back a part of an order, once per refund id for ever. A refusal is not signed, and
        a repeated call may be refused where the first one was accepted: it is believed only after
        a question.
        """
        left = TimeLeft(timeout_seconds)
        content: dict[str, object] = {
            "out_trade_no": of.attempt_id,
            "out_refund_no": refund_id,
            "notify_url": self._notify_url,
            "amount": {
                "refund": write_fen(amount),
                "total": write_fen(of.amount),
                "currency": amount.currency,
            },
        }
        if reason:
            content["reason"] = orders.cut(reason, _REASON_BYTES_MAX)
        try:
            reply = await self._api.call("POST", _REFUNDS, content, left=left)
            if not 400 <= reply.status_code < 500 or reply.code not in answers.ASKED_AFTER:
                return answers.read_refund(
                    reply, refund_id=refund_id, attempt_id=of.attempt_id, amount=amount
                )
        except NotSent as problem:
            return self._doubt.refund_not_sent(refund_id, problem)
        except (Lost, Unclear) as problem:
            return self._doubt.refund_unknown(refund_id, problem)
        asked = await self._query_refund(refund_id, of.attempt_id, amount, left)
        if asked.status is not RefundChannelStatus.NOT_FOUND:
            return asked
        if reply.code in answers.REFUND_NOT_EXECUTED:
            return self._doubt.refund_not_sent(refund_id, reply)
        if reply.code == answers.NOT_ENOUGH:  # accepted under the same number once there is money
            return RefundFact(
                refund_id=refund_id, status=RefundChannelStatus.PENDING, message=str(reply)
            )
        return answers.refund_refused(reply, refund_id=refund_id)

    async def query_refund(
        self,
        refund_id: str,
        *,
        of: CapturedAttempt,
        amount: Money,
        timeout_seconds: float,
        refund_no: str = "",
    ) -> RefundFact:
        """What became of a refund; NOT_FOUND when WeChat Pay did not accept it."""
        return await self._query_refund(refund_id, of.attempt_id, amount, TimeLeft(timeout_seconds))

    async def _query_refund(
        self, refund_id: str, attempt_id: str, amount: Money, left: TimeLeft
    ) -> RefundFact:
        try:
            reply = await self._api.call("GET", f"{_REFUNDS}/{quote(refund_id)}", left=left)
            return answers.read_refund_query(
                reply, refund_id=refund_id, attempt_id=attempt_id, amount=amount
            )
        except (NotSent, Lost, Unclear) as problem:
            return self._doubt.refund_unknown(refund_id, problem)

    def receive(self, inbound: Inbound, *, now: datetime) -> Received:
        """Reads a notice; each delivery is signed anew, so an old one is no delivery."""
        must_be_signed(inbound.headers, inbound.body, keys=self._api.public_keys, now=now)
        try:
            notice = notices.read_notice(inbound.body)
            news = notices.news_of(notice, self._credentials, self._doubt)
        except notices.Unreadable:
            raise InvalidArgument.of("body", "about neither a payment nor a refund") from None
        return Received(
            news=() if news is None else (news,),
            event_id=notice.id,
            occurred_at=answers.moment(notice.create_time),
            summary=notice.event_type,
        )

    def subject_of(self, inbound: Inbound) -> Subject:
        """The id of a notice."""
        return notices.subject_of(inbound.body)

    def ack(self, *, accepted: bool) -> Ack:
        """Nothing but a success ends a delivery."""
        if accepted:
            return Ack(status_code=204)
        return Ack(
            status_code=400,
            content_type="application/json",
            body=b'{"code":"FAIL","message":"not accepted"}',
        )

    async def statement(
        self, date: date, *, timeout_seconds: float, until: datetime | None = None
    ) -> bytes:
        """The packed CSV of a day's trades; no bytes for a day without trades."""
        left = TimeLeft(timeout_seconds)
        target = f"/v3/bill/tradebill?bill_date={date.isoformat()}&bill_type=ALL&tar_type=GZIP"
        try:
            reply = await self._api.call("GET", target, left=left)
            if reply.status_code == 400 and reply.code == statements.NO_TRADES:
                return b""
            return await statements.download(self._api, reply, base_url=self._base_url, left=left)
        except (NotSent, Lost, Unclear) as problem:
            raise ChannelUnavailable(f"no statement: {problem}") from None

    def parse_statement(self, content: bytes, date: date) -> Iterator[Entry]:
        """Reads the CSV."""
        return statements.parse(content)

    async def check(self, *, timeout_seconds: float) -> str:
        """Asks for an order that nobody made."""
        fact = await self.query("CHECK0", timeout_seconds=timeout_seconds)
        return "" if fact.status is ChannelStatus.NOT_FOUND else fact.message


def _order(attempt_id: str) -> str:
    return f"{_ORDERS}/out-trade-no/{quote(attempt_id, safe='')}"
