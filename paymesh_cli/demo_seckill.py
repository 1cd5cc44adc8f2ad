"""`paymesh demo-seckill`: a flash sale that people can watch. Ten thousand buyers click on a
hundred units of the running mesh, a few winners pay, and the audit has the last word."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import click
import grpc
import httpx
from paymesh.seckill.v1 import seckill_pb2, seckill_pb2_grpc
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from mesh.auth import UserTokenIssuer
from mesh.clock import SystemClock
from mesh.ids import UlidIds
from paymesh_cli.audit.command import audit
from paymesh_cli.demo_client import Conversation, DemoFailed
from paymesh_cli.options import installation_option, load_settings, need_running
from paymesh_cli.supervisor.health import open_channel
from paymesh_cli.supervisor.installation import Installation
from paymesh_cli.terminal import Terminal
from paymesh_cli.token import open_issuer

WAIT_MS = 2000  # most answers are final long before
CALL_SECONDS_MAX = 5.0
GIVE_UP_SECONDS = 60.0  # longest time until the result of one buyer
PAID_SECONDS_MAX = 20.0
PAYERS = 3
NERVOUS = 3  # of ten buyers click twice
_AGAIN = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
    }
)
_AGAIN_SECONDS = 0.2
_PRICE = "9.90"
# one of Stripe's public test numbers; the sandbox knows it as good
_CARD_NUMBER = "4242424242424242"
_STATUS = {0: "still waiting", 1: "won", 2: "did not win"}


@click.command("demo-seckill")
@installation_option
@click.option("--buyers", default=10_000, show_default=True, type=click.IntRange(1, 1_000_000))
@click.option("--units", default=100, show_default=True, type=click.IntRange(1, 100_000))
@click.option(
    "--at-once",
    default=256,
    show_default=True,
    type=click.IntRange(1, 5000),
    help="Clicks that are under way at once.",
)
@click.pass_context
def demo_seckill(
    context: click.Context, installation: Installation, *, buyers: int, units: int, at_once: int
) -> None:
    """Runs a flash sale on the running mesh and shows it. Exits 0 when exactly the right number won
    and the audit holds.
    """
    running = need_running(installation)
    if not running.grpc.get("seckill_rpc"):
        raise click.ClickException("this mesh runs without flash sale: it has no Redis")
    issuer = open_issuer(installation)
    console = Terminal()
    with httpx.Client(base_url=running.urls["gateway"], timeout=15, trust_env=False) as client:
        shop = _Shop(
            Conversation(client, console),
            merchant=issuer.issue("demo-merchant", roles=["merchant"]),
            clock=SystemClock(),
        )
        try:
            sku_id = shop.publish(units)
            crowd = _Crowd(
                issuer=issuer, sku_id=sku_id, addresses=running.grpc["seckill_rpc"], at_once=at_once
            )
            with _progress(console) as progress:
                asyncio.run(crowd.run(buyers, progress))
            console.print(_numbers(crowd, units))
            crowd.check(min(buyers, units))
            for user_id in list(crowd.orders)[:PAYERS]:
                shop.pay(user_id, issuer.issue(user_id), crowd.orders[user_id])
        except DemoFailed as failure:
            raise click.ClickException(str(failure)) from None
        except httpx.HTTPError as problem:
            raise click.ClickException(f"{running.urls['gateway']}: {problem!r}") from None
    console.print("\n[bold]The audit[/]")
    context.invoke(
        audit, installation=installation, strict=False, sandbox_url=None, sandbox_key_file=None
    )


class _Shop:
    """What the merchant and the winners do, over REST. Raises DemoFailed or httpx.HTTPError at the
    first thing that goes wrong.
    """

    def __init__(self, conversation: Conversation, *, merchant: str, clock: SystemClock) -> None:
        self._conversation = conversation
        self._merchant = merchant
        self._clock = clock
        self._run_id = UlidIds(clock).new("")

    def publish(self, units: int) -> str:
        """A product and its flash sale, OPEN; returns the SKU."""
        self._conversation.heading("The merchant plans a flash sale")
        sku_id = f"FLASH-{self._run_id}"
        self._conversation.call(
            "POST",
            "/api/v1/products",
            token=self._merchant,
            expect=201,
            body={"sku_id": sku_id, "name": "A phone", "price": "999.00", "available": units},
        )
        ends_at = (self._clock.now() + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
        activity = self._conversation.call(
            "POST",
            "/api/v1/seckill/activities",
            token=self._merchant,
            expect=201,
            body={
                "sku_id": sku_id,
                "price": _PRICE,
                "total": units,
                "limit_per_user": 1,
                "ends_at": ends_at,
            },
        )
        path = f"/api/v1/seckill/activities/{activity['activity_id']}"
        self._conversation.call(
            "POST", f"{path}/publish", token=self._merchant, expect=200, body={}
        )
        self._conversation.poll(
            path, token=self._merchant, state="OPEN", timeout_seconds=PAID_SECONDS_MAX
        )
        return sku_id

    def pay(self, user_id: str, token: str, order: _Won) -> None:
        """A winner pays by card. The ticket tells an order that is still being written from one
        that never was.
        """
        self._conversation.heading(f"{user_id} pays")
        path = f"/api/v1/orders/{order.order_id}"
        self._conversation.poll(
            path,
            token=token,
            state="PENDING_PAYMENT",
            timeout_seconds=PAID_SECONDS_MAX,
            headers={"x-seckill-ticket": order.ticket},
        )
        self._conversation.call(
            "POST",
            "/payment/charge",
            token=token,
            expect=200,
            headers={"x-seckill-ticket": order.ticket},
            body={
                "order_id": order.order_id,
                "amount": _PRICE,
                "user_id": user_id,
                "credit_card": {
                    "credit_card_number": _CARD_NUMBER,
                    "credit_card_cvv": 123,
                    "credit_card_expiration_month": 12,
                    "credit_card_expiration_year": self._clock.now().year + 2,
                },
            },
        )
        self._conversation.poll(path, token=token, state="PAID", timeout_seconds=PAID_SECONDS_MAX)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Won:
    order_id: str
    ticket: str


@dataclass
class _Crowd:
    """Buyers, each with one click (some with two at once), repeated under the same request id until
    the answer is final.
    """

    issuer: UserTokenIssuer
    sku_id: str
    addresses: list[str]
    at_once: int
    orders: dict[str, _Won] = field(default_factory=dict)  # user_id -> what the buyer holds
    statuses: Counter[int] = field(default_factory=Counter)  # final status -> buyers
    codes: Counter[str] = field(default_factory=Counter)  # code of the contract -> buyers
    # gRPC status -> calls that were made again
    repeated: Counter[str] = field(default_factory=Counter)
    latencies_ms: list[int] = field(default_factory=list)  # from the click to the final answer
    milliseconds: int = 0

    async def run(self, buyers: int, progress: Progress) -> None:
        """Everybody clicks."""
        clicked = progress.add_task("buyers answered", total=buyers)
        won = progress.add_task("orders won", total=None)
        settings = load_settings("seckill_rpc")
        channels = [open_channel(address, settings) for address in self.addresses]
        stubs: list[Any] = [seckill_pb2_grpc.SeckillServiceStub(channel) for channel in channels]
        waiting = iter(range(buyers))
        started = time.monotonic()

        async def queue(stub: Any) -> None:
            for number in waiting:
                await self._buy(stub, f"buyer-{number}", clicks=2 if number % 10 < NERVOUS else 1)
                progress.update(clicked, completed=self.statuses.total())
                progress.update(won, completed=len(self.orders))

        try:
            await asyncio.gather(
                *(queue(stubs[number % len(stubs)]) for number in range(self.at_once))
            )
        finally:
            self.milliseconds = int((time.monotonic() - started) * 1000)
            for channel in channels:
                await channel.close()

    def check(self, winners: int) -> None:
        """Raises DemoFailed unless exactly so many won and everybody has a final answer."""
        if len(self.orders) != winners or self.statuses[0]:
            raise DemoFailed(
                f"{len(self.orders)} buyers hold an order and {self.statuses[0]} have no final "
                f"answer; {winners} should have won"
            )

    async def _buy(self, stub: Any, user_id: str, *, clicks: int) -> None:
        metadata = (("authorization", f"Bearer {self.issuer.issue(user_id)}"),)
        request = seckill_pb2.SeckillActionRequest(
            sku_id=self.sku_id, request_id="1", wait_ms=WAIT_MS
        )
        begin = time.monotonic()
        answers = await asyncio.gather(
            *(self._click(stub, request, metadata, begin + GIVE_UP_SECONDS) for _ in range(clicks))
        )
        if len({answer.order_id for answer in answers if answer.status == 1}) > 1:
            raise DemoFailed(f"{user_id} won two orders with one click: {answers}")
        result = next((answer for answer in answers if answer.status == 1), answers[0])
        self.statuses[result.status] += 1
        self.codes[result.code] += 1
        self.latencies_ms.append(int((time.monotonic() - begin) * 1000))
        if result.status == 1:
            self.orders[user_id] = _Won(order_id=result.order_id, ticket=result.ticket)

    async def _click(
        self, stub: Any, request: seckill_pb2.SeckillActionRequest, metadata: Any, give_up_at: float
    ) -> seckill_pb2.Result:
        result = seckill_pb2.Result(status=0)
        while time.monotonic() < give_up_at:
            try:
                result = (
                    await stub.SeckillAction(request, metadata=metadata, timeout=CALL_SECONDS_MAX)
                ).result
            except grpc.aio.AioRpcError as problem:
                if problem.code() not in _AGAIN:
                    raise DemoFailed(
                        f"SeckillAction: {problem.code().name} {problem.details()}"
                    ) from None
                self.repeated[problem.code().name] += 1
                await asyncio.sleep(_AGAIN_SECONDS)
                continue
            if result.status != 0:
                break
        return result


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:<16}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )


def _numbers(crowd: _Crowd, units: int) -> Table:
    table = Table(
        box=None, pad_edge=False, show_header=False, title="\nThe sale", title_justify="left"
    )
    buyers = crowd.statuses.total()
    for status, count in sorted(crowd.statuses.items()):
        table.add_row(_STATUS[status], f"{count}")
    table.add_row("units", f"{units}")
    for code, count in sorted(crowd.codes.items()):
        table.add_row(f"answered {code}", f"{count}")
    for name, count in crowd.repeated.items():
        table.add_row(f"made again after {name}", f"{count}")
    if crowd.milliseconds:
        table.add_row("buyers per second", f"{buyers * 1000 // crowd.milliseconds}")
    if len(crowd.latencies_ms) > 1:
        cuts = statistics.quantiles(crowd.latencies_ms, n=100)
        table.add_row("click to final answer", f"p50 {cuts[49]:.0f} ms, p99 {cuts[98]:.0f} ms")
    return table
