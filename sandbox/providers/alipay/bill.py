"""Alipay's bills: a ZIP of two CSV files in GBK, details and summary, for a day of China.

Lines that begin with `#` are comments and totals; values are padded with tabs. Fees are negative
where they are charged, positive where a refund gives them back: the sign of real bills is not
verified.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final

from sandbox.providers.alipay.notices import BUYER_LOGON_ID
from sandbox.providers.alipay.objects import (
    FEE_PER_MILLE,
    AlipayConfig,
    Refund,
    RefundState,
    Trade,
)
from sandbox.providers.china import china_day, china_text, fee_fen, yuan

_ENCODING: Final = "gb18030"
_TRADE_COLUMNS: Final = (
    *("支付宝交易号", "商户订单号", "业务类型", "商品名称", "创建时间", "完成时间", "门店编号"),
    *("门店名称", "操作员", "终端号", "对方账户", "订单金额（元）", "商家实收（元）"),
    *("支付宝红包（元）", "集分宝（元）", "支付宝优惠（元）", "商家优惠（元）", "券核销金额（元）"),
    *("券名称", "商家红包消费金额（元）", "卡消费金额（元）", "退款批次号/请求号"),
    *("服务费（元）", "分润（元）", "备注"),
)
_LEDGER_COLUMNS: Final = (
    *("账务流水号", "业务流水号", "商户订单号", "商品名称", "发生时间", "对方账号"),
    *("收入金额（+元）", "支出金额（-元）", "账户余额（元）", "交易渠道", "业务类型", "备注"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Move:
    """A payment, or a refund when `refund` is set."""

    trade: Trade
    refund: Refund | None
    at: datetime

    @property
    def amount(self) -> int:
        return self.trade.total if self.refund is None else -self.refund.amount

    @property
    def fee(self) -> int:
        fee = fee_fen(abs(self.amount), per_mille=FEE_PER_MILLE)
        return -fee if self.refund is None else fee


def _moves(trades: Sequence[Trade], day: date) -> list[_Move]:
    found = []
    for trade in trades:
        if trade.paid_at is not None:
            found.append(_Move(trade=trade, refund=None, at=trade.paid_at))
        found += [
            _Move(trade=trade, refund=one, at=one.moved_at)
            for one in trade.refunds
            if one.state is RefundState.MOVED and one.moved_at is not None
        ]
    return sorted((one for one in found if china_day(one.at) == day), key=lambda one: one.at)


def has_moves(trades: Sequence[Trade], day: date) -> bool:
    """True when the day has anything to list."""
    return bool(_moves(trades, day))


def trade_bill(trades: Sequence[Trade], day: date, config: AlipayConfig) -> bytes:
    """The bill `trade`: payments and refunds. The summary is the first member of the archive."""
    moves = _moves(trades, day)
    lines = [*_head("支付宝业务明细查询", day, config), ",".join(_TRADE_COLUMNS)]
    lines += [_line(_trade_row(one)) for one in moves]
    lines += [
        f"#{'-' * 40}业务明细列表结束{'-' * 36}",
        _total("交易", [one for one in moves if one.refund is None]),
        _total("退款", [one for one in moves if one.refund is not None]),
    ]
    return _archive(
        f"{config.seller_id}_{day:%Y%m%d}",
        {"业务明细(汇总)": [*_head("支付宝业务汇总查询", day, config), *_summary(moves)]}
        | {"业务明细": lines},
    )


def ledger_bill(trades: Sequence[Trade], day: date, config: AlipayConfig) -> bytes:
    """The bill `signcustomer`: the ledger of the account, with fees in lines of their own and the
    running balance, which begins at zero each day.
    """
    lines = [*_head("支付宝账务明细查询", day, config), ",".join(_LEDGER_COLUMNS)]
    balance = number = 0
    for move in _moves(trades, day):
        words = ("在线支付", "收费") if move.refund is None else ("交易退款", "退费")
        for amount, word in zip((move.amount, move.fee), words, strict=True):
            if amount == 0:
                continue
            balance += amount
            number += 1
            income, outgo = (yuan(amount), "") if amount > 0 else ("", yuan(amount))
            row = [f"{day:%Y%m%d}{number:012}", move.trade.trade_no]
            row += [move.trade.terms.out_trade_no, move.trade.terms.subject, china_text(move.at)]
            row += [BUYER_LOGON_ID, income, outgo, yuan(balance), "支付宝", word, ""]
            lines.append(_line(row))
    return _archive(f"{config.seller_id}_{day:%Y%m%d}", {"账务明细": lines})


def _trade_row(move: _Move) -> list[str]:
    trade, zero = move.trade, "0.00"
    row = [trade.trade_no, trade.terms.out_trade_no, "交易" if move.refund is None else "退款"]
    row += [trade.terms.subject, china_text(trade.created_at), china_text(move.at)]
    row += ["", "", "", "", BUYER_LOGON_ID, yuan(move.amount), yuan(move.amount)]
    row += [zero, zero, zero, zero, zero, "", zero, zero]
    row += ["" if move.refund is None else move.refund.out_request_no]
    return [*row, yuan(move.fee), zero, "" if move.refund is None else move.refund.reason]


def _summary(moves: Sequence[_Move]) -> list[str]:
    gross, fees = sum(one.amount for one in moves), sum(one.fee for one in moves)
    refunds = sum(one.refund is not None for one in moves)
    columns = "门店编号,门店名称,交易订单总笔数,退款订单总笔数,订单金额（元）,商家实收（元）,"
    columns += (
        "支付宝优惠（元）,商家优惠（元）,卡消费金额（元）,服务费（元）,分润（元）,实收净额（元）"
    )
    row = ["合计", "", str(len(moves) - refunds), str(refunds), yuan(gross), yuan(gross)]
    row += ["0.00", "0.00", "0.00", yuan(fees), "0.00", yuan(gross + fees)]
    return [columns, _line(row)]


def _head(title: str, day: date, config: AlipayConfig) -> list[str]:
    shown = f"{day.year}年{day.month:02}月{day.day:02}日"
    return [
        f"#{title}",
        f"#账号：[{config.seller_id}0156]",
        f"#起始日期：[{shown} 00:00:00]   终止日期：[{shown} 24:00:00]",
        f"#{'-' * 40}业务明细列表{'-' * 40}",
    ]


def _total(word: str, moves: Sequence[_Move]) -> str:
    return f"#{word}合计：{len(moves)}笔，商家实收共{yuan(sum(one.amount for one in moves))}元"


def _line(row: Sequence[str]) -> str:
    return ",".join(f"{value.replace(',', ' ')}\t" for value in row)


def _archive(stem: str, files: dict[str, list[str]]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, lines in files.items():
            # zipfile writes names that it cannot spell in ASCII in UTF-8; Alipay's are in GBK
            member = _GbkName(f"{stem}_{name}.csv")
            archive.writestr(member, "\r\n".join([*lines, ""]).encode(_ENCODING))
    return out.getvalue()


class _GbkName(zipfile.ZipInfo):
    """A member whose name is written in GBK, without the flag that means UTF-8."""

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:
        return self.filename.encode("gbk"), self.flag_bits & ~0x800
