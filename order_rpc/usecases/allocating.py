"""Flash sales: their units leave the shelf before anybody buys and come back afterwards; their
orders are written with the price of the sale. Every step has an id of seckill_rpc's and happens
once (docs/protocols.md 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from mesh import outbox
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
from order_rpc.domain.order import Order, OrderLine, StockSource
from order_rpc.domain.product import Movement, MovementKind, Product, out_of_stock
from order_rpc.store import allocations, audit, catalog, orders, statistics
from order_rpc.store.allocations import Step
from order_rpc.usecases.journal import operator
from order_rpc.usecases.orders import Orders, figures_of_birth


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocate:
    """Units that an activity takes from the shelf."""

    op_id: str
    merchant_id: str
    activity_id: str
    sku_id: str
    quantity: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveBack:
    """Units that an activity puts back on the shelf."""

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


class Allocating:
    """AllocateStock, ReturnAllocation, CreateSeckillOrders."""

    def __init__(
        self, *, db: Database, clock: Clock, orders: Orders, payment_window: timedelta
    ) -> None:
        """`payment_window`: how long a buyer may take to pay, from the moment in which the order is
        written here.
        """
        self._db = db
        self._clock = clock
        self._orders = orders
        self._payment_window = payment_window

    async def allocate(self, command: Allocate, caller: Caller) -> int:
        """Takes units off the shelf; returns how many the activity was given in all.

        Raises:
            ProductNotFound, OutOfStock: nothing was taken. AllocationMismatch: the id, or the
                activity, was used for something else.
        """
        return await self._db.run(self._allocate, command, caller)

    async def give_back(self, command: GiveBack, caller: Caller) -> int:
        """Puts units back on the shelf; returns how many the activity gave back in all.

        Raises:
            AllocationExceeded: the activity holds fewer. AllocationMismatch: the id was used for
                something else.
        """
        return await self._db.run(self._give_back, command, caller)

    async def create_orders(self, wanted: Sequence[SeckillOrder], caller: Caller) -> list[str]:
        """Writes orders of activities; for each "" or the reason why it can never be written. One
        that is there already stays as it is.
        """
        return await self._db.run(self._create_orders, wanted, caller)

    async def _allocate(self, tx: AsyncConnection, command: Allocate, caller: Caller) -> int:
        now = self._clock.now()
        step = Step(
            merchant_id=command.merchant_id,
            op_id=command.op_id,
            activity_id=command.activity_id,
            kind="ALLOCATE",
            quantity=command.quantity,
        )
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
        is_new = await self._is_new(tx, step)  # under the lock: two calls with one id meet there
        if held is None or held.sku_id != command.sku_id:
            raise AllocationMismatch(
                f"activity {command.activity_id} is of another product", op_id=command.op_id
            )
        if not is_new:
            return held.allocated
        shelf = await catalog.lock_stock(tx, merchant_id=command.merchant_id, sku_id=command.sku_id)
        if shelf.available < command.quantity:
            raise out_of_stock(command.sku_id, shelf.available)
        after = replace(held, allocated=held.allocated + command.quantity)
        await allocations.save_allocation(tx, after, at=now)
        await allocations.insert_step(tx, step, at=now)
        await catalog.move_stock(
            tx,
            _movement(
                product,
                MovementKind.ALLOCATE,
                quantity=-command.quantity,
                available_after=shelf.available - command.quantity,
                caller=caller,
                step=step,
                at=now,
            ),
            trace_id=current_trace_id(),
        )
        return after.allocated

    async def _give_back(self, tx: AsyncConnection, command: GiveBack, caller: Caller) -> int:
        now = self._clock.now()
        step = Step(
            merchant_id=command.merchant_id,
            op_id=command.op_id,
            activity_id=command.activity_id,
            kind="RETURN",
            quantity=command.quantity,
        )
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
        shelf = await catalog.lock_stock(tx, merchant_id=command.merchant_id, sku_id=held.sku_id)
        after = replace(held, returned=held.returned + command.quantity)
        await allocations.save_allocation(tx, after, at=now)
        await allocations.insert_step(tx, step, at=now)
        if command.quantity:
            await catalog.move_stock(
                tx,
                _movement(
                    product,
                    MovementKind.RETURN_ALLOCATION,
                    quantity=command.quantity,
                    available_after=shelf.available + command.quantity,
                    caller=caller,
                    step=step,
                    at=now,
                ),
                trace_id=current_trace_id(),
            )
        return after.returned

    @staticmethod
    async def _is_new(tx: AsyncConnection, step: Step) -> bool:
        earlier = await allocations.find_step(tx, merchant_id=step.merchant_id, op_id=step.op_id)
        if earlier is not None and earlier != step:
            raise AllocationMismatch(f"{step.op_id} was another step", op_id=step.op_id)
        return earlier is None

    async def _create_orders(
        self, tx: AsyncConnection, wanted: Sequence[SeckillOrder], caller: Caller
    ) -> list[str]:
        now = self._clock.now()
        answers: list[str] = []
        new: dict[tuple[str, str], Order] = {}
        products = await _products(tx, wanted)
        there = await _existing(tx, wanted)
        for each in wanted:
            key = (each.merchant_id, each.order_id)
            owner = there.get(key, new[key].user_id if key in new else None)
            try:
                if owner is None:
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
            await self._write(tx, list(new.values()), caller, now)
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

    async def _write(
        self, tx: AsyncConnection, new: Sequence[Order], caller: Caller, now: datetime
    ) -> None:
        await orders.insert_orders(tx, *new)
        told = [
            step
            for order in new
            for step in self._orders.birth(
                order, operator=operator(caller), trace_id=current_trace_id()
            )
        ]
        await audit.append_audits(tx, [(order, row) for order, row, _ in told], at=now)
        await outbox.put(tx, *(message for _, _, message in told))
        await statistics.add(tx, [each for order in new for each in figures_of_birth(order)])


async def _products(
    tx: AsyncConnection, wanted: Sequence[SeckillOrder]
) -> Mapping[tuple[str, str], Product]:
    found = {}
    for merchant_id in sorted({each.merchant_id for each in wanted}):
        sku_ids = {each.sku_id for each in wanted if each.merchant_id == merchant_id}
        for sku_id, product in (
            await catalog.find_products(tx, merchant_id=merchant_id, sku_ids=sku_ids)
        ).items():
            found[merchant_id, sku_id] = product
    return found


async def _existing(
    tx: AsyncConnection, wanted: Sequence[SeckillOrder]
) -> Mapping[tuple[str, str], str]:
    found = {}
    for merchant_id in sorted({each.merchant_id for each in wanted}):
        order_ids = [each.order_id for each in wanted if each.merchant_id == merchant_id]
        for order_id, user_id in (
            await orders.existing(tx, merchant_id=merchant_id, order_ids=order_ids)
        ).items():
            found[merchant_id, order_id] = user_id
    return found


def _movement(
    product: Product,
    kind: MovementKind,
    *,
    quantity: int,
    available_after: int,
    caller: Caller,
    step: Step,
    at: datetime,
) -> Movement:
    return Movement(
        movement_id=0,
        merchant_id=product.merchant_id,
        sku_id=product.sku_id,
        kind=kind,
        quantity=quantity,
        available_after=available_after,
        reason=step.op_id,
        operator=operator(caller),
        reference=step.activity_id,
        created_at=at,
    )
