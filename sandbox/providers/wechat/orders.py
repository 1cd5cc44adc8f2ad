"""Orders from the prepay to their end: who may pay and close when."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from mesh.money import Money
from sandbox.providers.china import CHINA
from sandbox.providers.control import DeedRefused
from sandbox.providers.ledger import MoneyKind
from sandbox.providers.simulation import Simulation
from sandbox.providers.wechat import triggers
from sandbox.providers.wechat.errors import Refused
from sandbox.providers.wechat.notices import Notices
from sandbox.providers.wechat.objects import CURRENCY, Order, TradeState, WechatConfig
from sandbox.providers.wechat.requests import check_prepay
from sandbox.providers.wechat.triggers import PaymentTrigger

_CODE_VALID = timedelta(hours=2)
_H5_VALID = timedelta(minutes=5)
_PAYING_SECONDS = 30
_COUPON = 100
PAID: Final = frozenset({TradeState.SUCCESS, TradeState.REFUND})
_PAYS_LATER = {
    PaymentTrigger.USERPAYING: TradeState.USERPAYING,
    PaymentTrigger.ACCEPT: TradeState.ACCEPT,
}


class Orders:
    """All orders of one merchant, in memory."""

    def __init__(self, simulation: Simulation[WechatConfig], notices: Notices) -> None:
        self._simulation = simulation
        self._notices = notices
        self._orders: dict[str, Order] = {}
        self._numbers = itertools.count(1)
        self._once: set[tuple[PaymentTrigger, str]] = set()

    @property
    def orders(self) -> tuple[Order, ...]:
        """All orders, oldest first."""
        return tuple(self._orders.values())

    def provokes(self, trigger: PaymentTrigger, order: Order) -> bool:
        """True once for an order whose amount is this trigger."""
        key = (trigger, order.out_trade_no)
        if triggers.of_payment(order.total) is not trigger or key in self._once:
            return False
        self._once.add(key)
        return True

    def save(self, order: Order) -> Order:
        """Keeps a changed order."""
        self._orders[order.out_trade_no] = order
        return order

    def find(self, out_trade_no: str = "", transaction_id: str = "") -> Order | None:
        """The order of these numbers; an empty one does not count."""
        for order in self._orders.values():
            if (out_trade_no or transaction_id) and (
                out_trade_no in {"", order.out_trade_no}
                and transaction_id in {"", order.transaction_id}
            ):
                return order
        return None

    def by_token(self, token: str) -> Order | None:
        """The order that a code or a prepay_id belongs to, while it is good."""
        now = self._simulation.clock.now()
        for order in self._orders.values():
            if order.token == token and now < order.token_until:
                return order
        return None

    def prepay(self, trade_type: str, sent: Mapping[str, Any]) -> Order:
        """The order of this number, made now unless the identical request made it before.

        Raises:
            Refused: PARAM_ERROR and its kind; OUT_TRADE_NO_USED; ORDER_CLOSED.
        """
        now = self._simulation.clock.now()
        known = self._orders.get(str(sent.get("out_trade_no", "")))
        if known is not None and (known.trade_type, known.sent) == (trade_type, dict(sent)):
            return self._repeated(known, now)
        expires_at = check_prepay(sent, trade_type, self._simulation.config, now)
        if known is not None:
            raise Refused("OUT_TRADE_NO_USED", "商户订单号重复")
        token, until = self._token(trade_type, now)
        order = self.save(
            Order(
                trade_type=trade_type,
                sent=dict(sent),
                state=TradeState.NOTPAY,
                created_at=now,
                expires_at=expires_at,
                token=token,
                token_until=until,
            )
        )
        if self.provokes(PaymentTrigger.PREPAY_SYSTEM_ERROR, order):
            raise Refused("SYSTEM_ERROR", "系统错误")
        return order

    def close(self, order: Order) -> None:
        """The shop closes an unpaid order; closing again does nothing.

        Raises:
            Refused: TRADE_ERROR, it is paid or being paid; RULE_LIMIT and SYSTEM_ERROR by triggers.
        """
        if triggers.of_payment(order.total) is PaymentTrigger.CLOSE_REFUSED:
            raise Refused("RULE_LIMIT", "业务规则限制")
        if order.state is not TradeState.CLOSED:
            if order.state is not TradeState.NOTPAY:
                raise Refused("TRADE_ERROR", "订单已支付")
            order = self.save(replace(order, state=TradeState.CLOSED))
        if self.provokes(PaymentTrigger.CLOSE_SYSTEM_ERROR, order):
            raise Refused("SYSTEM_ERROR", "系统错误")

    def pay(self, order: Order) -> Order:
        """The buyer pays.

        Raises:
            DeedRefused: the order is not open, or its deadline or its code has passed.
        """
        now = self._simulation.clock.now()
        if order.state is not TradeState.NOTPAY:
            raise DeedRefused(f"the order is {order.state}")
        if now >= order.expires_at or now >= order.token_until:
            raise DeedRefused("the code has expired")
        return self._begin(order)

    def pay_late(self, order: Order) -> Order:
        """Money arrives after the deadline or the close, which WeChat Pay says does not happen.

        Raises:
            DeedRefused: the order is neither closed nor over its deadline.
        """
        late = self._simulation.clock.now() >= order.expires_at
        if order.state is TradeState.CLOSED or (order.state is TradeState.NOTPAY and late):
            return self._paid(order)
        raise DeedRefused(f"the order is {order.state}, and not over its deadline")

    def expire(self, order: Order) -> Order:
        """The deadline passes now; the state stays.

        Raises:
            DeedRefused: the order is not open.
        """
        if order.state is not TradeState.NOTPAY:
            raise DeedRefused(f"the order is {order.state}")
        return self.save(replace(order, expires_at=self._simulation.clock.now()))

    def _repeated(self, known: Order, now: datetime) -> Order:
        if known.state is TradeState.CLOSED or now >= known.expires_at:
            raise Refused("ORDER_CLOSED", "订单已关闭")
        if known.state is not TradeState.NOTPAY:
            raise Refused("OUT_TRADE_NO_USED", "商户订单号重复")
        if now < known.token_until:
            return known
        token, until = self._token(known.trade_type, now)
        return self.save(replace(known, token=token, token_until=until))

    def _token(self, trade_type: str, now: datetime) -> tuple[str, datetime]:
        valid = _H5_VALID if trade_type == "MWEB" else _CODE_VALID
        stamp = f"{now.astimezone(CHINA):%Y%m%d%H%M%S}"
        return f"wx{stamp}{next(self._numbers):020}", now + valid

    def _begin(self, order: Order) -> Order:
        trigger = triggers.of_payment(order.total)
        number = f"42000{self._simulation.clock.now():%Y%m%d}{next(self._numbers):015}"
        order = replace(order, transaction_id=number)
        if trigger is PaymentTrigger.PAYERROR:
            return self.save(replace(order, state=TradeState.PAYERROR))
        if trigger in _PAYS_LATER:
            waiting = self.save(replace(order, state=_PAYS_LATER[trigger]))
            self._simulation.agenda.after(
                _PAYING_SECONDS, lambda: self._paid_later(waiting.out_trade_no)
            )
            return waiting
        return self._paid(order)

    def _paid_later(self, out_trade_no: str) -> None:
        order = self._orders[out_trade_no]
        if order.state in _PAYS_LATER.values():
            self._paid(order)

    def _paid(self, order: Order) -> Order:
        trigger, now = triggers.of_payment(order.total), self._simulation.clock.now()
        number = f"42000{now:%Y%m%d}{next(self._numbers):015}"
        coupon = _COUPON if trigger is PaymentTrigger.COUPON else 0
        paid = self.save(
            replace(
                order,
                state=TradeState.SUCCESS,
                transaction_id=order.transaction_id or number,
                success_at=now,
                payer_total=order.total - coupon,
            )
        )
        self._record(MoneyKind.CAPTURE, paid)
        if trigger is PaymentTrigger.REVOKED:
            self._record(MoneyKind.REFUND, paid)
            return self.save(replace(paid, state=TradeState.REVOKED))
        self._notices.of_order(paid)
        return paid

    def _record(self, kind: MoneyKind, order: Order) -> None:
        self._simulation.money.record(
            kind,
            ref=order.transaction_id,
            own_id=order.out_trade_no,
            money=Money(order.total, CURRENCY),
        )
