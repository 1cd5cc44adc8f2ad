"""The methods of Alipay's gateway that answer JSON: what each reads, does and answers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta
from typing import Any, Final

from sandbox.providers.alipay import triggers
from sandbox.providers.alipay.bill import has_moves, ledger_bill, trade_bill
from sandbox.providers.alipay.errors import (
    MESSAGES,
    Refused,
    business,
    system_error,
    unavailable,
)
from sandbox.providers.alipay.notices import BUYER_ID, BUYER_LOGON_ID, shown_status
from sandbox.providers.alipay.objects import (
    AlipayConfig,
    RefundState,
    Trade,
    TradeStatus,
)
from sandbox.providers.alipay.refunds import Refunds
from sandbox.providers.alipay.requests import PRECREATE, fen, read_day, read_terms, require
from sandbox.providers.alipay.trades import Trades
from sandbox.providers.alipay.triggers import PaymentTrigger
from sandbox.providers.china import china_day, china_hour, china_text, yuan
from sandbox.providers.simulation import Simulation

Fields = dict[str, Any]
Method = Callable[[Mapping[str, str], Mapping[str, Any]], Fields]
_BILL_HOUR: Final = 9  # of the next day, in China
_BILL_URL_SECONDS: Final = 30
_BILLS: Final = {"trade": trade_bill, "signcustomer": ledger_bill}


class Gateway:
    """Answers requests whose common parameters were checked."""

    def __init__(
        self, simulation: Simulation[AlipayConfig], trades: Trades, refunds: Refunds
    ) -> None:
        self._simulation = simulation
        self._trades = trades
        self._refunds = refunds
        self._numbers = itertools.count(1)
        # kind and day, and until when the address is good
        self._bills: dict[str, tuple[str, date, datetime]] = {}
        self._methods: dict[str, Method] = {
            PRECREATE: self._precreate,
            "alipay.trade.query": self._query,
            "alipay.trade.close": self._close,
            "alipay.trade.cancel": self._cancel,
            "alipay.trade.refund": self._refund,
            "alipay.trade.fastpay.refund.query": self._refund_query,
            "alipay.data.dataservice.bill.downloadurl.query": self._bill_url,
        }

    def answer(self, parameters: Mapping[str, str], content: Mapping[str, Any]) -> Fields:
        """Does what a method says; returns the fields of the answer.

        Raises:
            Refused: any other answer than success.
        """
        fields = self._methods[parameters["method"]](parameters, content)
        return {"code": "10000", "msg": MESSAGES["10000"], **fields}

    def is_unsigned(self, content: Mapping[str, Any]) -> bool:
        """True when the answer about this trade carries no signature, by a trigger."""
        try:
            trade = self._find(content)
        except Refused:
            return False
        return triggers.of_payment(trade.total) is PaymentTrigger.QUERY_UNSIGNED

    def download(self, token: str) -> bytes | None:
        """The bill behind an address; None when it is unknown or too old."""
        kind, day, until = self._bills.get(token, ("", date.min, self._simulation.clock.now()))
        if self._simulation.clock.now() >= until:
            return None
        return _BILLS[kind](self._trades.trades, day, self._simulation.config)

    def _find(self, content: Mapping[str, Any]) -> Trade:
        numbers = content.get("out_trade_no", ""), content.get("trade_no", "")
        if not any(numbers):
            raise business("INVALID_PARAMETER", "参数无效: out_trade_no")
        return self._trades.find(*numbers)

    def _precreate(self, parameters: Mapping[str, str], content: Mapping[str, Any]) -> Fields:
        terms = read_terms(parameters, content, self._simulation.clock.now())
        token = self._trades.precreate(terms)
        return {
            "out_trade_no": terms.out_trade_no,
            "qr_code": f"{self._simulation.base_url}/qr/{token}",
        }

    def _query(self, _parameters: Mapping[str, str], content: Mapping[str, Any]) -> Fields:
        trade = self._find(content)
        trigger = triggers.of_payment(trade.total)
        number = trade.terms.out_trade_no
        if trigger is PaymentTrigger.QUERY_UNAVAILABLE and self._trades.first_time(trigger, number):
            raise unavailable()
        if trigger is PaymentTrigger.QUERY_SYSTEM_ERROR and self._trades.first_time(
            trigger, number
        ):
            raise system_error()
        paid = yuan(trade.total if trade.paid_at is not None else 0)
        fields: Fields = {
            **_numbers(trade),
            "buyer_logon_id": BUYER_LOGON_ID,
            "buyer_user_id": BUYER_ID,
            "trade_status": shown_status(trade),
            "total_amount": yuan(trade.total),
            "receipt_amount": paid,
            "buyer_pay_amount": paid,
            "invoice_amount": paid,
            "point_amount": "0.00",
        }
        if trade.paid_at is not None:
            fields["send_pay_date"] = china_text(trade.paid_at)
            fields["fund_bill_list"] = [{"amount": paid, "fund_channel": "ALIPAYACCOUNT"}]
            if trigger is PaymentTrigger.PAY_LATER:
                fields["credit_pay_mode"] = "creditAdvanceV2"
                fields["credit_biz_order_id"] = f"ZMCB{trade.trade_no}"
        elif trigger is PaymentTrigger.PAYING and trade.status is TradeStatus.WAIT_BUYER_PAY:
            fields = {"code": "10003", "msg": MESSAGES["10003"], **fields}
        return fields

    def _close(self, _parameters: Mapping[str, str], content: Mapping[str, Any]) -> Fields:
        trade = self._trades.close(self._find(content))
        trigger = triggers.of_payment(trade.total)
        if trigger is PaymentTrigger.CLOSE_SYSTEM_ERROR:
            raise system_error()
        return _numbers(trade)

    def _cancel(self, _parameters: Mapping[str, str], content: Mapping[str, Any]) -> Fields:
        """Closes an unpaid trade and refunds a paid one; without a trade nothing happens, and the
        code stays payable.
        """
        done: Fields = {"retry_flag": "N"}
        try:
            trade = self._find(content)
        except Refused as refused:
            if refused.sub_code != "ACQ.TRADE_NOT_EXIST":
                raise
            return {"out_trade_no": content.get("out_trade_no", ""), **done}
        if trade.status is TradeStatus.WAIT_BUYER_PAY:
            self._trades.close(trade)
            done["action"] = "close"
        elif trade.status is TradeStatus.TRADE_SUCCESS:
            number, rest = trade.terms.out_trade_no, trade.total - trade.claimed
            if rest:  # else all of it is on its way
                self._refunds.refund(trade, out_request_no=number, amount=rest, reason="")
            done["action"] = "refund"
        return {**_numbers(trade), **done}

    def _refund(self, _parameters: Mapping[str, str], content: Mapping[str, Any]) -> Fields:
        require(content, ("refund_amount",))
        amount = fen(content["refund_amount"], "refund_amount")
        trade, moved = self._refunds.refund(
            found := self._find(content),
            out_request_no=content.get("out_request_no") or found.terms.out_trade_no,
            amount=amount,
            reason=content.get("refund_reason", ""),
        )
        fields: Fields = {
            **_numbers(trade),
            "buyer_logon_id": BUYER_LOGON_ID,
            "buyer_user_id": BUYER_ID,
            "fund_change": "Y" if moved else "N",
            "refund_fee": yuan(trade.refunded),
            "send_back_fee": yuan(amount if moved else 0),
        }
        last = [one.moved_at for one in trade.refunds if one.moved_at is not None]
        if last:
            fields["gmt_refund_pay"] = china_text(max(last))
        return fields

    def _refund_query(self, _parameters: Mapping[str, str], content: Mapping[str, Any]) -> Fields:
        require(content, ("out_request_no",))
        trade = self._find(content)
        refund = trade.refund(content["out_request_no"])
        if refund is None or refund.state is not RefundState.MOVED or refund.moved_at is None:
            return {}
        fields: Fields = {
            **_numbers(trade),
            "out_request_no": refund.out_request_no,
            "refund_reason": refund.reason,
            "total_amount": yuan(trade.total),
            "refund_amount": yuan(refund.amount),
            "refund_status": "REFUND_SUCCESS",
        }
        if "gmt_refund_pay" in content.get("query_options", []):
            fields["gmt_refund_pay"] = china_text(refund.moved_at)
        return fields

    def _bill_url(self, _parameters: Mapping[str, str], content: Mapping[str, Any]) -> Fields:
        kind, day = content.get("bill_type", ""), read_day(content.get("bill_date", ""))
        if kind not in _BILLS:
            raise Refused("40004", "invalid_arguments", "入参不合法")
        now = self._simulation.clock.now()
        ready_at = china_hour(day + timedelta(days=1), _BILL_HOUR)
        is_early = china_day(now) <= day or now < ready_at
        if (is_early and not self._simulation.bills.is_early) or not has_moves(
            self._trades.trades, day
        ):
            raise Refused("40004", "isp.bill_not_exist", "账单不存在")
        token = f"{next(self._numbers):020}"
        self._bills[token] = (kind, day, now + timedelta(seconds=_BILL_URL_SECONDS))
        return {"bill_download_url": f"{self._simulation.base_url}/bill/{token}"}


def _numbers(trade: Trade) -> Fields:
    return {"trade_no": trade.trade_no, "out_trade_no": trade.terms.out_trade_no}
