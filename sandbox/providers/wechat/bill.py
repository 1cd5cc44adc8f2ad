"""WeChat Pay's bills of a day of China: UTF-8 with a byte order mark, lines end in CRLF, every
value follows a backtick. Amounts are in yuan; fees have five decimals, a minus on refunds. After
the lines come a second header and one line of totals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final

from sandbox.providers.china import china_day, china_text, fee_fen, yuan
from sandbox.providers.wechat.objects import (
    CURRENCY,
    FEE_PER_MILLE,
    Order,
    Refund,
    RefundStatus,
    TradeState,
    WechatConfig,
)

_BOM: Final = "\ufeff"
_COLUMNS: Final = (
    *("交易时间", "公众账号ID", "商户号", "特约商户号", "设备号", "微信订单号", "商户订单号"),
    *("用户标识", "交易类型", "交易状态", "付款银行", "货币种类", "应结订单金额", "代金券金额"),
    *("微信退款单号", "商户退款单号", "退款金额", "充值券退款金额", "退款类型", "退款状态"),
    *("商品名称", "商户数据包", "手续费", "费率", "订单金额", "申请退款金额", "费率备注"),
)
_OF_REFUNDS: Final = frozenset(
    {*_COLUMNS[_COLUMNS.index("微信退款单号") : _COLUMNS.index("商品名称")], "申请退款金额"}
)
_TOTALS: Final = (
    "总交易单数,应结订单总金额,退款总金额,充值券退款总金额,手续费总金额,订单总金额,申请退款总金额"
)
_FUND_COLUMNS: Final = (
    *("记账时间", "微信支付业务单号", "资金流水单号", "业务名称", "业务类型", "收支类型"),
    *("收支金额（元）", "账户结余（元）", "资金变更提交申请人", "备注", "业务凭证号"),
)
_FUND_TOTALS: Final = "资金流水总笔数,收入笔数,收入金额,支出笔数,支出金额"
_REFUND_WORDS: Final = {RefundStatus.ABNORMAL: "CHANGE", RefundStatus.CLOSED: "FAIL"}
BILL_TYPES: Final = ("ALL", "SUCCESS", "REFUND")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Move:
    """A payment, or a refund when `refund` is set: on the day of its acceptance."""

    order: Order
    refund: Refund | None
    at: datetime

    @property
    def amount(self) -> int:
        return self.order.total if self.refund is None else self.refund.amount

    @property
    def sign(self) -> int:
        return 1 if self.refund is None else -1


def _moves(orders: Sequence[Order], day: date) -> list[_Move]:
    found = []
    for order in orders:
        if order.success_at is not None:
            found.append(_Move(order=order, refund=None, at=order.success_at))
        found += [_Move(order=order, refund=one, at=one.created_at) for one in order.refunds]
    return sorted((one for one in found if china_day(one.at) == day), key=lambda one: one.at)


def trade_bill(
    orders: Sequence[Order], day: date, config: WechatConfig, *, bill_type: str
) -> bytes | None:
    """The bill of orders; None when the day has nothing to list. `bill_type` is one of
    BILL_TYPES; SUCCESS lacks the columns of refunds.
    """
    wanted = {"ALL": (1, -1), "SUCCESS": (1,), "REFUND": (-1,)}[bill_type]
    moves = [one for one in _moves(orders, day) if one.sign in wanted]
    if not moves:
        return None
    names = [one for one in _COLUMNS if bill_type != "SUCCESS" or one not in _OF_REFUNDS]
    lines = [",".join(names)]
    for move in moves:
        row = dict(zip(_COLUMNS, _trade_row(move, config), strict=True))
        lines.append(_line([row[name] for name in names]))
    gross = sum(one.amount for one in moves if one.refund is None)
    back = sum(one.amount for one in moves if one.refund is not None)
    fees = sum(one.sign * one.amount for one in moves) * FEE_PER_MILLE
    totals = [str(len(moves)), yuan(gross), yuan(back), "0.00", _fee(fees), yuan(gross)]
    return _file([*lines, _TOTALS, _line([*totals, yuan(back)])])


def fund_flow_bill(orders: Sequence[Order], day: date) -> bytes | None:
    """The ledger of the account, with fees in lines of their own and a running balance that begins
    at zero; None when the day has nothing to list.
    """
    balance = 0
    lines = [",".join(_FUND_COLUMNS)]
    incomes: list[int] = []
    outgoes: list[int] = []
    for move in _moves(orders, day):
        if move.refund is not None and move.refund.status is not RefundStatus.SUCCESS:
            continue
        number = move.order.transaction_id if move.refund is None else move.refund.refund_id
        fee = fee_fen(move.amount, per_mille=FEE_PER_MILLE)
        words = "交易" if move.refund is None else "退款"
        for amount, kind in ((move.sign * move.amount, words), (-move.sign * fee, "交易手续费")):
            if amount == 0:
                continue
            balance += amount
            (incomes if amount > 0 else outgoes).append(abs(amount))
            row = [china_text(move.at), number, f"{number}{len(lines):04}", words, kind]
            row += ["收入" if amount > 0 else "支出", yuan(abs(amount)), yuan(balance)]
            lines.append(_line([*row, "system", "", number]))
    if not incomes and not outgoes:
        return None
    totals = [str(len(incomes) + len(outgoes)), str(len(incomes)), yuan(sum(incomes))]
    return _file([*lines, _FUND_TOTALS, _line([*totals, str(len(outgoes)), yuan(sum(outgoes))])])


def _trade_row(move: _Move, config: WechatConfig) -> list[str]:
    order, refund = move.order, move.refund
    state = "REVOKED" if order.state is TradeState.REVOKED else "SUCCESS"
    row = [china_text(move.at), config.appid, config.mchid, "0", "", order.transaction_id]
    row += [order.out_trade_no, order.openid, order.trade_type]
    row += [state if refund is None else "REFUND", "OTHERS", CURRENCY]
    row += [yuan(move.amount if refund is None else 0), "0.00"]
    if refund is None:
        row += ["0", "0", "0.00", "0.00", "", ""]
    else:
        word = _REFUND_WORDS.get(refund.status, refund.status.value)
        row += [refund.refund_id, refund.out_refund_no, yuan(refund.amount), "0.00"]
        row += ["ORIGINAL", word]
    row += [str(order.sent["description"]), str(order.sent.get("attach", ""))]
    row += [_fee(move.sign * move.amount * FEE_PER_MILLE), "0.60%"]
    paid, back = (move.amount, 0) if refund is None else (0, move.amount)
    return [*row, yuan(paid), yuan(back), ""]


def _fee(hundred_thousandths: int) -> str:
    """A fee in yuan with five decimals."""
    sign = "-" if hundred_thousandths < 0 else ""
    whole, rest = divmod(abs(hundred_thousandths), 100_000)
    return f"{sign}{whole}.{rest:05}"


def _line(row: Sequence[str]) -> str:
    return ",".join(f"`{value}" for value in row)


def _file(lines: Sequence[str]) -> bytes:
    return (_BOM + "\r\n".join([*lines, ""])).encode()
