"""Alipay's HTTP surface: `/gateway.do`, the pages that a buyer sees, bills, and `/_sim/alipay`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from sandbox.providers.alipay.errors import Refused
from sandbox.providers.alipay.gateway import Gateway
from sandbox.providers.alipay.notices import Notices, shown_status
from sandbox.providers.alipay.objects import AlipayConfig, Switches, Trade, TradeStatus
from sandbox.providers.alipay.refunds import Refunds
from sandbox.providers.alipay.requests import (
    PAGE_METHODS,
    check_common,
    read_content,
    read_terms,
    single,
)
from sandbox.providers.alipay.signing import answer_json, signed_form
from sandbox.providers.alipay.trades import Trades
from sandbox.providers.buyer_page import buyer_page
from sandbox.providers.china import china_text, yuan
from sandbox.providers.control import DeedRefused, simulated_app
from sandbox.providers.faults import Answer
from sandbox.providers.simulation import Simulation

_JSON_TYPE = "text/html;charset=utf-8"  # whatever the answer is
_PAGE_ENCODING = "gbk"
_DEEDS = (("pay", "付款 Pay"), ("decline", "密码错误 Wrong password"), ("leave", "离开 Leave"))


def create_app(simulation: Simulation[AlipayConfig]) -> ASGIApp:
    """Alipay's gateway over a fresh, empty store."""
    switches = Switches()
    notices = Notices(simulation, switches)
    trades = Trades(simulation, notices)
    surface = _Surface(simulation, trades, Refunds(simulation, trades, notices), switches)
    return simulated_app(
        simulation,
        routes=[
            Route("/gateway.do", surface.serve, methods=["GET", "POST"]),
            Route("/cashier/{number}", surface.act_on_page, methods=["POST"]),
            Route("/qr/{token}", surface.scan, methods=["GET"]),
            Route("/bill/{token}", surface.download, methods=["GET"]),
            Route("/_sim/alipay", surface.switch, methods=["POST"]),
        ],
        buyer=surface.act,
        error_answer=_error_answer,
        resign=surface.sign_anew,
    )


class _Surface:
    def __init__(
        self,
        simulation: Simulation[AlipayConfig],
        trades: Trades,
        refunds: Refunds,
        switches: Switches,
    ) -> None:
        self._simulation = simulation
        self._trades = trades
        self._gateway = Gateway(simulation, trades, refunds)
        self._switches = switches

    async def serve(self, request: Request) -> Response:
        """One request of the shop, or of a browser that the shop sent here."""
        pairs = parse_qsl(request.url.query, keep_blank_values=True)
        try:
            pairs += parse_qsl((await request.body()).decode(), keep_blank_values=True)
        except UnicodeDecodeError:
            pairs += [("biz_content", "")] * 2  # refused as repeated
        method = dict(pairs).get("method", "")
        try:
            parameters = single(pairs)
            check_common(parameters, self._simulation.config, self._simulation.clock.outside.now())
            content = read_content(parameters)
            if method in PAGE_METHODS:
                return self._open(parameters, content)
            fields = self._gateway.answer(parameters, content)
        except Refused as refused:
            if method in PAGE_METHODS:
                return _error_page(refused)
            return self._answer(method, refused.shown(), signed=self._switches.signs_errors)
        unsigned = method == "alipay.trade.query" and self._gateway.is_unsigned(content)
        return self._answer(method, fields, signed=not unsigned)

    async def scan(self, request: Request) -> Response:
        """The text of a QR code is this address; opening it is scanning."""
        try:
            trade = self._trades.scan(request.path_params["token"])
        except Refused as refused:
            return _error_page(refused)
        return self._cashier(trade, code=str(request.url))

    async def act_on_page(self, request: Request) -> Response:
        """A button of the cashier page."""
        number = request.path_params["number"]
        try:
            trade = self._trades.find("", number)
            does = dict(parse_qsl((await request.body()).decode())).get("does", "")
            trade = self._do(trade, does)
        except Refused as refused:
            return _error_page(refused)
        except DeedRefused:
            trade = self._trades.find("", number)
        back = trade.terms.return_url
        if back and trade.paid_at is not None:
            return RedirectResponse(
                f"{back}{'&' if urlsplit(back).query else '?'}{self._return_query(trade)}",
                status_code=303,
            )
        return self._cashier(trade)

    async def download(self, request: Request) -> Response:
        """A bill."""
        found = self._gateway.download(request.path_params["token"])
        if found is None:
            return HTMLResponse("<html>403</html>", status_code=403)
        return Response(found, media_type="application/zip")

    async def switch(self, request: Request) -> Response:
        """Sets what documents leave open: see `Switches`."""
        try:
            sent = await request.json()
        except ValueError:
            sent = None
        known = asdict(self._switches)
        if not isinstance(sent, dict) or any(
            name not in known or not isinstance(value, bool) for name, value in sent.items()
        ):
            return JSONResponse({"error": f"expected any of {', '.join(known)}"}, status_code=400)
        for name, value in sent.items():
            setattr(self._switches, name, value)
        return JSONResponse(asdict(self._switches))

    def act(self, sent: Mapping[str, Any]) -> Mapping[str, Any]:
        """The buyer's deed; `own_id` is out_trade_no, `ref` trade_no.

        Raises:
            DeedRefused: nothing to act on, or not now.
        """
        own_id, ref = str(sent.get("own_id", "")), str(sent.get("ref", ""))
        try:
            trade = self._trades.find("", ref) if ref else self._trades.scan_number(own_id)
            trade = self._do(trade, str(sent["does"]))
        except Refused as refused:
            raise DeedRefused(f"{refused.sub_code}: nobody opened or scanned it") from None
        return {
            "trade_no": trade.trade_no,
            "out_trade_no": trade.terms.out_trade_no,
            "trade_status": shown_status(trade),
        }

    def sign_anew(self, answer: Answer) -> Answer:
        """Signs an answer whose text a fault has changed."""
        whole = json.loads(answer.body)
        name = next(one for one in whole if one.endswith("_response"))
        key = self._simulation.config.provider_key if "sign" in whole else None
        return answer.with_body(answer_json(name, whole[name], key=key))

    def _do(self, trade: Trade, does: str) -> Trade:
        match does:
            case "open" | "decline" | "leave":  # a wrong password leaves the trade as it is
                return trade
            case "pay" | "approve":
                return self._trades.pay(trade)
            case "pay_late":
                return self._trades.pay_late(trade)
            case "expire":
                return self._trades.expire(trade)
            case "finish":
                return self._trades.finish(trade)
        raise DeedRefused("expected open, pay, decline, expire, pay_late or finish")

    def _open(self, parameters: Mapping[str, str], content: Mapping[str, Any]) -> Response:
        terms = read_terms(parameters, content, self._simulation.clock.now())
        return self._cashier(self._trades.open(terms))

    def _cashier(self, trade: Trade, *, code: str = "") -> Response:
        facts = {
            "商品 Subject": trade.terms.subject,
            "金额 Amount": f"¥{yuan(trade.total)}",
            "订单号 Order": trade.terms.out_trade_no,
            "交易号 Trade": trade.trade_no,
            "状态 Status": shown_status(trade),
        }
        if code:
            facts["二维码 Code"] = code
        waits = trade.status is TradeStatus.WAIT_BUYER_PAY
        page = buyer_page(
            "支付宝（模拟） Alipay simulator",
            facts,
            action=f"/cashier/{trade.trade_no}",
            deeds=_DEEDS if waits else (),
        )
        return HTMLResponse(page)

    def _return_query(self, trade: Trade) -> str:
        config = self._simulation.config
        fields = {
            "app_id": config.app_id,
            "auth_app_id": config.app_id,
            "charset": "utf-8",
            "method": f"{trade.terms.method}.return",
            "out_trade_no": trade.terms.out_trade_no,
            "seller_id": config.seller_id,
            "timestamp": china_text(self._simulation.clock.now()),
            "total_amount": yuan(trade.total),
            "trade_no": trade.trade_no,
            "version": "1.0",
        }
        return signed_form(fields, config.provider_key)

    def _answer(self, method: str, fields: Mapping[str, Any], *, signed: bool) -> Response:
        name = f"{method.replace('.', '_')}_response" if method else "error_response"
        key = self._simulation.config.provider_key if signed else None
        return Response(answer_json(name, fields, key=key), media_type=_JSON_TYPE)


def _error_page(refused: Refused) -> Response:
    page = buyer_page(
        "错误 Error",
        {"错误码": refused.sub_code, "说明": refused.sub_msg},
        charset=_PAGE_ENCODING,
    )
    body = page.encode(_PAGE_ENCODING, "replace")
    return Response(body, headers={"content-type": f"text/html;charset={_PAGE_ENCODING}"})


def _error_answer(status: int) -> Answer:
    headers = ((b"content-type", b"text/html"),)
    text = f"<html><body>{status} {HTTPStatus(status).phrase}</body></html>"
    return Answer(status=status, headers=headers, body=b"").with_body(text.encode())
