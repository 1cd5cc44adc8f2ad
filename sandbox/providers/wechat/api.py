"""What each call of WeChat Pay's APIv3 reads, does and answers, after its signature was checked."""

from __future__ import annotations

import gzip
import hashlib
import itertools
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from typing import Any, Final
from urllib.parse import parse_qsl

from starlette.requests import Request

from sandbox.providers.china import china_day, china_hour
from sandbox.providers.simulation import Simulation
from sandbox.providers.wechat.bill import BILL_TYPES, fund_flow_bill, trade_bill
from sandbox.providers.wechat.errors import Refused, wrong
from sandbox.providers.wechat.objects import WechatConfig
from sandbox.providers.wechat.orders import Orders
from sandbox.providers.wechat.refunds import Refunds
from sandbox.providers.wechat.requests import TRADE_TYPES, check_mchid, read_json
from sandbox.providers.wechat.shown import order_json, refund_json
from sandbox.providers.wechat.triggers import PaymentTrigger

# status, and JSON (None: an empty body) or the bytes of a bill
Reply = tuple[int, dict[str, Any] | bytes | None]
_BILL_HOUR: Final = 10  # of the next day, in China
_BILL_DAYS: Final = 92
_BILL_URL_SECONDS: Final = 300


class Api:
    """Answers requests whose signature was checked. Every call may raise Refused."""

    def __init__(
        self, simulation: Simulation[WechatConfig], orders: Orders, refunds: Refunds
    ) -> None:
        self._simulation = simulation
        self._orders = orders
        self._refunds = refunds
        self._numbers = itertools.count(1)
        self._bills: dict[tuple[str, date], bytes] = {}  # made once: never brought up to date
        self._downloads: dict[str, tuple[bytes, datetime]] = {}

    def prepay(self, request: Request, body: bytes) -> Reply:
        """Makes an order."""
        product = request.path_params["product"]
        if product not in TRADE_TYPES:
            raise Refused("RESOURCE_NOT_EXISTS", "接口不存在")
        order = self._orders.prepay(TRADE_TYPES[product], read_json(body))
        address = f"{self._simulation.base_url}/pay/{order.token}"
        match product:
            case "native":
                return 200, {"code_url": address}
            case "h5":
                return 200, {"h5_url": f"{address}?package={order.token}"}
        return 200, {"prepay_id": order.token}

    def query(self, request: Request, _body: bytes) -> Reply:
        """Shows an order."""
        check_mchid(_query(request), self._simulation.config)
        path = request.path_params
        order = self._orders.find(path.get("out_trade_no", ""), path.get("transaction_id", ""))
        if order is None:
            raise Refused("ORDER_NOT_EXIST", "订单不存在")
        if self._orders.provokes(PaymentTrigger.QUERY_SYSTEM_ERROR, order):
            raise Refused("SYSTEM_ERROR", "系统错误")
        if self._orders.provokes(PaymentTrigger.QUERY_PAYING, order):
            return 202, {"code": "USERPAYING", "message": "用户支付中，需要输入密码"}
        return 200, order_json(order, self._simulation.config)

    def close(self, request: Request, body: bytes) -> Reply:
        """Closes an unpaid order."""
        check_mchid(read_json(body), self._simulation.config)
        order = self._orders.find(request.path_params["out_trade_no"])
        if order is None:
            # no table of version 3 says what an unknown number gives
            raise Refused("ORDER_NOT_EXIST", "订单不存在")
        self._orders.close(order)
        return 204, None

    def refund(self, _request: Request, body: bytes) -> Reply:
        """Accepts a refund."""
        return 200, refund_json(*self._refunds.refund(read_json(body)))

    def refund_query(self, request: Request, _body: bytes) -> Reply:
        """Shows a refund."""
        return 200, refund_json(*self._refunds.find(request.path_params["out_refund_no"]))

    def apply_abnormal(self, request: Request, body: bytes) -> Reply:
        """Moves an abnormal refund to another account."""
        _order, refund = self._refunds.find(refund_id=request.path_params["refund_id"])
        sent = read_json(body)
        if sent.get("out_refund_no") != refund.out_refund_no:
            raise wrong("out_refund_no")
        if sent.get("type") not in {"USER_BANK_CARD", "MERCHANT_BANK_CARD"}:
            raise wrong("type")
        return 200, refund_json(*self._refunds.apply_abnormal(refund.refund_id))

    def trade_bill(self, request: Request, _body: bytes) -> Reply:
        """Gives the address of a bill of orders."""
        query = _known(request, {"bill_date", "bill_type", "tar_type"})
        bill_type, day = query.get("bill_type", "ALL"), self._bill_day(query)
        if bill_type not in BILL_TYPES:
            raise wrong("bill_type")
        kind = (bill_type, day)
        if kind not in self._bills or self._is_early(day):
            made = trade_bill(
                self._orders.orders, day, self._simulation.config, bill_type=bill_type
            )
            self._keep(kind, made)
        return self._address(kind, query)

    def fund_flow_bill(self, request: Request, _body: bytes) -> Reply:
        """Gives the address of a ledger of the account."""
        query = _known(request, {"bill_date", "account_type", "tar_type"})
        if query.get("account_type", "BASIC") != "BASIC":
            raise wrong("account_type")
        kind = ("FUNDS", self._bill_day(query))
        if kind not in self._bills or self._is_early(kind[1]):
            self._keep(kind, fund_flow_bill(self._orders.orders, kind[1]))
        return self._address(kind, query)

    def download(self, request: Request, _body: bytes) -> Reply:
        """Gives a bill; the answer is not signed."""
        raw, until = self._downloads.get(_query(request).get("token", ""), (b"", None))
        if until is None or self._simulation.clock.now() >= until:
            raise Refused("RESOURCE_NOT_EXISTS", "下载地址已失效")
        return 200, raw

    def _bill_day(self, query: Mapping[str, str]) -> date:
        text, now = query.get("bill_date", ""), self._simulation.clock.now()
        try:
            day = date.fromisoformat(text)
        except ValueError:
            raise wrong("bill_date") from None
        today, is_early = china_day(now), self._simulation.bills.is_early
        last = today if is_early else today - timedelta(days=1)
        if day.isoformat() != text or not today - timedelta(days=_BILL_DAYS) <= day <= last:
            raise wrong("bill_date")
        if self._is_early(day) and not is_early:
            raise Refused("STATEMENT_CREATING", "账单生成中")
        return day

    def _is_early(self, day: date) -> bool:
        return self._simulation.clock.now() < china_hour(day + timedelta(days=1), _BILL_HOUR)

    def _keep(self, kind: tuple[str, date], made: bytes | None) -> None:
        if made is None:
            raise Refused("NO_STATEMENT_EXIST", "账单文件不存在")
        self._bills[kind] = made

    def _address(self, kind: tuple[str, date], query: Mapping[str, str]) -> Reply:
        if query.get("tar_type", "GZIP") != "GZIP":
            raise wrong("tar_type")
        plain = self._bills[kind]
        token = f"{next(self._numbers):020}"
        until = self._simulation.clock.now() + timedelta(seconds=_BILL_URL_SECONDS)
        packed = gzip.compress(plain) if "tar_type" in query else plain
        self._downloads[token] = (packed, until)
        return 200, {
            "hash_type": "SHA1",
            "hash_value": hashlib.sha1(plain, usedforsecurity=False).hexdigest(),
            "download_url": f"{self._simulation.base_url}/v3/billdownload/file?token={token}",
        }


def _query(request: Request) -> dict[str, str]:
    return dict(parse_qsl(request.url.query, keep_blank_values=True))


def _known(request: Request, names: set[str]) -> dict[str, str]:
    query = _query(request)
    for name in query.keys() - names:
        raise wrong(name)
    return query
