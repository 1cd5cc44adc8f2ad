"""Contains the texts of the cashier page, in English and in Chinese."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, assert_never

from mesh.languages import Language, preferred
from sandbox.domain import PayMethod


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """The texts of one language. `{amount}`, `{shop}`, `{hours}`, `{minutes}` and `{time}` are
    filled in.
    """

    language: Language
    banner: str
    payee: str
    order: str
    purpose: str
    number: str
    time_left: str
    hours_left: str
    minutes_left: str
    seconds_left: str
    until: str
    choose: str
    method: str
    card: str
    wallet: str
    bank_transfer: str
    pay: str
    pay_title: str
    fail: str
    hint: str
    paid_at: str
    paid: tuple[str, str]  # title and sentence
    failed: tuple[str, str]
    expired: tuple[str, str]
    cancelled: tuple[str, str]
    not_found: tuple[str, str]
    back: str
    back_soon: str

    @property
    def tag(self) -> str:
        """Of the HTML page, BCP 47."""
        return "zh-CN" if self.language is Language.ZH else "en"

    def method_name(self, method: PayMethod) -> str:
        """The name of a way to pay."""
        match method:
            case PayMethod.CARD:
                return self.card
            case PayMethod.WALLET:
                return self.wallet
            case PayMethod.BANK_TRANSFER:
                return self.bank_transfer
            case _:
                assert_never(method)


_ENGLISH: Final = Texts(
    language=Language.EN,
    banner="Sandbox cashier",
    payee="Payment to",
    order="Order",
    purpose="For",
    number="Reference",
    time_left="Time left",
    hours_left="{hours} h {minutes} min",
    minutes_left="{minutes} min",
    seconds_left="less than 1 min",
    until="until {time}",
    choose="Pay with",
    method="Paid with",
    card="Bank card",
    wallet="Mobile wallet",
    bank_transfer="Bank transfer",
    pay="Pay {amount}",
    pay_title="Pay",
    fail="Fail this payment",
    hint="Simulated: no money moves.",
    paid_at="Paid at",
    paid=("Paid", "Paid. Thank you."),
    failed=("Not paid", "The payment failed. No money moved."),
    expired=("Expired", "This payment has expired. No money moved."),
    cancelled=("Cancelled", "This payment was cancelled. No money moved."),
    not_found=("Not found", "There is no such payment. Please check the address."),
    back="Back to {shop}",
    back_soon="You go back to the shop in a few seconds.",
)
_CHINESE: Final = Texts(
    language=Language.ZH,
    banner="模拟收银台",
    payee="收款商家",
    order="订单",
    purpose="用途",
    number="流水号",
    time_left="剩余时间",
    hours_left="{hours} 小时 {minutes} 分钟",
    minutes_left="{minutes} 分钟",
    seconds_left="不到 1 分钟",
    until="截至 {time}",
    choose="支付方式",
    method="支付方式",
    card="银行卡",
    wallet="手机钱包",
    bank_transfer="银行转账",
    pay="支付 {amount}",
    pay_title="支付",
    fail="模拟支付失败",
    hint="模拟支付，不会扣款。",
    paid_at="支付时间",
    paid=("已支付", "支付成功，谢谢。"),
    failed=("支付失败", "支付失败，没有扣款。"),
    expired=("已过期", "支付已过期，没有扣款。"),
    cancelled=("已取消", "支付已取消，没有扣款。"),
    not_found=("未找到", "支付不存在，请检查链接。"),
    back="返回 {shop}",
    back_soon="几秒后自动返回商家页面。",
)
_OF: Final = {Language.EN: _ENGLISH, Language.ZH: _CHINESE}


def texts_for(accept_language: str, *, chosen: Language | None = None) -> Texts:
    """The texts in the language that a person chose on the page, else for this Accept-Language
    header; English when it prefers neither.
    """
    return _OF[chosen or preferred(accept_language) or Language.EN]
