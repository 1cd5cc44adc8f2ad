"""The catalogue stock: how many units of a product may be ordered, and every movement of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from mesh import idempotency
from mesh.call import Caller, current_trace_id, mark_replayed
from mesh.clock import Clock
from mesh.db import Database, StaleRow
from mesh.idempotency import IdempotencyKey
from mesh.paging import Key, PageTokens
from order_rpc.domain.errors import StockStateInvalid
from order_rpc.domain.product import Movement, MovementKind, Product
from order_rpc.store import catalog
from order_rpc.usecases.journal import operator


@dataclass(frozen=True, slots=True, kw_only=True)
class AdjustStock:
    """Units to add to those available; negative takes away."""

    merchant_id: str
    sku_id: str
    quantity: int
    reason: str
    idempotency_key: str  # "" adjusts with every call
    fingerprint: Mapping[str, str]


class CatalogStock:
    """SetStock, AdjustStock, ListStockMovements."""

    def __init__(self, *, db: Database, clock: Clock, page_tokens: PageTokens) -> None:
        self._db = db
        self._page_tokens = page_tokens
        self._clock = clock

    async def set_stock(
        self, *, merchant_id: str, sku_id: str, available: int, caller: Caller
    ) -> Product:
        """Sets how many units may be ordered from now on; what orders and flash sales hold does not
        change.

        Raises:
            ProductNotFound: there is none, or it belongs to another shop.
        """
        return await self._db.run(
            self._set_stock,
            merchant_id=merchant_id,
            sku_id=sku_id,
            available=available,
            caller=caller,
        )

    async def adjust_stock(self, command: AdjustStock, caller: Caller) -> Movement:
        """Adds units to those available, or takes some away, and keeps why.

        Raises:
            ProductNotFound: there is none, or it belongs to another shop. StockStateInvalid: fewer
                are available. IdempotencyKeyReused.
        """
        movement, is_replay = await self._db.run(self._adjust_stock, command, caller)
        if is_replay:
            mark_replayed()
        return movement

    async def list_stock_movements(
        self, *, merchant_id: str, sku_id: str, requested_size: int, page_token: str
    ) -> tuple[tuple[Movement, ...], str]:
        """One page of what people, flash sales and refunds did to the stock of a product, newest
        first, and the token of the next one.

        Raises:
            PageTokenInvalid.
        """

        async def read(before: tuple[Key, ...] | None, limit: int) -> Sequence[Movement]:
            return await self._db.read(
                catalog.list_movements,
                merchant_id=merchant_id,
                sku_id=sku_id,
                before=int(before[0]) if before else None,
                limit=limit,
            )

        return await self._page_tokens.page(
            read,
            list_name="ListStockMovements",
            filter={"merchant_id": merchant_id, "sku_id": sku_id},
            types=(int,),
            size=requested_size,
            token=page_token,
            key=lambda movement: (movement.movement_id,),
        )

    async def _set_stock(
        self, tx: AsyncConnection, *, merchant_id: str, sku_id: str, available: int, caller: Caller
    ) -> Product:
        changes = {"updated_at": self._clock.now()}
        await catalog.touch_product(
            tx, merchant_id=merchant_id, sku_id=sku_id, visible_to=caller, changes=changes
        )
        stock = await catalog.lock_stock(tx, merchant_id=merchant_id, sku_id=sku_id)
        product = await catalog.get_product(tx, merchant_id=merchant_id, sku_id=sku_id)
        if available != stock.available:
            await catalog.move_stock(
                tx,
                movement_of(
                    product,
                    MovementKind.SET,
                    quantity=available - stock.available,
                    available_after=available,
                    caller=caller,
                    at=changes["updated_at"],
                ),
                trace_id=current_trace_id(),
            )
        return await catalog.get_product(tx, merchant_id=merchant_id, sku_id=sku_id)

    async def _adjust_stock(
        self, tx: AsyncConnection, command: AdjustStock, caller: Caller
    ) -> tuple[Movement, bool]:
        now = self._clock.now()
        key = IdempotencyKey(
            merchant_id=command.merchant_id,
            caller=caller.key,
            method="AdjustStock",
            key=command.idempotency_key,
        )
        record = (
            await idempotency.find(tx, key, fingerprint=command.fingerprint) if key.key else None
        )
        if record is not None and record.answer is not None:
            return _movement_from_answer(record.answer), True
        await catalog.touch_product(
            tx,
            merchant_id=command.merchant_id,
            sku_id=command.sku_id,
            visible_to=caller,
            changes={"updated_at": now},
        )
        product = await catalog.get_product(
            tx, merchant_id=command.merchant_id, sku_id=command.sku_id
        )
        stock = await catalog.lock_stock(tx, merchant_id=command.merchant_id, sku_id=command.sku_id)
        left = stock.available + command.quantity
        if left < 0:
            if key.key and await idempotency.find(tx, key, fingerprint=command.fingerprint):
                # another call with this key took them while this one waited for the lock: run
                # again, to give its answer
                raise StaleRow
            raise _too_few(command.sku_id, stock.available)
        movement = await catalog.move_stock(
            tx,
            movement_of(
                product,
                MovementKind.ADJUST,
                quantity=command.quantity,
                available_after=left,
                caller=caller,
                at=now,
                reason=command.reason,
            ),
            trace_id=current_trace_id(),
        )
        if key.key:
            await idempotency.claim(
                tx,
                key,
                fingerprint=command.fingerprint,
                resource_id=str(movement.movement_id),
                now=now,
                retention=idempotency.OTHER_RETENTION,
                answer=_movement_answer(movement),
            )
        return movement, False


def _too_few(sku_id: str, available: int) -> StockStateInvalid:
    return StockStateInvalid(
        f"available units of {sku_id}: {available}",
        fields={"quantity": f"{available} are available"},
        sku_id=sku_id,
        available=available,
    )


def movement_of(
    product: Product,
    kind: MovementKind,
    *,
    quantity: int,
    available_after: int,
    caller: Caller,
    at: datetime,
    reason: str = "",
    reference: str = "",
) -> Movement:
    """A movement of the catalogue stock that is about to be written."""
    return Movement(
        movement_id=0,
        merchant_id=product.merchant_id,
        sku_id=product.sku_id,
        kind=kind,
        quantity=quantity,
        available_after=available_after,
        reason=reason,
        operator=operator(caller),
        reference=reference,
        created_at=at,
    )


def _movement_answer(movement: Movement) -> str:
    return json.dumps({**asdict(movement), "created_at": movement.created_at.isoformat()})


def _movement_from_answer(answer: str) -> Movement:
    first = json.loads(answer)
    return Movement(
        **{
            **first,
            "kind": MovementKind(first["kind"]),
            "created_at": datetime.fromisoformat(first["created_at"]),
        }
    )
