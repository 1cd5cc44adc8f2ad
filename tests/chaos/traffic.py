"""Buyers and clerks under faults. They repeat what was not answered, with the same key, go away in
the middle of calls, and write down every answer.

What an answer promises is kept in `Promises` and asked for again when everything is well.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

import httpx

from tests.chaos.mesh import ChaosMesh, until
from tests.conftest import PROOF
from tests.e2e.mesh_processes import DECLINED_CARD, GOOD_CARD, card

# at once; other tests run beside `make test`
BUYERS, CLERKS, CLICKERS = (5, 1, 2) if PROOF else (2, 1, 1)
USERS = 40
PATIENCE_SECONDS = 90.0
# of a walk-in; twice in each quiet. A regular's charge may stay under way for longer than that: its
# attempt's lease ends first.
SHORT_PATIENCE_SECONDS = 2.5
CASHIER_SECONDS = 30.0
CALL_SECONDS = 25.0
GONE_SHARE = 0.12  # calls whose caller goes away before the answer
REPEAT_SHARE = 0.3  # final answers that are asked for once more, with the same key
AGAIN = frozenset({0, 202, 408, 425, 429, 500, 502, 503, 504})
NOT_YET_REASONS = frozenset(
    {"IDEMPOTENCY_KEY_IN_USE", "PAYMENT_IN_PROGRESS", "CONFLICT", "ORDER_CREATING"}
)
PRICE = "100.00"


@dataclass(frozen=True, slots=True)
class Heard:
    """One answer; status 0 for none."""

    at: float
    operation: str
    status: int
    reason: str
    text: str


@dataclass
class Promises:
    """What answers have promised."""

    orders: dict[str, str] = field(default_factory=dict)  # order id -> buyer
    # order id -> payment id that was answered as SUCCESS
    paid: dict[str, str] = field(default_factory=dict)
    refunds: dict[str, str] = field(default_factory=dict)  # key -> refund id
    # ticket -> buyer, SKU, order id when it was won
    tickets: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)


class Traffic:
    """Everybody. `chance` decides who does what; the order in which calls end is the machine's."""

    def __init__(self, mesh: ChaosMesh, chance: random.Random) -> None:
        self._mesh = mesh
        self._chance = chance
        self._run = uuid.uuid4().hex[:8]
        self._numbers = itertools.count(1)
        self._ends = False
        self._tasks: list[asyncio.Task[None]] = []
        self._tokens: dict[str, str] = {}
        self._client = httpx.AsyncClient(
            base_url=mesh.gateway_url,
            timeout=20,
            trust_env=False,
            limits=httpx.Limits(max_connections=64),
        )
        self._sku_id = self._sale_sku_id = ""
        self._at_cashier: dict[str, str] = {}  # order id -> its buyer
        self.heard: list[Heard] = []
        self.promises = Promises()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Everybody comes; at the end of the block nobody begins anything new, and what was begun
        ends.
        """
        await self._prepare()
        self._tasks = [
            asyncio.create_task(self._repeat(work))
            for work, count in (
                (self._purchase, BUYERS),
                (self._walk_in, 1),
                (self._serve, CLERKS),
                (self._click, CLICKERS),
            )
            for _ in range(count)
        ]
        try:
            yield
        finally:
            self._ends = True
            done = await asyncio.gather(*self._tasks, return_exceptions=True)
            self.promises.broken += [
                f"a buyer's program ended with {end!r}"
                for end in done
                if isinstance(end, BaseException)
            ]

    async def close(self) -> None:
        await self._client.aclose()

    def since(self, moment: float) -> Counter[str]:
        """Successes per operation from a moment on."""
        return Counter(
            heard.operation
            for heard in self.heard
            if heard.at >= moment and 200 <= heard.status < 300
        )

    async def check(self) -> list[str]:
        """What was promised and is not so. Everything must be well and at rest."""
        found = list(self.promises.broken)
        found += self._kept_twice()
        for order_id, buyer in self.promises.orders.items():
            answer = await self._send("read", "GET", f"/api/v1/orders/{order_id}", buyer)
            if answer.status_code != 200:
                found.append(
                    f"order {order_id} was promised; now {answer.status_code} {answer.text[:200]}"
                )
        for order_id, payment_id in self.promises.paid.items():
            answer = await self._send(
                "read", "GET", f"/api/v1/payments/{payment_id}", self.promises.orders[order_id]
            )
            state = _data(answer).get("state")
            if state not in {"SUCCESS", "LATE_SUCCESS", "LATE_REFUNDED"}:
                found.append(
                    f"payment {payment_id} was answered as SUCCESS; now {answer.status_code} "
                    f"{state}"
                )
        for ticket, (buyer, sku_id, order_id) in self.promises.tickets.items():
            result = _data(await self._ask_result(buyer, sku_id, ticket))
            if result.get("status") == 0:
                found.append(f"{buyer} has waited at 0 to the end")
            if order_id and result.get("order_id") != order_id:
                found.append(f"{buyer} was told order {order_id}; now {result}")
        return found

    async def pay_at_open_cashiers(self) -> list[str]:
        """Buyers return to the cashiers that they left while something was away, and pay; whose
        payment stays open is a problem.
        """
        found = []
        for order_id, buyer in self._at_cashier.items():
            try:
                await until(
                    partial(self._is_paid_at_cashier, order_id, buyer),
                    order_id,
                    seconds=CASHIER_SECONDS,
                )
            except AssertionError:
                found.append(
                    f"order {order_id} cannot be paid at its cashier within {CASHIER_SECONDS:.0f} s"
                )
        return found

    async def _is_paid_at_cashier(self, order_id: str, buyer: str) -> bool:
        answer = await self._send("read", "GET", f"/api/v1/payments/order/{order_id}", buyer)
        if answer.status_code == 404:
            return True  # no call reached us
        payment = _data(answer)
        if answer.status_code == 200 and payment["state"] != "PAYING":
            return True
        await self._press(payment)
        return False

    async def tickets_final(self) -> bool:
        """True when nobody is in the queue any more."""
        for ticket, (buyer, sku_id, _) in self.promises.tickets.items():
            answer = await self._ask_result(buyer, sku_id, ticket)
            if answer.status_code != 200 or _data(answer).get("status") == 0:
                return False
        return True

    def _kept_twice(self) -> list[str]:
        """Orders for which the channel holds more money than one capture, after what it gave
        back.
        """
        order_of = self._mesh.orders_of_attempts()
        captures: defaultdict[str, list[Decimal]] = defaultdict(list)
        given_back: Counter[str] = Counter()
        for each in self._mesh.books.transactions():
            order_id = order_of.get(each["attempt_id"], "")
            if each["status"] == "CAPTURED" and order_id:
                captures[order_id].append(Decimal(each["amount"]))
                given_back[order_id] += sum(
                    int(Decimal(refund["amount"]) * 100)
                    for refund in self._mesh.books.refunds(each["attempt_id"])
                    if refund["status"] == "SUCCESS"
                )
        return [
            f"order {order_id}: captured {list(map(str, amounts))}, given back only "
            f"{given_back[order_id] / 100:.2f}"
            for order_id, amounts in captures.items()
            if sum(amounts) - Decimal(given_back[order_id]) / 100 > max(amounts)
        ]

    # --- what people do ---------------------------------------------------------------------------

    async def _prepare(self) -> None:
        merchant = "clerk"
        self._sku_id, self._sale_sku_id = f"MUG-{self._run}", f"SALE-{self._run}"
        for sku_id in (self._sku_id, self._sale_sku_id):
            await until(partial(self._creates, sku_id), f"product {sku_id}")
        activity = await self._final(
            "sale",
            "POST",
            "/api/v1/seckill/activities",
            merchant,
            {
                "sku_id": self._sale_sku_id,
                "price": PRICE,
                "total": 100_000,
                "limit_per_user": 1,
                "ends_at": _in_hours(10),
            },
        )
        assert activity is not None, "the flash sale was not made in time"
        path = f"/api/v1/seckill/activities/{_data(activity)['activity_id']}"
        await self._final("sale", "POST", f"{path}/publish", merchant, {})

        async def is_open() -> bool:
            return _data(await self._send("sale", "GET", path, merchant)).get("state") == "OPEN"

        await until(is_open, "flash sale that is open")

    async def _creates(self, sku_id: str) -> bool:
        answer = await self._send(
            "product",
            "POST",
            "/api/v1/products",
            "clerk",
            {"sku_id": sku_id, "name": "A mug", "price": PRICE, "available": 1_000_000},
        )
        return answer.status_code in {201, 409}

    async def _repeat(self, work: Any) -> None:
        while not self._ends:
            await work()
            await asyncio.sleep(self._chance.uniform(0.05, 0.4))

    async def _purchase(self) -> None:
        buyer = f"buyer-{self._chance.randrange(USERS)}"
        answer = await self._final(
            "order",
            "POST",
            "/api/v1/orders",
            buyer,
            {"items": [{"sku_id": self._sku_id, "quantity": self._chance.randint(1, 3)}]},
            keyed=True,
        )
        if answer is None or answer.status_code != 201:
            return
        order = _data(answer)
        self.promises.orders[order["order_id"]] = buyer
        match self._chance.choices(
            ("card", "declined", "cashier", "cancel", "race"), (60, 8, 10, 8, 14)
        )[0]:
            case "card":
                await self._charge(buyer, order)
            case "declined":
                await self._charge(buyer, order, number=DECLINED_CARD)
            case "cashier":
                await self._pay_at_cashier(buyer, order)
            case "cancel":
                await self._cancel(buyer, order)
            case _:
                await asyncio.gather(
                    self._charge(buyer, order),
                    self._charge(buyer, order),
                    self._cancel(buyer, order),
                )
        await self._final("read", "GET", f"/api/v1/orders/{order['order_id']}", buyer)

    async def _walk_in(self) -> None:
        """Somebody orders and pays, or soon gives up for another one: in each quiet there is one
        who begins, whatever the regulars are held up by.
        """
        buyer = f"walk-in-{self._chance.randrange(USERS)}"
        answer = await self._final(
            "order",
            "POST",
            "/api/v1/orders",
            buyer,
            {"items": [{"sku_id": self._sku_id, "quantity": 1}]},
            keyed=True,
            patience_seconds=SHORT_PATIENCE_SECONDS,
        )
        if answer is not None and answer.status_code == 201:
            order = _data(answer)
            self.promises.orders[order["order_id"]] = buyer
            await self._charge(buyer, order, patience_seconds=SHORT_PATIENCE_SECONDS)

    async def _charge(
        self,
        buyer: str,
        order: Mapping[str, Any],
        *,
        number: str = GOOD_CARD,
        ticket: str = "",
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        answer = await self._final(
            "charge",
            "POST",
            "/api/v1/payments/charge",
            buyer,
            {"order_id": order["order_id"], "amount": order["amount"], "credit_card": card(number)},
            keyed=True,
            ticket=ticket,
            patience_seconds=patience_seconds,
        )
        if (
            answer is not None
            and answer.status_code == 200
            and _data(answer)["payment"]["state"] == "SUCCESS"
        ):
            self.promises.orders[order["order_id"]] = buyer
            self.promises.paid[order["order_id"]] = _data(answer)["transaction_id"]

    async def _pay_at_cashier(self, buyer: str, order: Mapping[str, Any]) -> None:
        self._at_cashier[order["order_id"]] = buyer
        answer = await self._final(
            "cashier",
            "POST",
            "/api/v1/payments",
            buyer,
            {"order_id": order["order_id"]},
            keyed=True,
        )
        if answer is not None:
            await self._press(_data(answer))

    async def _press(self, payment: Mapping[str, Any]) -> None:
        # none: the call that opened the cashier died, and its answer is not known yet
        action = payment.get("next_action") or {}
        if action.get("value"):
            with contextlib.suppress(httpx.HTTPError):  # the page is away: the payment stays open
                await self._client.post(f"{action['value']}/pay", timeout=5)

    async def _cancel(self, buyer: str, order: Mapping[str, Any]) -> None:
        await self._final("cancel", "POST", f"/api/v1/orders/{order['order_id']}/cancel", buyer, {})

    async def _serve(self) -> None:
        """A clerk gives a part of some payment back."""
        await asyncio.sleep(0.5)
        if not self.promises.paid:
            return
        payment_id = self._chance.choice(list(self.promises.paid.values()))
        key = self._key()
        answer = await self._final(
            "refund",
            "POST",
            f"/api/v1/payments/{payment_id}/refunds",
            "clerk",
            {"amount": "1.00"},
            key=key,
        )
        if answer is not None and answer.status_code in {200, 201}:
            self.promises.refunds[key] = _data(answer)["refund_id"]

    async def _click(self) -> None:
        """A buyer whom nobody has seen clicks once, and pays what was won."""
        buyer = f"clicker-{self._run}-{next(self._numbers)}"
        body = {"sku_id": self._sale_sku_id, "request_id": "1", "wait_ms": 300}
        answer = await self._final("click", "POST", "/api/v1/seckill/action", buyer, body)
        result = {} if answer is None else _data(answer)
        ticket = str(result.get("ticket") or "")
        if not ticket:
            return
        self.promises.tickets[ticket] = (buyer, self._sale_sku_id, "")
        for _ in range(100):
            if self._ends or result.get("status") != 0:
                break
            await asyncio.sleep(0.5)
            result = _data(await self._ask_result(buyer, self._sale_sku_id, ticket)) or result
        if result.get("status") == 1:
            self.promises.tickets[ticket] = (buyer, self._sale_sku_id, str(result["order_id"]))
            await self._charge(
                buyer, {"order_id": result["order_id"], "amount": PRICE}, ticket=ticket
            )
        await asyncio.sleep(1.0)

    async def _ask_result(self, buyer: str, sku_id: str, ticket: str) -> httpx.Response:
        return await self._send(
            "result",
            "GET",
            "/api/v1/seckill/result",
            buyer,
            params={"sku_id": sku_id},
            ticket=ticket,
        )

    # --- calls ------------------------------------------------------------------------------------

    async def _final(
        self,
        operation: str,
        method: str,
        path: str,
        person: str,
        body: Any = None,
        *,
        keyed: bool = False,
        key: str = "",
        ticket: str = "",
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> httpx.Response | None:
        """Repeats a call under one key until its answer is final; None when the time is over."""
        key = self._key() if keyed else key
        loop = asyncio.get_running_loop()
        end = loop.time() + patience_seconds
        while loop.time() < end:
            answer = await self._send(
                operation,
                method,
                path,
                person,
                body,
                key=key,
                ticket=ticket,
                may_go=not self._ends,
                patience_seconds=patience_seconds,
            )
            if _is_final(answer):
                if key and self._chance.random() < REPEAT_SHARE:
                    await self._compare(
                        answer,
                        await self._send(
                            operation, method, path, person, body, key=key, ticket=ticket
                        ),
                    )
                if answer.status_code in {400, 403, 405, 413, 415, 422}:
                    self.promises.broken.append(
                        f"{operation} {path}: {answer.status_code} {answer.text[:300]}"
                    )
                return answer
            await asyncio.sleep(self._chance.uniform(0.1, 0.6))
        return None

    async def _compare(self, first: httpx.Response, second: httpx.Response) -> None:
        """The same key gives the same object."""
        if not _is_final(second):
            return
        names = ("order_id", "payment_id", "transaction_id", "refund_id")
        ours, theirs = (
            {name: _data(answer).get(name) for name in names} for answer in (first, second)
        )
        if ours != theirs or first.is_success != second.is_success:
            self.promises.broken.append(
                f"one key, two answers: {first.status_code} {ours} and {second.status_code} "
                f"{theirs}"
            )

    async def _send(
        self,
        operation: str,
        method: str,
        path: str,
        person: str,
        body: Any = None,
        *,
        key: str = "",
        ticket: str = "",
        params: Mapping[str, str] | None = None,
        may_go: bool = False,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> httpx.Response:
        headers = {"authorization": f"Bearer {self._token(person)}"}
        if key:
            headers["idempotency-key"] = key
        if ticket:
            headers["x-seckill-ticket"] = ticket
        goes = may_go and self._chance.random() < GONE_SHARE
        try:
            patience = min(CALL_SECONDS, patience_seconds)
            async with asyncio.timeout(self._chance.uniform(0.004, 0.5) if goes else patience):
                answer = await self._client.request(
                    method, path, json=body, headers=headers, params=params
                )
        except (httpx.HTTPError, TimeoutError) as problem:
            answer = httpx.Response(599, text=repr(problem))
        loop = asyncio.get_running_loop()
        status = 0 if answer.status_code == 599 else answer.status_code
        self.heard.append(
            Heard(
                loop.time(),
                operation,
                status,
                _reason(answer),
                "" if status < 500 else answer.text[:400],
            )
        )
        return answer

    def _token(self, person: str) -> str:
        if person not in self._tokens:
            self._tokens[person] = self._mesh.issue(
                person, *(("merchant",) if person == "clerk" else ())
            )
        return self._tokens[person]

    def _key(self) -> str:
        return f"{self._run}-{next(self._numbers)}"


def _is_final(answer: httpx.Response) -> bool:
    return (
        answer.status_code not in AGAIN
        and answer.status_code not in {401, 599}
        and _reason(answer) not in NOT_YET_REASONS
    )


def _envelope(answer: httpx.Response) -> dict[str, Any]:
    try:
        envelope = answer.json()
    except ValueError:
        return {}
    return envelope if isinstance(envelope, dict) else {}


def _data(answer: httpx.Response) -> dict[str, Any]:
    data = _envelope(answer).get("data")
    return data if isinstance(data, dict) else {}


def _reason(answer: httpx.Response) -> str:
    details = _envelope(answer).get("details")
    return str(details.get("reason", "")) if isinstance(details, dict) else ""


def _in_hours(hours: int) -> str:
    return (datetime.now(UTC) + timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%SZ")
