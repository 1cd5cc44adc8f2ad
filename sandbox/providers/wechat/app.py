"""WeChat Pay's HTTP surface: `/v3/…`, the pages of a buyer, `/_sim/wechat`, `/_sim/probe`."""

from __future__ import annotations

import itertools
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, replace
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from sandbox.providers.buyer_page import buyer_page
from sandbox.providers.china import yuan
from sandbox.providers.control import DeedRefused, simulated_app
from sandbox.providers.faults import Answer, json_answer
from sandbox.providers.simulation import Simulation
from sandbox.providers.wechat.api import Api, Reply
from sandbox.providers.wechat.errors import Refused, code_of
from sandbox.providers.wechat.notices import Notices
from sandbox.providers.wechat.objects import Order, Switches, TradeState, WechatConfig
from sandbox.providers.wechat.orders import Orders
from sandbox.providers.wechat.refunds import Refunds
from sandbox.providers.wechat.signing import check_request, is_jsapi_signed, signed_headers

_DEEDS = (("pay", "付款 Pay"), ("decline", "密码错误 Wrong password"))
_OTHER_SERIAL = "PUB_KEY_ID_9999999999012026100100000000000009"
_DOWNLOAD = "/v3/billdownload/file"
_JSAPI = ("appId", "timeStamp", "nonceStr", "package", "paySign")
Handler = Callable[[Request], Awaitable[Response]]


def create_app(simulation: Simulation[WechatConfig]) -> ASGIApp:
    """WeChat Pay over a fresh, empty store."""
    switches = Switches()
    notices = Notices(simulation)
    orders = Orders(simulation, notices)
    api = Api(simulation, orders, Refunds(simulation, orders, notices))
    surface = _Surface(simulation, orders, notices, switches)
    transactions, refunds = "/v3/pay/transactions", "/v3/refund/domestic/refunds"
    routes = [
        ("POST", f"{transactions}/{{product}}", api.prepay),
        ("GET", f"{transactions}/out-trade-no/{{out_trade_no}}", api.query),
        ("GET", f"{transactions}/id/{{transaction_id}}", api.query),
        ("POST", f"{transactions}/out-trade-no/{{out_trade_no}}/close", api.close),
        ("POST", refunds, api.refund),
        ("GET", f"{refunds}/{{out_refund_no}}", api.refund_query),
        ("POST", f"{refunds}/{{refund_id}}/apply-abnormal-refund", api.apply_abnormal),
        ("GET", "/v3/bill/tradebill", api.trade_bill),
        ("GET", "/v3/bill/fundflowbill", api.fund_flow_bill),
        ("GET", _DOWNLOAD, api.download),
    ]
    return simulated_app(
        simulation,
        routes=[
            *(Route(path, surface.checked(reply), methods=[verb]) for verb, path, reply in routes),
            Route("/pay/{token}", surface.show, methods=["GET"]),
            Route("/pay/{token}", surface.act_on_page, methods=["POST"]),
            Route("/_sim/wechat", surface.switch, methods=["POST"]),
            Route("/_sim/probe", surface.probe, methods=["POST"]),
        ],
        buyer=surface.act,
        exception_handlers={404: _not_found, 405: _not_found},
        error_answer=lambda status: json_answer(
            status, {"code": code_of(status), "message": "系统错误"}
        ),
        resign=surface.sign_anew,
    )


async def _not_found(_request: Request, _error: Exception) -> Response:
    return _refusal(Refused("RESOURCE_NOT_EXISTS", "接口不存在"))


def _refusal(refused: Refused) -> Response:
    return JSONResponse(refused.shown(), status_code=refused.status)


class _Surface:
    def __init__(
        self,
        simulation: Simulation[WechatConfig],
        orders: Orders,
        notices: Notices,
        switches: Switches,
    ) -> None:
        self._simulation = simulation
        self._orders = orders
        self._notices = notices
        self._switches = switches
        self._numbers = itertools.count(1)

    def checked(self, reply: Callable[[Request, bytes], Reply]) -> Handler:
        """A route that checks headers and signature first, and signs what is no refusal."""

        async def serve(request: Request) -> Response:
            body = await request.body()
            try:
                _check_headers(request, body)
                check_request(
                    self._simulation.config,
                    request.headers.get("authorization", ""),
                    method=request.method,
                    target=_target(request),
                    body=body,
                    now=self._simulation.clock.outside.now(),
                )
                status, content = reply(request, body)
            except Refused as refused:
                return _refusal(refused)
            if isinstance(content, bytes):  # a bill, which is not signed
                return Response(content, status_code=status, media_type="text/plain")
            text = b"" if content is None else json.dumps(content, ensure_ascii=False).encode()
            return Response(
                text,
                status_code=status,
                headers=self._signature(text),
                media_type=None if content is None else "application/json; charset=utf-8",
            )

        return serve

    def sign_anew(self, answer: Answer) -> Answer:
        """Signs an answer whose text a fault has changed."""
        kept = tuple(one for one in answer.headers if not one[0].lower().startswith(b"wechatpay"))
        if len(kept) == len(answer.headers):
            return answer
        signature = self._signature(answer.body).items()
        fresh = tuple((name.lower().encode(), value.encode()) for name, value in signature)
        return replace(answer, headers=(*kept, *fresh))

    async def show(self, request: Request) -> Response:
        """The page behind a code, an h5 address or a prepay_id."""
        order = self._orders.by_token(request.path_params["token"])
        if order is None:
            return _page("二维码已失效 The code has expired", {}, status=404)
        facts = {
            "商品 Description": str(order.sent["description"]),
            "金额 Amount": f"¥{yuan(order.total)}",
            "订单号 Order": order.out_trade_no,
            "状态 State": order.state.value,
            "二维码 Code": f"{self._simulation.base_url}/pay/{order.token}",
        }
        query = f"?{request.url.query}" if request.url.query else ""
        waits = order.state is TradeState.NOTPAY
        return _page(
            "微信支付（模拟） WeChat Pay simulator",
            facts,
            action=f"/pay/{order.token}{query}",
            deeds=_DEEDS if waits else (),
        )

    async def act_on_page(self, request: Request) -> Response:
        """A button of the page; then back to `redirect_url`, where the address has one."""
        order = self._orders.by_token(request.path_params["token"])
        does = dict(parse_qsl((await request.body()).decode())).get("does", "")
        if order is not None:
            try:
                self._do(order, does)
            except DeedRefused as refused:
                return _page(str(refused), {}, status=409)
        back = request.query_params.get("redirect_url", "")
        if back.startswith(("http://", "https://")):
            return RedirectResponse(back, status_code=303)
        return await self.show(request)

    async def switch(self, request: Request) -> Response:
        """Sets how answers misbehave: see `Switches`."""
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

    async def probe(self, request: Request) -> Response:
        """Sends a notice of the order `own_id` whose signature must be refused."""
        try:
            order = self._orders.find(str((await request.json())["own_id"]))
        except (ValueError, TypeError, KeyError):
            order = None
        if order is None:
            return JSONResponse({"error": "expected own_id of an order"}, status_code=400)
        self._notices.probe(order)
        return JSONResponse({"sent": order.sent["notify_url"]})

    def act(self, sent: Mapping[str, Any]) -> Mapping[str, Any]:
        """The buyer's deed; `own_id` is out_trade_no, `ref` transaction_id. `params` are those that
        the shop signed for the page of a JSAPI payment; they are checked where they are given.

        Raises:
            DeedRefused: nothing to act on, or not now.
        """
        order = self._orders.find(str(sent.get("own_id", "")), str(sent.get("ref", "")))
        if order is None:
            raise DeedRefused("no such order")
        if "params" in sent:
            self._check_params(order, sent["params"])
        order = self._do(order, str(sent["does"]))
        return {
            "transaction_id": order.transaction_id,
            "out_trade_no": order.out_trade_no,
            "trade_state": order.state.value,
        }

    def _check_params(self, order: Order, params: Any) -> None:
        config = self._simulation.config
        if not isinstance(params, dict) or not all(
            isinstance(params.get(name), str) for name in _JSAPI
        ):
            raise DeedRefused(f"params: expected the texts {', '.join(_JSAPI)}")
        signed = is_jsapi_signed(
            config.merchant_key,
            appid=params["appId"],
            timestamp=params["timeStamp"],
            nonce=params["nonceStr"],
            package=params["package"],
            signature=params["paySign"],
        )
        expected = ("RSA", config.appid, f"prepay_id={order.token}")
        if not signed or (params.get("signType"), params["appId"], params["package"]) != expected:
            raise DeedRefused("params: the page cannot open this payment")

    def _do(self, order: Order, does: str) -> Order:
        match does:
            case "decline":  # a wrong password leaves the order as it is
                return order
            case "pay" | "approve":
                return self._orders.pay(order)
            case "pay_late":
                return self._orders.pay_late(order)
            case "expire":
                return self._orders.expire(order)
        raise DeedRefused("expected pay, decline, expire or pay_late")

    def _signature(self, body: bytes) -> dict[str, str]:
        headers = signed_headers(
            self._simulation.config,
            body,
            self._simulation.clock.outside.now(),
            number=next(self._numbers),
        )
        if self._switches.unsigned:
            return {}
        if self._switches.unknown_serial:
            headers["Wechatpay-Serial"] = _OTHER_SERIAL
        return headers


def _check_headers(request: Request, body: bytes) -> None:
    headers = request.headers
    if not headers.get("user-agent"):
        raise Refused("INVALID_REQUEST", "Http头缺少User-Agent")
    accepts = headers.get("accept", "")
    if request.url.path != _DOWNLOAD and not any(
        one in accepts for one in ("application/json", "*/*")
    ):
        raise Refused("INVALID_REQUEST", "Http头缺少Accept: application/json")
    if body and not headers.get("content-type", "").startswith("application/json"):
        raise Refused("INVALID_REQUEST", "Content-Type必须为application/json")


def _target(request: Request) -> str:
    """The path with its query as the client sent it."""
    path: bytes = request.scope["raw_path"]
    query: bytes = request.scope["query_string"]
    return (path.partition(b"?")[0] + (b"?" + query if query else b"")).decode("latin-1")


def _page(title: str, facts: Mapping[str, str], *, status: int = 200, **more: Any) -> Response:
    return HTMLResponse(buyer_page(title, facts, **more), status_code=status)
