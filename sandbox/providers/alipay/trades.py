"""Trades from the first look of the buyer to their end: who may open, pay and close when."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import timedelta
from typing import Final

from mesh.money import Money
from sandbox.providers.alipay import triggers
from sandbox.providers.alipay.errors import business, system_error
from sandbox.providers.alipay.notices import Notices
from sandbox.providers.alipay.objects import (
    AlipayConfig,
    Terms,
    Trade,
    TradeStatus,
)
from sandbox.providers.alipay.triggers import PaymentTrigger
from sandbox.providers.china import CHINA
from sandbox.providers.control import DeedRefused
from sandbox.providers.ledger import MoneyKind
from sandbox.providers.simulation import Simulation

REFUND_WINDOW: Final = timedelta(days=365)
_CODE_VALID = timedelta(hours=2)
_LATE_SECONDS = 60
CURRENCY: Final = "CNY"


class Trades:
    """All trades of one app, in memory."""

    def __init__(self, simulation: Simulation[AlipayConfig], notices: Notices) -> None:
        self._simulation = simulation
        self._notices = notices
        self._trades: dict[str, Trade] = {}
        self._codes: dict[str, Terms] = {}  # by the token in the text of the QR code
        self._tokens: dict[str, str] = {}  # by out_trade_no
        self._numbers = itertools.count(1)
        self._once: set[tuple[PaymentTrigger, str]] = set()

    @property
    def trades(self) -> tuple[Trade, ...]:
        """All trades, oldest first."""
        return tuple(self._trades.values())

    def first_time(self, trigger: PaymentTrigger, out_trade_no: str) -> bool:
        """True once for each trigger and trade."""
        key = (trigger, out_trade_no)
        is_first = key not in self._once
        self._once.add(key)
        return is_first

    def find(self, out_trade_no: str, trade_no: str = "") -> Trade:
        """The trade of these numbers; an empty one does not count.

        Raises:
            Refused: ACQ.TRADE_NOT_EXIST.
        """
        for trade in self._trades.values():
            if (out_trade_no or trade_no) and (
                out_trade_no in {"", trade.terms.out_trade_no} and trade_no in {"", trade.trade_no}
            ):
                return trade
        raise business("TRADE_NOT_EXIST", "交易不存在")

    def save(self, trade: Trade) -> Trade:
        """Keeps a changed trade."""
        self._trades[trade.terms.out_trade_no] = trade
        return trade

    def open(self, terms: Terms) -> Trade:
        """The buyer opens the page: the trade comes into being now, not before.

        Raises:
            Refused: other terms under this number, paid, closed, or too late.
        """
        known = self._trades.get(terms.out_trade_no)
        self._check_number(terms)
        if known is not None:
            return known
        now = self._simulation.clock.now()
        if now >= terms.expires_at:
            raise business("TRADE_HAS_CLOSE", "交易已经关闭")
        number = f"{now.astimezone(CHINA):%Y%m%d}22001400{next(self._numbers):012}"
        self._simulation.agenda.at(terms.expires_at, lambda: self._expire(terms.out_trade_no))
        return self.save(
            Trade(
                terms=terms,
                trade_no=number,
                status=TradeStatus.WAIT_BUYER_PAY,
                created_at=now,
            )
        )

    def precreate(self, terms: Terms) -> str:
        """A QR code; no trade exists before somebody scans it. Returns the token of the code.

        Raises:
            Refused: the number has a code, or is another trade, paid or closed.
        """
        self._check_number(terms)
        if triggers.of_payment(
            terms.total
        ) is PaymentTrigger.PRECREATE_SYSTEM_ERROR and self.first_time(
            PaymentTrigger.PRECREATE_SYSTEM_ERROR, terms.out_trade_no
        ):
            raise system_error()
        if terms.out_trade_no in self._tokens or terms.out_trade_no in self._trades:
            raise business("APPLY_PC_MERCHANT_CODE_ERROR", "申请商户二维码失败")
        until = self._simulation.clock.now() + _CODE_VALID
        token = f"bax{next(self._numbers):020}"
        self._tokens[terms.out_trade_no] = token
        self._codes[token] = replace(terms, expires_at=min(terms.expires_at, until))
        return token

    def scan(self, token: str) -> Trade:
        """The buyer scans a code.

        Raises:
            Refused: see `open`; ACQ.TRADE_NOT_EXIST for no code of ours.
        """
        terms = self._codes.get(token)
        if terms is None:
            raise business("TRADE_NOT_EXIST", "交易不存在")
        return self._trades.get(terms.out_trade_no) or self.open(terms)

    def scan_number(self, out_trade_no: str) -> Trade:
        """The buyer scans the code of this number, or comes back to its trade.

        Raises:
            Refused: ACQ.TRADE_NOT_EXIST, neither code nor trade has it.
        """
        if out_trade_no in self._trades:
            return self._trades[out_trade_no]
        return self.scan(self._tokens.get(out_trade_no, ""))

    def pay(self, trade: Trade) -> Trade:
        """The buyer pays.

        Raises:
            DeedRefused: it cannot be paid.
        """
        if trade.status is not TradeStatus.WAIT_BUYER_PAY:
            raise DeedRefused(f"the trade is {trade.status}")
        return self._pay(trade)

    def pay_late(self, trade: Trade) -> Trade:
        """The buyer's money arrives after the trade was closed unpaid.

        Raises:
            DeedRefused: it is not closed unpaid.
        """
        if trade.status is not TradeStatus.TRADE_CLOSED or trade.paid_at is not None:
            raise DeedRefused("only a trade that was closed unpaid can be paid late")
        return self._pay(trade)

    def finish(self, trade: Trade) -> Trade:
        """The refund window ends.

        Raises:
            DeedRefused: the trade is not TRADE_SUCCESS.
        """
        if trade.status is not TradeStatus.TRADE_SUCCESS:
            raise DeedRefused(f"the trade is {trade.status}")
        finished = self.save(replace(trade, status=TradeStatus.TRADE_FINISHED))
        self._notices.of_trade(finished)
        return finished

    def close(self, trade: Trade) -> Trade:
        """The shop closes an unpaid trade.

        Raises:
            Refused: it is paid or closed.
        """
        if trade.status is TradeStatus.TRADE_CLOSED:
            raise business("REASON_TRADE_STATUS_INVALID", "交易状态异常")
        if trade.status is not TradeStatus.WAIT_BUYER_PAY:
            raise business("TRADE_STATUS_ERROR", "交易状态不合法")
        return self._close(trade)

    def expire(self, trade: Trade) -> Trade:
        """The deadline of an unpaid trade passes.

        Raises:
            DeedRefused: it is not waiting for the buyer.
        """
        if trade.status is not TradeStatus.WAIT_BUYER_PAY:
            raise DeedRefused(f"the trade is {trade.status}")
        return self._close(trade)

    def _check_number(self, terms: Terms) -> None:
        trade = self._trades.get(terms.out_trade_no)
        known = trade.terms if trade else self._codes.get(self._tokens.get(terms.out_trade_no, ""))
        if known is not None and not known.agrees(terms):
            raise business("CONTEXT_INCONSISTENT", "交易信息被篡改")
        if trade is None:
            return
        if trade.status in {TradeStatus.TRADE_SUCCESS, TradeStatus.TRADE_FINISHED}:
            raise business("TRADE_HAS_SUCCESS", "交易已被支付")
        if trade.status is TradeStatus.TRADE_CLOSED:
            raise business("TRADE_HAS_CLOSE", "交易已经关闭")

    def _pay(self, trade: Trade) -> Trade:
        trigger = triggers.of_payment(trade.total)
        now = self._simulation.clock.now()
        finished = trigger is PaymentTrigger.FINISHED_AT_ONCE
        status = TradeStatus.TRADE_FINISHED if finished else TradeStatus.TRADE_SUCCESS
        paid = self.save(replace(trade, status=status, paid_at=now, closed_at=None))
        self._simulation.money.record(
            MoneyKind.CAPTURE,
            ref=paid.trade_no,
            own_id=paid.terms.out_trade_no,
            money=Money(paid.total, CURRENCY),
        )
        if trigger is not PaymentTrigger.NO_NOTICE:
            self._notices.of_trade(paid)
        self._simulation.agenda.at(
            now + REFUND_WINDOW, lambda: self._finish(paid.terms.out_trade_no)
        )
        return paid

    def _close(self, trade: Trade) -> Trade:
        now = self._simulation.clock.now()
        closed = self.save(replace(trade, status=TradeStatus.TRADE_CLOSED, closed_at=now))
        if triggers.of_payment(trade.total) is PaymentTrigger.PAID_AFTER_CLOSE:
            self._simulation.agenda.after(
                _LATE_SECONDS, lambda: self._pay_after_close(closed.terms.out_trade_no)
            )
        return closed

    def _expire(self, out_trade_no: str) -> None:
        trade = self._trades[out_trade_no]
        if trade.status is TradeStatus.WAIT_BUYER_PAY:
            self._close(trade)

    def _pay_after_close(self, out_trade_no: str) -> None:
        trade = self._trades[out_trade_no]
        if trade.status is TradeStatus.TRADE_CLOSED and trade.paid_at is None:
            self._pay(trade)

    def _finish(self, out_trade_no: str) -> None:
        trade = self._trades[out_trade_no]
        if trade.status is TradeStatus.TRADE_SUCCESS:
            self.finish(trade)
