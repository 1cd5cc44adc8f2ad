"""The address, shipment and history of an order."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.call import Caller
from mesh.clock import Clock
from mesh.db import Database
from mesh.errors import RemoteError
from mesh.failpoints import failpoint
from mesh.paging import Key, PageTokens
from order_rpc.domain.address import Address
from order_rpc.domain.errors import (
    CaptureFirst,
    CaptureInProgress,
    CaptureRefused,
    FullRefundOpen,
)
from order_rpc.domain.order import Order, OrderState, Verb
from order_rpc.domain.payment import PaymentSnapshot
from order_rpc.domain.refund_plan import is_full_refund_open, sale_refunds
from order_rpc.store import audit, orders, refunds
from order_rpc.store.audit import PastStep
from order_rpc.usecases.apply_payment import AppliedPayment, PaymentApplier
from order_rpc.usecases.events import order_completed, order_shipped
from order_rpc.usecases.journal import Cause, Journal
from order_rpc.usecases.merchant_terms import TermsOfMerchants
from order_rpc.usecases.outbox_to_payment import PAYMENT_RPC, PaymentService

CAPTURE_UNDER_WAY = "PAYMENT_IN_PROGRESS"  # payment_rpc's reason for a second capture
RETRY_SECONDS = 2.0


class Shipments:
    """SetShippingAddress, ShipOrder, CompleteOrder, GetOrderTimeline."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        journal: Journal,
        page_tokens: PageTokens,
        service: PaymentService,
        applier: PaymentApplier,
        terms: TermsOfMerchants,
    ) -> None:
        self._db = db
        self._clock = clock
        self._journal = journal
        self._page_tokens = page_tokens
        self._service = service
        self._applier = applier
        self._terms = terms

    async def set_shipping_address(
        self, *, merchant_id: str, order_id: str, address: Address, caller: Caller
    ) -> Order:
        """Sets where an order goes, before it is paid.

        Raises:
            OrderNotFound: there is none, or it is somebody else's. OrderStateInvalid: it does not
                wait for money any more.
        """
        return await self._db.run(
            self._set_shipping_address, merchant_id, order_id, address, caller
        )

    async def ship(
        self, *, merchant_id: str, order_id: str, carrier: str, tracking_number: str, caller: Caller
    ) -> Order:
        """Marks a paid order as handed to a carrier; the same parcel again changes nothing. Held
        money is captured before, where its merchant wants that.

        Raises:
            OrderNotFound: there is none in the caller's shop. OrderStateInvalid: it is not paid, or
                went with another parcel.
            FullRefundOpen: everything it cost is being refunded.
            CaptureFirst: its money is held, and the merchant captures it before it ships.
            CaptureInProgress, CaptureRefused: its money is not here, and nothing is shipped.
        """
        parcel = (carrier, tracking_number)
        order, _ = await self._db.run(self._ship, merchant_id, order_id, parcel, caller)
        if order.held is not None:
            captured = await self._capture(order, order.held.payment_id)
            failpoint("order.ship.after_capture")
            order, applied = await self._db.run(
                self._ship, merchant_id, order_id, parcel, caller, captured=captured
            )
            if applied is not None:
                applied.log_alerts(captured.payment_id)
        failpoint("order.ship.after_commit")
        return order

    async def complete(self, *, merchant_id: str, order_id: str, caller: Caller) -> Order:
        """Marks an order as arrived; a repetition changes nothing.

        Raises:
            OrderNotFound: there is none, or it is somebody else's. OrderStateInvalid: it is not on
                its way.
        """
        return await self._db.run(self._complete, merchant_id, order_id, caller)

    async def get_timeline(
        self,
        *,
        merchant_id: str,
        order_id: str,
        requested_size: int,
        page_token: str,
        caller: Caller,
    ) -> tuple[tuple[PastStep, ...], str]:
        """One page of what happened to an order, oldest first, and the token of the next one.

        Raises:
            OrderNotFound, PageTokenInvalid.
        """

        async def load(tx: AsyncConnection, after: int, limit: int) -> list[PastStep]:
            order = await orders.load_order(
                tx, merchant_id=merchant_id, order_id=order_id, visible_to=caller
            )
            return await audit.history(tx, order, after=after, limit=limit)

        async def read(after: tuple[Key, ...] | None, limit: int) -> list[PastStep]:
            return await self._db.read(load, int(after[0]) if after else 0, limit)

        return await self._page_tokens.page(
            read,
            list_name="GetOrderTimeline",
            filter={"merchant_id": merchant_id, "order_id": order_id},
            types=(int,),
            size=requested_size,
            token=page_token,
            key=lambda step: (step.step_id,),
        )

    async def _set_shipping_address(
        self, tx: AsyncConnection, merchant_id: str, order_id: str, address: Address, caller: Caller
    ) -> Order:
        now = self._clock.now()
        order = await orders.load_order(
            tx, merchant_id=merchant_id, order_id=order_id, visible_to=caller, for_update=True
        )
        after = order.send_to(address, at=now)
        if after is not order:
            await self._journal.step(
                tx,
                order,
                after,
                event="SET_SHIPPING_ADDRESS",
                cause=self._journal.cause(caller),
                at=now,
            )
        return after

    async def _capture(self, order: Order, payment_id: str) -> PaymentSnapshot:
        """The payment after its whole hold was captured. The key is bound to the payment: a
        repetition of any ShipOrder, also after a crash, captures once.
        """
        if not (await self._terms.of(order.merchant_id)).policy.ships_on_authorized:
            raise CaptureFirst(payment_id=payment_id)
        try:
            payment = await self._service.capture_payment(
                payment_id=payment_id, key=f"ship:{payment_id}"
            )
        except RemoteError as error:
            if error.is_definite and error.reason != CAPTURE_UNDER_WAY:
                raise CaptureRefused(payment_id=payment_id, refusal=error.reason) from error
            raise _in_progress(payment_id) from error
        if not payment.has_money:
            raise _in_progress(payment_id)
        return payment

    async def _ship(
        self,
        tx: AsyncConnection,
        merchant_id: str,
        order_id: str,
        parcel: tuple[str, str],
        caller: Caller,
        *,
        captured: PaymentSnapshot | None = None,
    ) -> tuple[Order, AppliedPayment | None]:
        """Ships an order, after what was captured for it has paid it. One whose money is held and
        was not captured is returned as it is.
        """
        carrier, tracking_number = parcel
        now = self._clock.now()
        order = await orders.load_order(
            tx, merchant_id=merchant_id, order_id=order_id, visible_to=caller, for_update=True
        )
        if order.state is OrderState.SHIPPED and (order.carrier, order.tracking_number) == parcel:
            return order, None
        applied: AppliedPayment | None = None
        if captured is not None:
            cause = Cause(event_id=self._journal.cause(caller).event_id, operator=PAYMENT_RPC)
            applied = await self._applier.apply(tx, order, captured, cause=cause, at=now)
            order = applied.order
        elif order.state is OrderState.PENDING_PAYMENT and order.held is not None:
            return order, None
        shipped = order.ship(carrier=carrier, tracking_number=tracking_number, at=now)
        of_sale = sale_refunds(order, await refunds.refunds_of(tx, order))
        if is_full_refund_open(order, of_sale):
            raise FullRefundOpen
        await self._journal.step(
            tx,
            order,
            shipped,
            event=Verb.SHIP,
            cause=self._journal.cause(caller),
            at=now,
            remark=f"{carrier} {tracking_number}",
            make_event=order_shipped,
        )
        failpoint("order.ship.before_commit")
        return shipped, applied

    async def _complete(
        self, tx: AsyncConnection, merchant_id: str, order_id: str, caller: Caller
    ) -> Order:
        now = self._clock.now()
        order = await orders.load_order(
            tx, merchant_id=merchant_id, order_id=order_id, visible_to=caller, for_update=True
        )
        if order.state is OrderState.COMPLETED:
            return order
        completed = order.complete(at=now)
        await self._journal.step(
            tx,
            order,
            completed,
            event=Verb.COMPLETE,
            cause=self._journal.cause(caller),
            at=now,
            make_event=order_completed,
        )
        return completed


def _in_progress(payment_id: str) -> CaptureInProgress:
    return CaptureInProgress(payment_id=payment_id, retry_after_seconds=RETRY_SECONDS)
