"""SeckillService: clicks and results of buyers, and units that come back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import lru_cache
from typing import Any

from paymesh.seckill.v1 import seckill_pb2, seckill_pb2_grpc

from mesh.call import current_language
from mesh.languages import Language
from seckill_rpc.domain.result import Result
from seckill_rpc.servicer.texts import MESSAGES
from seckill_rpc.usecases.admission.seckill_action import Admission, SeckillAction
from seckill_rpc.usecases.results import Results
from seckill_rpc.usecases.returns import Returns


class SeckillServicer(seckill_pb2_grpc.SeckillServiceServicer):
    """For buyers, and for order_rpc."""

    def __init__(self, *, admission: Admission, results: Results, returns: Returns) -> None:
        self._admission = admission
        self._results = results
        self._returns = returns

    async def SeckillAction(
        self, request: seckill_pb2.SeckillActionRequest, context: Any
    ) -> seckill_pb2.SeckillActionResponse:
        """Asks for one unit."""
        result = await self._admission.seckill_action(
            SeckillAction(
                request.merchant_id,
                request.user_id,
                request.sku_id,
                request.request_id,
                request.wait_ms / 1000,
            )
        )
        language = current_language()
        return (
            _answer_of(result, language)
            if result.request_id or result.starts_in_ms
            else _same_for_many(result, language)
        )

    async def SeckillResult(
        self, request: seckill_pb2.SeckillResultRequest, context: Any
    ) -> seckill_pb2.SeckillResultResponse:
        """What became of a buyer's clicks."""
        result = await self._results.seckill_result(
            merchant_id=request.merchant_id,
            user_id=request.user_id,
            sku_id=request.sku_id,
            ticket=request.ticket,
            wait_seconds=request.wait_ms / 1000,
        )
        return seckill_pb2.SeckillResultResponse(result=_message(result))

    async def WatchSeckillResult(
        self, request: seckill_pb2.WatchSeckillResultRequest, context: Any
    ) -> AsyncIterator[seckill_pb2.WatchSeckillResultResponse]:
        """The result now and when it is final."""
        async for result in self._results.watch_seckill_result(request.ticket):
            yield seckill_pb2.WatchSeckillResultResponse(result=_message(result))

    async def ReturnStock(
        self, request: seckill_pb2.ReturnStockRequest, context: Any
    ) -> seckill_pb2.ReturnStockResponse:
        """Takes the unit of an order back."""
        returned = await self._returns.return_stock(
            merchant_id=request.merchant_id,
            activity_id=request.activity_id,
            order_id=request.order_id,
        )
        return seckill_pb2.ReturnStockResponse(returned=returned)

    async def GetTicketOrder(
        self, request: seckill_pb2.GetTicketOrderRequest, context: Any
    ) -> seckill_pb2.GetTicketOrderResponse:
        """Whose order a ticket is of, and whether it may still come."""
        ticket, is_coming = await self._results.get_ticket_order(request.ticket)
        return seckill_pb2.GetTicketOrderResponse(
            order_id=ticket.order_id,
            merchant_id=ticket.merchant_id,
            user_id=ticket.user_id,
            is_coming=is_coming,
        )


def _answer_of(result: Result, language: Language | None) -> seckill_pb2.SeckillActionResponse:
    response = seckill_pb2.SeckillActionResponse()
    _fill(response.result, result, language)
    return response


# A refusal without an id is the same for all buyers, so it is built once.
_same_for_many = lru_cache(maxsize=256)(_answer_of)


def _message(result: Result) -> seckill_pb2.Result:
    message = seckill_pb2.Result()
    _fill(message, result, current_language())
    return message


def _fill(message: seckill_pb2.Result, result: Result, language: Language | None) -> None:
    """Field by field, in place: half of what it costs by keywords and a copy."""
    message.status = int(result.status)
    message.code = result.code
    message.message = MESSAGES[result.code].text(language)
    message.activity_id = result.activity_id
    message.sku_id = result.sku_id
    message.request_id = result.request_id
    if result.order_id:
        message.order_id = result.order_id
    if result.ticket:
        message.ticket = result.ticket
    if result.retry_after_ms:
        message.retry_after_ms = result.retry_after_ms
    if result.starts_in_ms:
        message.starts_in_ms = result.starts_in_ms
