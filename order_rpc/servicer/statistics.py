"""StatisticsService: messages to use cases and back."""

from __future__ import annotations

from typing import Any

from paymesh.order.v1 import statistics_pb2, statistics_pb2_grpc

from order_rpc.domain.statistics import DayStatistics
from order_rpc.usecases.statistics import Statistics


class StatisticsServicer(statistics_pb2_grpc.StatisticsServiceServicer):
    """What a shop earns by day."""

    def __init__(self, statistics: Statistics) -> None:
        self._statistics = statistics

    async def ListOrderStatistics(
        self, request: statistics_pb2.ListOrderStatisticsRequest, context: Any
    ) -> statistics_pb2.ListOrderStatisticsResponse:
        """Shows the days of a period."""
        days = await self._statistics.list_order_statistics(
            merchant_id=request.merchant_id,
            first=request.from_date,
            last=request.to_date,
            time_zone=request.time_zone,
            currency=request.currency,
        )
        return statistics_pb2.ListOrderStatisticsResponse(days=[_day_message(day) for day in days])

    async def GetDailySummary(
        self, request: statistics_pb2.GetDailySummaryRequest, context: Any
    ) -> statistics_pb2.GetDailySummaryResponse:
        """Shows one day."""
        summary = await self._statistics.get_daily_summary(
            merchant_id=request.merchant_id, day=request.date, time_zone=request.time_zone
        )
        return statistics_pb2.GetDailySummaryResponse(
            date=summary.day.isoformat(),
            time_zone=summary.time_zone,
            summaries=[_day_message(day) for day in summary.days],
        )


def _day_message(day: DayStatistics) -> statistics_pb2.OrderStatistics:
    return statistics_pb2.OrderStatistics(
        date=day.day.isoformat(),
        merchant_id=day.merchant_id,
        currency=day.currency,
        order_count=day.created[0],
        order_amount=day.created[1].format(),
        paid_count=day.paid[0],
        paid_amount=day.paid[1].format(),
        average_paid_amount=day.average_paid.format(),
        cancelled_count=day.cancelled,
        refund_count=day.refunded[0],
        refund_amount=day.refunded[1].format(),
        converted_count=day.converted,
        conversion=day.conversion,
    )
