"""What a buyer is told of a click, in both languages. The Chinese texts are promised to clients."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from mesh.languages import Bilingual
from seckill_rpc.domain.result import ResultCode


def _promised(zh: str, en: str) -> Bilingual:
    return Bilingual(en, zh, promised_in_chinese=True)


MESSAGES: Mapping[ResultCode, Bilingual] = MappingProxyType(
    {
        ResultCode.BOUGHT: _promised("秒杀成功", "It is yours. Please pay in time."),
        ResultCode.SOLD_OUT: _promised("秒杀已结束", "Sold out."),
        ResultCode.QUEUED: _promised("排队中", "You are in the queue."),
        ResultCode.LIMIT: _promised("超过限购数量", "You have as many as one buyer may have."),
        ResultCode.NOT_STARTED: _promised("秒杀未开始", "The sale has not begun."),
        ResultCode.ENDED: _promised("秒杀已结束", "The sale is over."),
        ResultCode.PAUSED: _promised("秒杀已暂停", "The sale is paused."),
        ResultCode.NOT_DRAWN: _promised("未中签", "You were not drawn."),
        ResultCode.NO_CLICK: _promised("未参与", "You are not taking part in this sale."),
        ResultCode.NOT_SERVED: _promised(
            "未抢到", "No unit was left for you, or your order was returned."
        ),
    }
)
