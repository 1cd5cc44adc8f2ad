"""Orders of buyers. Creating one reserves its units in the same transaction, at the prices that the
catalogue has in that moment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from mesh import idempotency
from mesh.batching import Batching
from mesh.call import Caller, Role, current_trace_id, mark_replayed
from mesh.clock import Clock
from mesh.customers import email_digest
from mesh.db import Database
from mesh.errors import IdempotencyKeyReused, MeshError, PermissionDenied, RemoteError
from mesh.failpoints import failpoint
from mesh.idempotency import IdempotencyKey
from mesh.ids import Ids
from mesh.paging import Key, PageTokens
from order_rpc.domain.address import Address
from order_rpc.domain.errors import OrderCreating, OrderNotFound
from order_rpc.domain.merchant_terms import MerchantTerms
from order_rpc.domain.order import Order, OrderState
from order_rpc.domain.order_line import NewLine, price_lines
from order_rpc.domain.product import Product
from order_rpc.store import catalog, order_pages, orders, stock
from order_rpc.store.order_pages import OrderPage
from order_rpc.usecases.first_answers import CREATE_ORDER, answer_of, as_answered
from order_rpc.usecases.journal import Journal, NewOrder, operator
from order_rpc.usecases.merchant_terms import TermsOfMerchants
from order_rpc.usecases.outbox_to_seckill import SeckillService

# A batch of a flash sale arrives within milliseconds, unless a service is away.
CREATING_SECONDS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateOrder:
    """An order that a buyer wants. `user_id` and `merchant_id` were checked against the caller."""

    merchant_id: str
    user_id: str
    items: tuple[NewLine, ...]
    idempotency_key: str  # "" leaves it to the client_request_id
    fingerprint: Mapping[str, str]
    client_request_id: str = ""  # with neither every call makes a new order
    address: Address | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ListOrders:
    """Which orders to show: those of a merchant, newest first."""

    merchant_id: str
    user_id: str  # "" shows those of every buyer
    state: OrderState | None  # None shows every state
    page_size: int  # 0 means the default
    page_token: str  # "" means the first page
    created_from: datetime | None = None
    created_before: datetime | None = None
    order_no: str = ""  # "" does not look for a number of the merchant
    customer_email: str = field(default="", repr=False)  # "" shows those of every customer


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """A command and the call that brought it."""

    command: CreateOrder
    caller: Caller
    trace_id: str
    terms: MerchantTerms

    @property
    def key(self) -> IdempotencyKey:
        return IdempotencyKey(
            merchant_id=self.command.merchant_id,
            caller=self.caller.key,
            method=CREATE_ORDER,
            key=self.command.idempotency_key,
        )


_Placed = tuple[Order, bool]  # True: it is the answer to an earlier call


class Orders:
    """CreateOrder, GetOrder, ListOrders."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        ids: Ids,
        journal: Journal,
        page_tokens: PageTokens,
        terms: TermsOfMerchants,
        group_max: int,
        seckill: SeckillService,
    ) -> None:
        """`group_max`: how many orders of one product share a transaction, 1 for none."""
        self._db = db
        self._seckill = seckill
        self._page_tokens = page_tokens
        self._clock = clock
        self._ids = ids
        self._journal = journal
        self._terms = terms
        self._batching: Batching[tuple[str, str], _Request, _Placed] = Batching(
            self._create_group, batch_max=group_max
        )

    async def create(self, command: CreateOrder, caller: Caller) -> Order:
        """Makes an order and reserves its units; with an idempotency key at most once, later calls
        get the first answer. The same client_request_id finds the order that is there, as it is
        now.

        Raises:
            ProductNotFound, ProductNotOnSale, CurrencyMixed, PriceChanged, OutOfStock,
                TotalTooLarge, IdempotencyKeyReused, MerchantSuspended, MerchantNotLive: nothing
                was done.
        """
        request = _Request(
            command=command,
            caller=caller,
            trace_id=current_trace_id(),
            terms=await self._terms.of(command.merchant_id),
        )
        if self._batching.batch_max > 1 and len(command.items) == 1:
            identity = f"{command.user_id}/{command.idempotency_key}/{command.client_request_id}"
            is_repeatable = bool(command.idempotency_key or command.client_request_id)
            key = (command.merchant_id, command.items[0].sku_id)
            order, is_replay = await self._batching.do(
                key, request, exclusive_key=identity if is_repeatable else ""
            )
        else:
            order, is_replay = await self._create_alone(request)
        failpoint("order.create.after_commit")
        if is_replay:
            mark_replayed()
        return order

    async def get(
        self, *, merchant_id: str, order_id: str, caller: Caller, seckill_ticket: str = ""
    ) -> Order:
        """One order.

        Raises:
            OrderNotFound: there is none, or it is not the caller's. OrderCreating: the ticket is of
                this order, which seckill_rpc has not sent yet.
            RemoteError: whether the ticket is good is unknown.
        """
        try:
            return await self._db.read(
                orders.load_order, merchant_id=merchant_id, order_id=order_id, visible_to=caller
            )
        except OrderNotFound:
            if seckill_ticket and await self._is_coming(
                seckill_ticket, merchant_id=merchant_id, order_id=order_id, caller=caller
            ):
                raise OrderCreating(retry_after_seconds=CREATING_SECONDS) from None
            raise

    async def _is_coming(
        self, ticket: str, *, merchant_id: str, order_id: str, caller: Caller
    ) -> bool:
        try:
            expected = await self._seckill.ticket_order(ticket)
        except RemoteError as error:
            if error.is_definite:  # seckill_rpc did not issue this ticket
                return False
            raise
        scope = caller.scope()
        return (
            expected.is_coming
            and (expected.merchant_id, expected.order_id) == (merchant_id, order_id)
            and scope.merchant_id in {None, expected.merchant_id}
            and scope.user_id in {None, expected.user_id}
        )

    async def list(self, query: ListOrders, caller: Caller) -> tuple[tuple[Order, ...], str]:
        """One page of orders and the token of the next one, "" after the last. Orders that are not
        the caller's are not in it.

        Raises:
            PageTokenInvalid: the token was not made by us, or for another list or filter.
            PermissionDenied: a buyer looks for customers of the merchant.
        """
        if query.customer_email and caller.role is Role.USER:
            raise PermissionDenied(fields={"customer_email": "only a merchant may send it"})
        digest = email_digest(query.merchant_id, query.customer_email)
        selection = {
            "merchant_id": query.merchant_id,
            "user_id": query.user_id,
            "state": query.state or "",
            "created_from": _text(query.created_from),
            "created_before": _text(query.created_before),
            # a token of before is good for a list without them
            **({"order_no": query.order_no} if query.order_no else {}),
            **({"customer": digest} if digest else {}),
        }

        async def read(after: tuple[Key, ...] | None, limit: int) -> Sequence[Order]:
            page = OrderPage(
                merchant_id=query.merchant_id,
                user_id=query.user_id,
                state=query.state,
                limit=limit,
                created_from=query.created_from,
                created_before=query.created_before,
                order_no=query.order_no,
                customer_digest=digest,
                after=None
                if after is None
                else (datetime.fromtimestamp(int(after[0]) / 1000, UTC), str(after[1])),
            )
            return await self._db.read(order_pages.list_orders, page, visible_to=caller)

        return await self._page_tokens.page(
            read,
            list_name="ListOrders",
            filter=selection,
            types=(int, str),
            size=query.page_size,
            token=query.page_token,
            key=lambda order: (round(order.created_at.timestamp() * 1000), order.order_id),
        )

    async def _create_alone(self, request: _Request) -> _Placed:
        [result] = await self._create_group([request])
        if isinstance(result, MeshError):
            raise result
        return result

    async def _create_group(self, requests: Sequence[_Request]) -> Sequence[_Placed | MeshError]:
        return await self._db.run(self._create, requests)

    async def _create(
        self, tx: AsyncConnection, requests: Sequence[_Request]
    ) -> Sequence[_Placed | MeshError]:
        """Creates orders that share a transaction. One that is refused before anything is written
        does not stop the others; too few units refuse all of them.

        Raises:
            OutOfStock: fewer units are left than all of them want.
        """
        now = self._clock.now()
        results: list[_Placed | MeshError] = []
        placed: list[tuple[_Request, Order]] = []
        for request in requests:
            try:
                order, is_replay = await self._place(tx, request, now)
            except MeshError as refusal:
                results.append(refusal)
            else:
                results.append((order, is_replay))
                if not is_replay:
                    placed.append((request, order))
        if placed:
            await self._write(tx, placed, now)
        failpoint("order.create.before_commit")
        return results

    async def _place(self, tx: AsyncConnection, request: _Request, now: datetime) -> _Placed:
        command = request.command
        # Before the idempotency record: what another call with this key changed in the products is
        # never seen without its record.
        products = await self._products(tx, command)
        record = (
            await idempotency.find(tx, request.key, fingerprint=command.fingerprint)
            if command.idempotency_key
            else None
        )
        if record is not None:
            order = await orders.load_order(
                tx,
                merchant_id=command.merchant_id,
                order_id=record.resource_id,
                visible_to=request.caller,
            )
            return as_answered(order, record.answer or "{}"), True
        if command.client_request_id:
            earlier = await orders.find_by_request(
                tx,
                merchant_id=command.merchant_id,
                user_id=command.user_id,
                client_request_id=command.client_request_id,
            )
            if earlier is not None:
                _require_same(earlier, command)
                return earlier, True
        request.terms.require_open()
        order = Order.place(
            merchant_id=command.merchant_id,
            order_id=self._ids.new("ORD"),
            user_id=command.user_id,
            lines=price_lines(command.items, products),
            at=now,
            expires_at=now + request.terms.payment_window,
            policy=request.terms.policy,
            address=command.address,
            client_request_id=command.client_request_id,
        )
        return order if order.amount.minor else order.pay(payment_id="", at=now), False

    @staticmethod
    async def _products(tx: AsyncConnection, command: CreateOrder) -> dict[str, Product]:
        return await catalog.find_products(
            tx, merchant_id=command.merchant_id, sku_ids={item.sku_id for item in command.items}
        )

    async def _write(
        self, tx: AsyncConnection, placed: Sequence[tuple[_Request, Order]], now: datetime
    ) -> None:
        for request, order in placed:
            if request.key.key:
                await idempotency.claim(
                    tx,
                    request.key,
                    fingerprint=request.command.fingerprint,
                    resource_id=order.order_id,
                    now=now,
                    retention=idempotency.OTHER_RETENTION,
                    answer=answer_of(order),
                )
        new = [
            NewOrder(order=order, operator=operator(request.caller), trace_id=request.trace_id)
            for request, order in placed
        ]
        await self._journal.create(tx, new, at=now)
        # Last: other buyers of the product wait for this lock until the commit.
        for is_paid in (False, True):
            same = [order for _, order in placed if (order.state is OrderState.PAID) is is_paid]
            if same:
                await stock.reserve(tx, *same)


def _require_same(order: Order, command: CreateOrder) -> None:
    wanted: dict[str, int] = {}
    for item in command.items:
        wanted[item.sku_id] = wanted.get(item.sku_id, 0) + item.quantity
    if wanted != {line.sku_id: line.quantity for line in order.lines}:
        problem = "differs from the order with this client_request_id"
        raise IdempotencyKeyReused(
            "The client_request_id was used for another order.", fields={"items": problem}
        )


def _text(moment: datetime | None) -> str:
    return "" if moment is None else moment.isoformat()
