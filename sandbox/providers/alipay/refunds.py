"""Refunds of trades: when one is allowed, what a repetition answers, when the money moves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Final

from mesh.money import Money
from sandbox.providers.alipay import triggers
from sandbox.providers.alipay.errors import Refused, business, system_error, unavailable
from sandbox.providers.alipay.notices import Notices
from sandbox.providers.alipay.objects import (
    AlipayConfig,
    Refund,
    RefundState,
    Trade,
    TradeStatus,
)
from sandbox.providers.alipay.trades import CURRENCY, Trades
from sandbox.providers.alipay.triggers import RefundTrigger
from sandbox.providers.ledger import MoneyKind
from sandbox.providers.simulation import Simulation

SPACING: Final = timedelta(seconds=3)
_LATER_SECONDS = 60
_FLOW_BACK_SECONDS = 3600
# before anything moves, the first time; the same number then succeeds
_REFUSES_FIRST: dict[RefundTrigger, Callable[[], Refused]] = {
    RefundTrigger.NO_BALANCE_FIRST: lambda: business("SELLER_BALANCE_NOT_ENOUGH", "卖家余额不足"),
    RefundTrigger.SYSTEM_ERROR_NOT_DONE: system_error,
}
# after the money moved; a repetition answers as usual
_FAILS_AFTER: dict[RefundTrigger, Callable[[], Refused]] = {
    RefundTrigger.SYSTEM_ERROR_DONE: system_error,
    RefundTrigger.UNAVAILABLE_DONE: unavailable,
}


class Refunds:
    """Refunds the trades of `trades`."""

    def __init__(
        self, simulation: Simulation[AlipayConfig], trades: Trades, notices: Notices
    ) -> None:
        self._simulation = simulation
        self._trades = trades
        self._notices = notices
        self._refused_once: set[tuple[str, str]] = set()

    def refund(
        self, trade: Trade, *, out_request_no: str, amount: int, reason: str
    ) -> tuple[Trade, bool]:
        """Refunds; returns the trade and whether money moved by this call (`fund_change`).

        Raises:
            Refused: by the rules of trades, or by a trigger.
        """
        known = trade.refund(out_request_no)
        if known is not None:
            return self._repeat(trade, known, amount)
        self._check(trade, amount)
        trigger = triggers.of_refund(amount)
        if trigger is RefundTrigger.NOT_ALLOWED:
            raise business("TRADE_NOT_ALLOW_REFUND", "当前交易不允许退款")
        key = (trade.trade_no, out_request_no)
        if trigger in _REFUSES_FIRST and key not in self._refused_once:
            self._refused_once.add(key)
            refusal = _REFUSES_FIRST[trigger]
            raise refusal()
        state = {
            RefundTrigger.LATER: RefundState.LATER,
            RefundTrigger.NOTHING_MOVED: RefundState.NOT_MOVED,
        }.get(trigger, RefundState.MOVED)
        refund = Refund(
            out_request_no=out_request_no,
            amount=amount,
            reason=reason,
            state=RefundState.LATER if state is RefundState.LATER else RefundState.NOT_MOVED,
            asked_at=self._simulation.clock.now(),
        )
        trade = self._trades.save(replace(trade, refunds=(*trade.refunds, refund)))
        if state is RefundState.LATER:
            number = trade.terms.out_trade_no
            self._simulation.agenda.after(
                _LATER_SECONDS, lambda: self._move_later(number, out_request_no)
            )
        if state is not RefundState.MOVED:
            return trade, False
        moved = self._move(trade, refund)
        if trigger in _FAILS_AFTER:
            failure = _FAILS_AFTER[trigger]
            raise failure()
        return moved, True

    def _repeat(self, trade: Trade, known: Refund, amount: int) -> tuple[Trade, bool]:
        if known.amount != amount:
            raise business("DISCORDANT_REPEAT_REQUEST", "不一致的请求")
        if known.state is not RefundState.NOT_MOVED:
            return trade, False
        self._check(trade, amount, repeated=known)
        return self._move(trade, known), True

    def _check(self, trade: Trade, amount: int, *, repeated: Refund | None = None) -> None:
        if trade.status is TradeStatus.TRADE_FINISHED:
            raise business("TRADE_HAS_FINISHED", "交易已完结")
        if trade.status is TradeStatus.TRADE_CLOSED:
            raise business("TRADE_HAS_CLOSE", "交易已经关闭")
        if trade.status is TradeStatus.WAIT_BUYER_PAY:
            raise business("TRADE_STATUS_ERROR", "交易状态不合法")
        if amount > trade.total - trade.claimed:
            raise business("REASON_TRADE_REFUND_FEE_ERR", "退款金额错误")
        now = self._simulation.clock.now()
        others = [one for one in trade.refunds if one is not repeated]
        if any(now - one.asked_at < SPACING for one in others):
            # Alipay documents the spacing and no code for it
            raise business("SYSTEM_ERROR", "同一笔交易的退款至少间隔3秒")

    def _move(self, trade: Trade, refund: Refund) -> Trade:
        now = self._simulation.clock.now()
        moved = replace(refund, state=RefundState.MOVED, moved_at=now)
        refunds = tuple(
            moved if one.out_request_no == refund.out_request_no else one for one in trade.refunds
        )
        trade = replace(trade, refunds=refunds)
        if trade.refunded == trade.total:
            trade = replace(trade, status=TradeStatus.TRADE_CLOSED, closed_at=now)
        self._trades.save(trade)
        self._record(MoneyKind.REFUND, trade, moved)
        self._notices.of_refund(trade, moved)
        if triggers.of_refund(refund.amount) is RefundTrigger.FLOWS_BACK:
            self._simulation.agenda.after(_FLOW_BACK_SECONDS, lambda: self._flow_back(trade, moved))
        return trade

    def _move_later(self, out_trade_no: str, out_request_no: str) -> None:
        trade = self._trades.find(out_trade_no)
        refund = trade.refund(out_request_no)
        if refund is not None and refund.state is RefundState.LATER:
            self._move(trade, refund)

    def _flow_back(self, trade: Trade, refund: Refund) -> None:
        self._record(MoneyKind.REFUND_REVERSED, trade, refund)
        self._notices.of_flow_back(trade, refund)

    def _record(self, kind: MoneyKind, trade: Trade, refund: Refund) -> None:
        self._simulation.money.record(
            kind,
            ref=trade.trade_no,
            own_id=refund.out_request_no,
            money=Money(refund.amount, CURRENCY),
        )
