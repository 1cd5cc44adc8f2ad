"""merchant_rpc as the services see it that sell for merchants. Its last good answers outlive it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

from paymesh.merchant.v1 import merchant_pb2, merchant_pb2_grpc

from mesh.last_good import LastGood
from mesh.merchant_status import MerchantStatus

FRESH_SECONDS: Final = 5.0
MERCHANTS_MAX: Final = 10_000  # that a process remembers

Terms = TypeVar("Terms")


class MerchantDirectory(Generic[Terms]):
    """The terms of merchants, as far as a service needs them."""

    def __init__(
        self,
        channel: Any,
        *,
        terms_of: Callable[[merchant_pb2.GetMerchantSettingsResponse, Terms], Terms],
        defaults: Callable[[str], Terms],
    ) -> None:
        """
        Args:
            terms_of: reads an answer; gets the defaults for what the merchant has not set.
            defaults: for merchants that merchant_rpc does not know.
        """
        self._stub: Any = merchant_pb2_grpc.MerchantServiceStub(channel)
        self._terms_of = terms_of
        self._defaults = defaults
        self._answers: LastGood[Terms] = LastGood(
            self._ask, fresh_seconds=FRESH_SECONDS, entries_max=MERCHANTS_MAX
        )

    async def of(self, merchant_id: str) -> Terms:
        """The terms of a merchant.

        Raises:
            RemoteError: not answered, and it never was.
        """
        return await self._answers.get(merchant_id)

    def known(self, merchant_id: str) -> Terms:
        """What is known without asking."""
        known = self._answers.known(merchant_id)
        return self._defaults(merchant_id) if known is None else known

    async def _ask(self, merchant_id: str) -> Terms:
        answer = await self._stub.GetMerchantSettings(
            merchant_pb2.GetMerchantSettingsRequest(merchant_id=merchant_id)
        )
        defaults = self._defaults(merchant_id)
        return self._terms_of(answer, defaults) if answer.is_known else defaults


def merchant_status_of(answer: merchant_pb2.GetMerchantSettingsResponse) -> MerchantStatus:
    """Whether a merchant may sell. In a state that this version does not know it may not."""
    match answer.state:
        case merchant_pb2.MERCHANT_STATE_LIVE:
            return MerchantStatus.OPEN
        case merchant_pb2.MERCHANT_STATE_TEST_ONLY if answer.is_test:
            return MerchantStatus.OPEN
        case merchant_pb2.MERCHANT_STATE_SUSPENDED | merchant_pb2.MERCHANT_STATE_CLOSED:
            return MerchantStatus.SUSPENDED
        case _:
            return MerchantStatus.NOT_LIVE
