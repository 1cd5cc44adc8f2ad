"""Orders and refunds as WeChat Pay's JSON."""

from __future__ import annotations

from typing import Any, Final

from sandbox.providers.china import china_rfc3339
from sandbox.providers.wechat import triggers
from sandbox.providers.wechat.objects import (
    CURRENCY,
    DESCRIPTIONS,
    Order,
    Refund,
    TradeState,
    WechatConfig,
)
from sandbox.providers.wechat.triggers import PaymentTrigger, RefundTrigger

UNKNOWN_STATE: Final = "UNDER_REVIEW"  # what the triggers UNKNOWN_WORD show


def order_json(order: Order, config: WechatConfig) -> dict[str, Any]:
    """The order as queries and notices show it."""
    state = order.state.value
    if order.success_at and triggers.of_payment(order.total) is PaymentTrigger.UNKNOWN_WORD:
        state = UNKNOWN_STATE
    shown: dict[str, Any] = {
        "appid": config.appid,
        "mchid": config.mchid,
        "out_trade_no": order.out_trade_no,
        "trade_state": state,
        "trade_state_desc": DESCRIPTIONS[order.state],
        "attach": order.sent.get("attach", ""),
        "amount": {"total": order.total, "currency": CURRENCY},
    }
    if order.state is TradeState.NOTPAY or not order.transaction_id:
        return shown
    shown |= {
        "transaction_id": order.transaction_id,
        "trade_type": order.trade_type,
        "bank_type": "OTHERS",
        "payer": {"openid": order.openid},
    }
    if order.success_at is not None:
        shown["success_time"] = china_rfc3339(order.success_at)
        shown["amount"] |= {"payer_total": order.payer_total, "payer_currency": CURRENCY}
    if order.payer_total < order.total and order.success_at is not None:
        shown["promotion_detail"] = [
            {
                "coupon_id": "109519",
                "name": "单品惠-6",
                "scope": "GLOBAL",
                "type": "CASH",
                "amount": order.total - order.payer_total,
                "currency": CURRENCY,
            }
        ]
    return shown


def refund_json(order: Order, refund: Refund) -> dict[str, Any]:
    """The refund as answers show it."""
    unknown = triggers.of_refund(refund.amount) is RefundTrigger.UNKNOWN_WORD
    shown: dict[str, Any] = {
        "refund_id": refund.refund_id,
        "out_refund_no": refund.out_refund_no,
        "transaction_id": order.transaction_id,
        "out_trade_no": order.out_trade_no,
        "channel": "ORIGINAL",
        "user_received_account": "招商银行信用卡0403",
        "create_time": china_rfc3339(refund.created_at),
        "status": UNKNOWN_STATE if unknown else refund.status.value,
        "funds_account": "UNSETTLED",
        "amount": {
            "total": order.total,
            "refund": refund.amount,
            "payer_total": order.payer_total,
            "payer_refund": refund.amount,
            "settlement_total": order.total,
            "settlement_refund": refund.amount,
            "discount_refund": 0,
            "currency": CURRENCY,
        },
    }
    if refund.success_at is not None:
        shown["success_time"] = china_rfc3339(refund.success_at)
    return shown
