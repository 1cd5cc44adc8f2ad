"""WeChat Pay's notices: encrypted JSON, signed anew for each delivery, repeated fifteen times."""

from __future__ import annotations

import itertools
import json
from typing import Any, Final

from sandbox.providers.china import china_rfc3339
from sandbox.providers.simulation import MovableClock, Simulation
from sandbox.providers.webhooks import DeliveryRule, Notice, Outgoing, Target
from sandbox.providers.wechat import triggers
from sandbox.providers.wechat.objects import (
    Order,
    Refund,
    RefundStatus,
    WechatConfig,
)
from sandbox.providers.wechat.shown import order_json
from sandbox.providers.wechat.signing import encrypted, signed_headers
from sandbox.providers.wechat.triggers import PaymentTrigger

PROBE: Final = "SIGNTEST"  # the kind of notices whose signature must be refused
_MINUTE, _HOUR = 60.0, 3600.0
RETRY_SECONDS: Final = (
    *(15.0, 15.0, 30.0, 3 * _MINUTE, 10 * _MINUTE, 20 * _MINUTE, 30 * _MINUTE, 30 * _MINUTE),
    *(30 * _MINUTE, 60 * _MINUTE, 3 * _HOUR, 3 * _HOUR, 3 * _HOUR, 6 * _HOUR, 6 * _HOUR),
)
_SUMMARIES = {
    RefundStatus.SUCCESS: "退款成功",
    RefundStatus.CLOSED: "退款关闭",
    RefundStatus.ABNORMAL: "退款异常",
}


def delivery_rule(config: WechatConfig, clock: MovableClock) -> DeliveryRule:
    """Signs and repeats as WeChat Pay documents."""

    numbers = itertools.count(1)

    def render(notice: Notice, _target: Target, _tries: int) -> Outgoing:
        headers = signed_headers(
            config,
            notice.body,
            clock.outside.now(),
            number=next(numbers),
            probe=notice.kind == PROBE,
        )
        return Outgoing(
            headers={"content-type": "application/json", "user-agent": "Mozilla/4.0", **headers},
            body=notice.body,
        )

    def pause(tries: int, _status: int | None) -> float | None:
        return RETRY_SECONDS[tries - 1] if tries <= len(RETRY_SECONDS) else None

    return DeliveryRule(
        render=render,
        is_accepted=lambda status, _body: status in {200, 204},
        pause_seconds=pause,
    )


class Notices:
    """Queues notices to the addresses that the requests named."""

    def __init__(self, simulation: Simulation[WechatConfig]) -> None:
        self._simulation = simulation
        self._numbers = itertools.count(1)

    def of_order(self, order: Order) -> None:
        """Tells that an order is paid. Failures are never told."""
        if triggers.of_payment(order.total) is PaymentTrigger.NO_NOTICE:
            return
        body = self._body("TRANSACTION.SUCCESS", "transaction", "支付成功", self._order_json(order))
        self._send("TRANSACTION.SUCCESS", body, str(order.sent["notify_url"]))

    def of_refund(self, order: Order, refund: Refund) -> None:
        """Tells the end of a refund whose request named an address. Without one WeChat Pay uses
        version 2's XML and the address of its console, which is not simulated.
        """
        if not refund.notify_url:
            return
        told: dict[str, Any] = {
            "mchid": self._simulation.config.mchid,
            "out_trade_no": order.out_trade_no,
            "transaction_id": order.transaction_id,
            "out_refund_no": refund.out_refund_no,
            "refund_id": refund.refund_id,
            "refund_status": refund.status.value,
            "user_received_account": "招商银行信用卡0403",
            "amount": {
                "total": order.total,
                "refund": refund.amount,
                "payer_total": order.payer_total,
                "payer_refund": refund.amount,
            },
        }
        if refund.success_at is not None:
            told["success_time"] = china_rfc3339(refund.success_at)
        kind = f"REFUND.{refund.status}"
        body = self._body(kind, "refund", _SUMMARIES[refund.status], told)
        self._send(kind, body, refund.notify_url)

    def probe(self, order: Order) -> None:
        """Sends a notice with a signature that must be refused."""
        body = self._body("TRANSACTION.SUCCESS", "transaction", "支付成功", self._order_json(order))
        self._send(PROBE, body, str(order.sent["notify_url"]))

    def _order_json(self, order: Order) -> dict[str, Any]:
        return order_json(order, self._simulation.config)

    def _body(self, event: str, kind: str, summary: str, told: dict[str, Any]) -> dict[str, Any]:
        now, number = self._simulation.clock.now(), next(self._numbers)
        plain = json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode()
        return {
            "id": f"EV-{now:%Y%m%d%H%M%S}{number:015}",
            "create_time": china_rfc3339(now),
            "resource_type": "encrypt-resource",
            "event_type": event,
            "summary": summary,
            "resource": {
                "original_type": kind,
                **encrypted(
                    self._simulation.config.api_key,
                    plain,
                    associated_data=kind,
                    nonce=f"{number:012}",
                ),
            },
        }

    def _send(self, kind: str, body: dict[str, Any], url: str) -> None:
        raw = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
        self._simulation.deliveries.send(Notice(id=body["id"], kind=kind, body=raw, url=url))
