"""Units and orders of flash sales. Units leave the catalogue stock before anybody buys and come
back afterwards; orders are written with the price of the sale. Every step has an id of seckill_rpc
and happens once (docs/protocols.md 5).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.call import Caller, current_trace_id
from mesh.clock import Clock
from mesh.db import Database
from mesh.errors import MeshError
from mesh.money import Money
from order_rpc.domain.errors import (
    AllocationExceeded,
    AllocationMismatch,
    CurrencyMixed,
    ProductNotFound,
)
from order_rpc.domain.merchant_terms import MerchantTerms
from order_rpc.domain.order import Order
from order_rpc.domain.order_line import OrderLine, StockSource
from order_rpc.domain.product import Movement, MovementKind, Product, Stock, out_of_stock
from order_rpc.store import allocations, catalog, orders
from order_rpc.store.allocations import Step
from order_rpc.usecases.catalog_stock import movement_of
from order_rpc.usecases.journal import Journal, NewOrder, operator
from order_rpc.usecases.merchant_terms import TermsOfMerchants

_Found = TypeVar("_Found")


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocateStock:
    """Units that an activity takes from the catalogue stock."""

    op_id: str
    merchant_id: str
    activity_id: str
    sku_id: str
    quantity: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReturnAllocation:
    """Units that an activity gives back to the catalogue stock."""

    op_id: str
    merchant_id: str
    activity_id: str
    quantity: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SeckillOrder:
    """One unit of an activity for one buyer."""

    order_id: str
    merchant_id: str
    user_id: str
    activity_id: str
    sku_id: str
    price: Money


class Allocations:
    """AllocateStock, ReturnAllocation, CreateSeckillOrders."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        journal: Journal,
        payment_window: timedelta,
        terms: TermsOfMerchants,
    ) -> None:
        """`payment_window`: how long a buyer may take to pay, counted from the write of the order
        here.
        """
        self._db = db
        self._clock = clock
        self._journal = journal
        self._payment_window = payment_window
        self._terms = terms

    async def allocate_stock(self, command: AllocateStock, caller: Caller) -> int:
        """Takes units from the catalogue stock; returns how many the activity was given in all.

        Raises:
            ProductNotFound, OutOfStock: nothing was taken. AllocationMismatch: the id, or the
                activity, was used for something else.
        """
        return await self._db.run(self._allocate_stock, command, caller)

    async def return_allocation(self, command: ReturnAllocation, caller: Caller) -> int:
        """Gives units back to the catalogue stock; returns how many the activity gave back in
        all.

        Raises:
            AllocationExceeded: the activity holds fewer. AllocationMismatch: the id was used for
                something else.
        """
        return await self._db.run(self._return_allocation, command, caller)

    async def create_seckill_orders(
        self, wanted: Sequence[SeckillOrder], caller: Caller
    ) -> list[str]:
        """Writes orders of activities; for each "" or the reason why it can never be written. One
        that is there already stays as it is, also when its merchant was suspended since.

        Raises:
            RemoteError: whether a merchant takes new orders is unknown; nothing was written.
        """
        terms = {
            merchant_id: await self._terms.of(merchant_id)
            for merchant_id in sorted({each.merchant_id for each in wanted})
        }
        return await self._db.run(self._create_seckill_orders, wanted, terms, caller)

    async def _allocate_stock(
        self, tx: AsyncConnection, command: AllocateStock, caller: Caller
    ) -> int:
        now = self._clock.now()
        step = _step_of(command, "ALLOCATE")
        product = await catalog.get_product(
            tx, merchant_id=command.merchant_id, sku_id=command.sku_id
        )
        held = await allocations.lock_allocation(
            tx,
            merchant_id=command.merchant_id,
            activity_id=command.activity_id,
            sku_id=command.sku_id,
            at=now,
        )
        # under the lock: the second call with one id waits for it
        is_new = await self._is_new(tx, step)
        if held is None or held.sku_id != command.sku_id:
            raise AllocationMismatch(
                f"activity {command.activity_id} is of another product", op_id=command.op_id
            )
        if not is_new:
            return held.allocated
        stock = await catalog.lock_stock(tx, merchant_id=command.merchant_id, sku_id=command.sku_id)
        if stock.available < command.quantity:
            raise out_of_stock(command.sku_id, stock.available)
        after = replace(held, allocated=held.allocated + command.quantity)
        await allocations.save_allocation(tx, after, at=now)
        await allocations.insert_step(tx, step, at=now)
        movement = _movement(product, stock, MovementKind.ALLOCATE, step, caller, at=now)
        await catalog.move_stock(tx, movement, trace_id=current_trace_id())
        return after.allocated

    async def _return_allocation(
        self, tx: AsyncConnection, command: ReturnAllocation, caller: Caller
    ) -> int:
        now = self._clock.now()
        step = _step_of(command, "RETURN")
        held = await allocations.lock_allocation(
            tx, merchant_id=command.merchant_id, activity_id=command.activity_id, at=now
        )
        is_new = await self._is_new(tx, step)
        left = 0 if held is None else held.allocated - held.returned
        if is_new and left < command.quantity:
            raise AllocationExceeded(
                f"activity {command.activity_id} holds {left} units", held=left
            )
        if held is None or not is_new:
            return 0 if held is None else held.returned
        product = await catalog.get_product(tx, merchant_id=command.merchant_id, sku_id=held.sku_id)
        stock = await catalog.lock_stock(tx, merchant_id=command.merchant_id, sku_id=held.sku_id)
        after = replace(held, returned=held.returned + command.quantity)
        await allocations.save_allocation(tx, after, at=now)
        await allocations.insert_step(tx, step, at=now)
        if command.quantity:
            movement = _movement(
                product, stock, MovementKind.RETURN_ALLOCATION, step, caller, at=now
            )
            await catalog.move_stock(tx, movement, trace_id=current_trace_id())
        return after.returned

    @staticmethod
    async def _is_new(tx: AsyncConnection, step: Step) -> bool:
        earlier = await allocations.find_step(tx, merchant_id=step.merchant_id, op_id=step.op_id)
        if earlier is not None and earlier != step:
            raise AllocationMismatch(f"{step.op_id} was another step", op_id=step.op_id)
        return earlier is None

    async def _create_seckill_orders(
        self,
        tx: AsyncConnection,
        wanted: Sequence[SeckillOrder],
        terms: Mapping[str, MerchantTerms],
        caller: Caller,
    ) -> list[str]:
        now = self._clock.now()
        answers: list[str] = []
        new: dict[tuple[str, str], Order] = {}
        products = await _by_merchant(
            wanted,
            lambda merchant_id, mine: catalog.find_products(
                tx, merchant_id=merchant_id, sku_ids={each.sku_id for each in mine}
            ),
        )
        existing = await _by_merchant(
            wanted,
            lambda merchant_id, mine: orders.existing(
                tx, merchant_id=merchant_id, order_ids=[each.order_id for each in mine]
            ),
        )
        for each in wanted:
            key = (each.merchant_id, each.order_id)
            owner = existing.get(key, new[key].user_id if key in new else None)
            try:
                if owner is None:
                    terms[each.merchant_id].require_open()
                    new[key] = self._place(each, products.get((each.merchant_id, each.sku_id)), now)
                elif owner != each.user_id:
                    raise AllocationMismatch(
                        f"order {each.order_id} is of another buyer", op_id=each.order_id
                    )
            except MeshError as refusal:
                answers.append(refusal.reason)
            else:
                answers.append("")
        if new:
            await self._journal.create(
                tx,
                [
                    NewOrder(order=order, operator=operator(caller), trace_id=current_trace_id())
                    for order in new.values()
                ],
                at=now,
            )
        return answers

    def _place(self, wanted: SeckillOrder, product: Product | None, now: datetime) -> Order:
        if product is None:
            raise ProductNotFound(sku_id=wanted.sku_id)
        if product.price.currency != wanted.price.currency:
            raise CurrencyMixed(
                f"{wanted.sku_id} is sold in {product.price.currency}", sku_id=wanted.sku_id
            )
        line = OrderLine(
            sku_id=wanted.sku_id,
            name=product.name,
            unit_price=wanted.price,
            quantity=1,
            stock_source=StockSource.ACTIVITY,
            activity_id=wanted.activity_id,
        )
        order = Order.place(
            merchant_id=wanted.merchant_id,
            order_id=wanted.order_id,
            user_id=wanted.user_id,
            lines=(line,),
            at=now,
            expires_at=now + self._payment_window,
        )
        return order if order.amount.minor else order.pay(payment_id="", at=now)


def _step_of(command: AllocateStock | ReturnAllocation, kind: str) -> Step:
    return Step(
        merchant_id=command.merchant_id,
        op_id=command.op_id,
        activity_id=command.activity_id,
        kind=kind,
        quantity=command.quantity,
    )


def _movement(
    product: Product, stock: Stock, kind: MovementKind, step: Step, caller: Caller, *, at: datetime
) -> Movement:
    quantity = -step.quantity if kind is MovementKind.ALLOCATE else step.quantity
    return movement_of(
        product,
        kind,
        quantity=quantity,
        available_after=stock.available + quantity,
        caller=caller,
        at=at,
        reason=step.op_id,
        reference=step.activity_id,
    )


async def _by_merchant(
    wanted: Sequence[SeckillOrder],
    find: Callable[[str, list[SeckillOrder]], Awaitable[Mapping[str, _Found]]],
) -> Mapping[tuple[str, str], _Found]:
    """What is found for the orders of each merchant, by merchant and id."""
    found = {}
    for merchant_id in sorted({each.merchant_id for each in wanted}):
        of_merchant = [each for each in wanted if each.merchant_id == merchant_id]
        for name, value in (await find(merchant_id, of_merchant)).items():
            found[merchant_id, name] = value
    return found
