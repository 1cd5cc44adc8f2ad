"""The read cache of payments: a view that may be absent, old by seconds, and never wrong about its
owner.

An entry is written only over an older version of the payment, and holds the time until which it is
fresh: a day for states that hardly ever change, five seconds otherwise. Callers check the owner
after reading; SERVICE callers never read it (docs/protocols.md 1, Reads).
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import cast

from redis.asyncio import Redis

from mesh.clock import Clock
from mesh.logs import get_logger
from payment_rpc.domain.payment import Payment, PaymentState
from payment_rpc.domain.snapshot import from_json, to_json

SETTLED_SECONDS = 24 * 3600  # source 002
MOVING_SECONDS = 5
_SETTLED = frozenset({PaymentState.FAILED, PaymentState.CLOSED, PaymentState.LATE_REFUNDED})
COMMAND_SECONDS_MAX = 0.3
# After a failure Redis is not called for this time, so that its absence costs one timeout a second.
AWAY = timedelta(seconds=1)

# KEYS[1] entry, KEYS[2] an entry to forget, if any; ARGV version, fresh until (ms), payment, life
# (s). Keeps the newer version; the version outlives its freshness, so that a slow reader cannot put
# an old payment back.
_PUT = """
if KEYS[2] then redis.call('DEL', KEYS[2]) end
local version = redis.call('HGET', KEYS[1], 'version')
if version and tonumber(version) > tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], 'version', ARGV[1], 'fresh_until', ARGV[2], 'payment', ARGV[3])
redis.call('EXPIRE', KEYS[1], ARGV[4])
return 1
"""

log = get_logger()


class PaymentCache:
    """Payments by id, and the payment of an order for five seconds. Without Redis every read is a
    miss.
    """

    def __init__(self, redis: Redis | None, clock: Clock) -> None:
        self._redis = redis
        self._clock = clock
        self._put = redis.register_script(_PUT) if redis is not None else None
        self._away_until: datetime | None = None

    async def get(self, payment_id: str) -> Payment | None:
        """A payment that is fresh enough, or None."""
        found = await self._get(_key(payment_id))
        return found if found is not None and found.payment_id == payment_id else None

    async def get_of_order(self, merchant_id: str, order_id: str) -> Payment | None:
        """The payment that a read of the order returned within the last seconds, or None."""
        found = await self._get(_order_key(merchant_id, order_id))
        return (
            found
            if found is not None and (found.merchant_id, found.order_id) == (merchant_id, order_id)
            else None
        )

    async def put(self, payment: Payment) -> None:
        """Stores a payment as it was read or written. Fails silently: a cache failure is not an
        error.
        """
        await self._set(
            payment,
            _key(payment.payment_id),
            fresh_seconds=SETTLED_SECONDS if _is_settled(payment) else MOVING_SECONDS,
        )

    async def put_changed(self, payment: Payment) -> None:
        """Stores a payment that has just changed, and drops the entry of its order."""
        await self._set(
            payment,
            _key(payment.payment_id),
            _order_key(payment.merchant_id, payment.order_id),
            fresh_seconds=SETTLED_SECONDS if _is_settled(payment) else MOVING_SECONDS,
        )

    async def put_of_order(self, payment: Payment) -> None:
        """Stores the payment of an order, only for seconds: another payment may replace it at any
        time.
        """
        # Gone with its freshness: versions of two payments of an order do not compare, so no older
        # entry may outlive its time.
        await self._set(
            payment,
            _order_key(payment.merchant_id, payment.order_id),
            fresh_seconds=MOVING_SECONDS,
            life_seconds=MOVING_SECONDS,
        )

    async def _get(self, key: str) -> Payment | None:
        if self._redis is None or self._is_away():
            return None
        try:
            async with asyncio.timeout(COMMAND_SECONDS_MAX):
                fresh_until, text = cast(
                    "list[bytes | None]", await self._redis.hmget(key, ["fresh_until", "payment"])
                )
        except Exception as error:  # noqa: BLE001  a cache never fails a call, and money may have moved before this one
            self._missed(error)
            return None
        if text is None or fresh_until is None:
            return None
        try:
            return from_json(text.decode()) if int(fresh_until) > self._now_ms() else None
        except (ValueError, KeyError, TypeError, AttributeError):
            return None  # written by another release

    async def _set(
        self, payment: Payment, *keys: str, fresh_seconds: int, life_seconds: int = SETTLED_SECONDS
    ) -> None:
        if self._put is None or self._is_away():
            return
        try:
            async with asyncio.timeout(COMMAND_SECONDS_MAX):
                await self._put(
                    keys=keys,
                    args=[
                        payment.version,
                        self._now_ms() + fresh_seconds * 1000,
                        to_json(payment),
                        life_seconds,
                    ],
                )
        except Exception as error:  # noqa: BLE001  as above
            self._missed(error)

    def _is_away(self) -> bool:
        return self._away_until is not None and self._clock.now() < self._away_until

    def _missed(self, error: Exception) -> None:
        self._away_until = self._clock.now() + AWAY
        log.warning("cache_away", cause=type(error).__name__)

    def _now_ms(self) -> int:
        return round(self._clock.now().timestamp() * 1000)


def _is_settled(payment: Payment) -> bool:
    """Whether it hardly ever changes. A SUCCESS does as long as the order may refuse it."""
    return payment.state in _SETTLED or (
        payment.state is PaymentState.SUCCESS and payment.disposition is not None
    )


def _key(payment_id: str) -> str:
    return f"payment:{payment_id}"


def _order_key(merchant_id: str, order_id: str) -> str:
    return f"payment:order:{merchant_id}:{order_id}"
