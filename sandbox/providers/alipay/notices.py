"""Alipay's notices: a signed form, repeated until the shop answers `success`."""

from __future__ import annotations

import itertools
import json
from typing import Final
from urllib.parse import parse_qsl, urlencode

from mesh.clock import Clock
from sandbox.providers.alipay import triggers
from sandbox.providers.alipay.objects import AlipayConfig, Refund, Switches, Trade
from sandbox.providers.alipay.signing import signed_form
from sandbox.providers.alipay.triggers import PaymentTrigger
from sandbox.providers.china import CHINA, china_text, yuan
from sandbox.providers.simulation import Simulation
from sandbox.providers.webhooks import DeliveryRule, Notice, Outgoing, Target

BUYER_ID: Final = "2088000000000002"
BUYER_LOGON_ID: Final = "buy***@example.com"
UNKNOWN_STATUS: Final = "TRADE_UNDER_REVIEW"  # what the trigger UNKNOWN_WORD shows
_MINUTE, _HOUR = 60.0, 3600.0
RETRY_SECONDS: Final = (
    4 * _MINUTE,
    10 * _MINUTE,
    10 * _MINUTE,
    _HOUR,
    2 * _HOUR,
    6 * _HOUR,
    15 * _HOUR,
)


def shown_status(trade: Trade) -> str:
    """The status as answers and notices spell it."""
    if (
        trade.paid_at is not None
        and triggers.of_payment(trade.total) is PaymentTrigger.UNKNOWN_WORD
    ):
        return UNKNOWN_STATUS
    return trade.status.value


def delivery_rule(config: AlipayConfig, clock: Clock) -> DeliveryRule:
    """Signs and repeats as Alipay documents. A redirect is a failure, and so is any body but
    `success`, a newline after it included.
    """

    def render(notice: Notice, _target: Target, _tries: int) -> Outgoing:
        fields = dict(parse_qsl(notice.body.decode(), keep_blank_values=True))
        if "notify_time" in fields:
            fields["notify_time"] = china_text(clock.now())
        return Outgoing(
            headers={"content-type": "application/x-www-form-urlencoded; charset=utf-8"},
            body=signed_form(
                fields, config.provider_key, keep_empty=config.signs_empty_fields
            ).encode(),
        )

    def pause(tries: int, _status: int | None) -> float | None:
        return RETRY_SECONDS[tries - 1] if tries <= len(RETRY_SECONDS) else None

    return DeliveryRule(
        render=render,
        is_accepted=lambda status, body: status == 200 and body == b"success",
        pause_seconds=pause,
    )


class Notices:
    """Queues notices about trades whose request had a `notify_url`."""

    def __init__(self, simulation: Simulation[AlipayConfig], switches: Switches) -> None:
        self._simulation = simulation
        self._switches = switches
        self._numbers = itertools.count(1)

    def of_trade(self, trade: Trade) -> None:
        """Tells that a trade is paid or finished."""
        self._send(trade, self._trade_fields(trade))

    def of_refund(self, trade: Trade, refund: Refund) -> None:
        """Tells that money went back: the fields of the trade, and those of the refund."""
        if not self._switches.refund_notices:
            return
        fields = self._trade_fields(trade)
        fields["refund_fee"] = yuan(trade.refunded)
        fields["gmt_refund"] = china_text(self._simulation.clock.now())
        fields["out_biz_no"] = refund.out_request_no
        self._send(trade, fields)

    def of_flow_back(self, trade: Trade, refund: Refund) -> None:
        """Tells the app's gateway, the registered address, that the buyer's bank sent a refund
        back. The fields of this notice are not verified.
        """
        content = {
            "trade_no": trade.trade_no,
            "out_trade_no": trade.terms.out_trade_no,
            "out_request_no": refund.out_request_no,
            "dback_status": "F",
            "dback_amount": yuan(refund.amount),
        }
        notify_id = self._new_id()
        fields = {
            "notify_id": notify_id,
            "msg_method": "alipay.trade.refund.depositback.completed",
            "utc_timestamp": str(int(self._simulation.clock.now().timestamp() * 1000)),
            "app_id": self._simulation.config.app_id,
            "version": "1.1",
            "charset": "UTF-8",
            "biz_content": json.dumps(content, ensure_ascii=False),
        }
        self._queue(notify_id, fields["msg_method"], fields, "")

    def _new_id(self) -> str:
        day = self._simulation.clock.now().astimezone(CHINA)
        return f"{day:%Y%m%d}0022200000{next(self._numbers):016}"

    def _trade_fields(self, trade: Trade) -> dict[str, str]:
        config, total = self._simulation.config, yuan(trade.total)
        fields = {
            "notify_id": self._new_id(),
            "notify_type": "trade_status_sync",
            "notify_time": china_text(self._simulation.clock.now()),
            "version": "1.0",
            "charset": "utf-8",
            "app_id": config.app_id,
            "auth_app_id": config.app_id,
            "seller_id": config.seller_id,
            "buyer_id": BUYER_ID,
            "buyer_logon_id": BUYER_LOGON_ID,
            "trade_no": trade.trade_no,
            "out_trade_no": trade.terms.out_trade_no,
            "trade_status": shown_status(trade),
            "subject": trade.terms.subject,
            "body": trade.terms.body,
            "passback_params": trade.terms.passback_params,
            "total_amount": total,
            "gmt_create": china_text(trade.created_at),
        }
        if trade.paid_at is not None:
            funds = [{"amount": total, "fundChannel": "ALIPAYACCOUNT"}]
            fields |= {
                "receipt_amount": total,
                "buyer_pay_amount": total,
                "invoice_amount": total,
                "point_amount": "0.00",
                "gmt_payment": china_text(trade.paid_at),
                "fund_bill_list": json.dumps(funds, separators=(",", ":")),
            }
        if trade.closed_at is not None:
            fields["gmt_close"] = china_text(trade.closed_at)
        fields = {name: value for name, value in fields.items() if value}
        if self._switches.empty_field:
            fields["refund_fee"] = ""
        return fields

    def _send(self, trade: Trade, fields: dict[str, str]) -> None:
        if trade.terms.notify_url:
            kind = f"trade_status_sync {fields['trade_status']}"
            self._queue(fields["notify_id"], kind, fields, trade.terms.notify_url)

    def _queue(self, notify_id: str, kind: str, fields: dict[str, str], url: str) -> None:
        body = urlencode(fields).encode()
        self._simulation.deliveries.send(Notice(id=notify_id, kind=kind, body=body, url=url))
