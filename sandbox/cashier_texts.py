"""Contains the texts of the cashier page, in English and in Chinese."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mesh.languages import Language, preferred


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """The texts of one language. `{amount}`, `{time}` and `{shop}` are filled in."""

    tag: str  # of the HTML page
    banner: str
    order: str
    purpose: str
    number: str
    pay: str
    pay_title: str
    fail: str
    hint: str
    paid: tuple[str, str]  # title and sentence
    failed: tuple[str, str]
    expired: tuple[str, str]
    cancelled: tuple[str, str]
    not_found: tuple[str, str]
    back: str


_ENGLISH: Final = Texts(
    tag="en",
    banner="Sandbox cashier",
    order="Order",
    purpose="For",
    number="Number",
    pay="Pay {amount}",
    pay_title="Pay",
    fail="Fail",
    hint="Simulated: no money moves. Open until <time>{time}</time>.",
    paid=("Paid", "Paid. Thank you."),
    failed=("Not paid", "The payment failed. No money moved."),
    expired=("Expired", "This payment has expired. No money moved."),
    cancelled=("Cancelled", "This payment was cancelled. No money moved."),
    not_found=("Not found", "There is no such payment."),
    back="Back to {shop}",
)
_CHINESE: Final = Texts(
    tag="zh",
    banner="模拟收银台",
    order="订单",
    purpose="用途",
    number="流水号",
    pay="支付 {amount}",
    pay_title="支付",
    fail="支付失败",
    hint="模拟支付，不会扣款。有效期至 <time>{time}</time>。",
    paid=("已支付", "支付成功，谢谢。"),
    failed=("支付失败", "支付失败，没有扣款。"),
    expired=("已过期", "支付已过期，没有扣款。"),
    cancelled=("已取消", "支付已取消，没有扣款。"),
    not_found=("未找到", "支付不存在。"),
    back="返回 {shop}",
)


def texts_for(accept_language: str) -> Texts:
    """The texts for this Accept-Language header; English when it prefers neither."""
    return _CHINESE if preferred(accept_language) is Language.ZH else _ENGLISH
