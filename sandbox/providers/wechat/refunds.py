"""Refunds: when one is accepted, what a repetition answers, how one ends."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

from mesh.money import Money
from sandbox.providers.ledger import MoneyKind
from sandbox.providers.simulation import Simulation
from sandbox.providers.wechat import triggers
from sandbox.providers.wechat.errors import Refused
from sandbox.providers.wechat.notices import Notices
from sandbox.providers.wechat.objects import (
    CURRENCY,
    Order,
    Refund,
    RefundStatus,
    TradeState,
    WechatConfig,
)
from sandbox.providers.wechat.orders import PAID, Orders
from sandbox.providers.wechat.requests import check_refund
from sandbox.providers.wechat.triggers import RefundTrigger

REFUNDS_MAX: Final = 50
SPACING: Final = timedelta(minutes=1)
WINDOW: Final = timedelta(days=365)
_SLOW_SECONDS = 3600
_ENDS: Final = {
    RefundTrigger.CLOSED: RefundStatus.CLOSED,
    RefundTrigger.ABNORMAL: RefundStatus.ABNORMAL,
}
# after it was accepted; a repetition answers as usual
_FAILS_AFTER: Final = {
    RefundTrigger.LIMITED_DONE: ("FREQUENCY_LIMITED", "频率限制"),
    RefundTrigger.SYSTEM_ERROR_DONE: ("SYSTEM_ERROR", "系统超时"),
}


class Refunds:
    """Refunds the orders of `orders`."""

    def __init__(
        self, simulation: Simulation[WechatConfig], orders: Orders, notices: Notices
    ) -> None:
        self._simulation = simulation
        self._orders = orders
        self._notices = notices
        self._numbers = itertools.count(1)
        self._refused_once: set[str] = set()

    def find(self, out_refund_no: str = "", refund_id: str = "") -> tuple[Order, Refund]:
        """The refund of either number, and its order.

        Raises:
            Refused: RESOURCE_NOT_EXISTS.
        """
        for order in self._orders.orders:
            for refund in order.refunds:
                if refund.out_refund_no == out_refund_no or refund.refund_id == refund_id:
                    return order, refund
        raise Refused("RESOURCE_NOT_EXISTS", "退款单不存在")

    def refund(self, sent: Mapping[str, Any]) -> tuple[Order, Refund]:
        """Accepts a refund, or finds what the identical request made before.

        Raises:
            Refused: by a rule or a trigger.
        """
        check_refund(sent)
        number = str(sent["out_refund_no"])
        try:
            order, known = self.find(number)
        except Refused:
            return self._accept(number, sent)
        if dict(known.sent) != dict(sent):
            raise Refused("INVALID_REQUEST", "订单信息不一致")
        return order, known

    def apply_abnormal(self, refund_id: str) -> tuple[Order, Refund]:
        """A person moves an abnormal refund to another account of the buyer.

        Raises:
            Refused: RESOURCE_NOT_EXISTS; INVALID_REQUEST, it is not abnormal.
        """
        order, refund = self.find(refund_id=refund_id)
        if refund.status is not RefundStatus.ABNORMAL:
            raise Refused("INVALID_REQUEST", "退款单状态不是退款异常")
        moving = replace(refund, status=RefundStatus.PROCESSING)
        order = self._keep(order, moving)
        self._end_after(
            self._simulation.config.refund_seconds, moving.out_refund_no, RefundStatus.SUCCESS
        )
        return order, moving

    def _accept(self, number: str, sent: Mapping[str, Any]) -> tuple[Order, Refund]:
        amount = int(sent["amount"]["refund"])
        order = self._orders.find(
            str(sent.get("out_trade_no", "")), str(sent.get("transaction_id", ""))
        )
        if order is None or order.state not in PAID or order.success_at is None:
            raise Refused("RESOURCE_NOT_EXISTS", "订单不存在或未支付")
        self._check(order, amount, int(sent["amount"]["total"]))
        trigger = triggers.of_refund(amount)
        if trigger is RefundTrigger.ACCOUNT_ABNORMAL:
            raise Refused("USER_ACCOUNT_ABNORMAL", "用户账户异常或注销")
        if trigger is RefundTrigger.NO_BALANCE_FIRST and number not in self._refused_once:
            self._refused_once.add(number)
            raise Refused("NOT_ENOUGH", "基本账户余额不足，请充值后重新发起")
        now = self._simulation.clock.now()
        refund = Refund(
            refund_id=f"50000{now:%Y%m%d}{next(self._numbers):016}",
            out_refund_no=number,
            sent=dict(sent),
            amount=amount,
            status=RefundStatus.PROCESSING,
            created_at=now,
        )
        refunds = (*order.refunds, refund)
        order = self._orders.save(replace(order, state=TradeState.REFUND, refunds=refunds))
        slow = trigger is RefundTrigger.SLOW
        self._end_after(
            _SLOW_SECONDS if slow else self._simulation.config.refund_seconds,
            number,
            _ENDS.get(trigger, RefundStatus.SUCCESS),
        )
        if trigger in _FAILS_AFTER:
            raise Refused(*_FAILS_AFTER[trigger])
        return order, refund

    def _check(self, order: Order, amount: int, total: int) -> None:
        now = self._simulation.clock.now()
        if total != order.total:
            raise Refused("INVALID_REQUEST", "订单金额与原订单不一致")
        if order.success_at is not None and now - order.success_at > WINDOW:
            raise Refused("RULE_LIMIT", "订单已超过可退款的期限")
        if len(order.refunds) >= REFUNDS_MAX:
            raise Refused("RULE_LIMIT", "退款次数超过50次")
        if amount > order.total - order.claimed:
            raise Refused("INVALID_REQUEST", "退款金额大于订单可退金额")
        if order.refunds and now - order.refunds[-1].created_at < SPACING:
            raise Refused("FREQUENCY_LIMITED", "同一笔订单的退款间隔不足1分钟")

    def _keep(self, order: Order, refund: Refund) -> Order:
        refunds = tuple(
            refund if one.out_refund_no == refund.out_refund_no else one for one in order.refunds
        )
        return self._orders.save(replace(order, refunds=refunds))

    def _end_after(self, seconds: float, number: str, status: RefundStatus) -> None:
        self._simulation.agenda.after(seconds, lambda: self._end(number, status))

    def _end(self, number: str, status: RefundStatus) -> None:
        order, refund = self.find(number)
        done = status is RefundStatus.SUCCESS
        ended = replace(
            refund, status=status, success_at=self._simulation.clock.now() if done else None
        )
        order = self._keep(order, ended)
        if done:
            self._simulation.money.record(
                MoneyKind.REFUND,
                ref=ended.refund_id,
                own_id=number,
                money=Money(ended.amount, CURRENCY),
            )
        self._notices.of_refund(order, ended)
