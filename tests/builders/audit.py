"""A day of trade, and what `paymesh audit` and `paymesh explain` say of it."""

from __future__ import annotations

import io
import re
from collections.abc import Collection
from typing import Any

from sqlalchemy import update

from mesh.audit import AuditTolerance
from mesh.outbox import OUTBOX
from paymesh_cli.audit.parts import audit_databases
from paymesh_cli.explain import read_explanations, show
from paymesh_cli.terminal import Terminal
from tests.builders.payment import PaymentWorld
from tests.builders.payment_steps import refund, spend, top_up
from tests.support.sandbox_server import API_KEY


async def audited(
    world: PaymentWorld,
    *,
    strict: bool = False,
    channel: bool = True,
    without_redis: Collection[str] = (),
) -> list[tuple[str, str, str]]:
    """(where, check, subject) of everything that does not hold."""
    databases = {"payment_rpc": world.db, "order_rpc": world.order_side.db}
    return [
        (where, found.check, found.subject)
        async for where, found in audit_databases(
            databases,
            AuditTolerance(now=world.clock.now(), strict=strict),
            sandbox_url=world.sandbox.base_url if channel else "",
            api_key=API_KEY,
            without_redis=without_redis,
        )
    ]


async def at_rest(world: PaymentWorld) -> None:
    """Workers and relays run until there is nothing to do."""
    await world.finish(rounds=3)
    await world.app.refunds.run_once()
    await world.finish(rounds=3)
    await nobody_listens(world)


async def nobody_listens(world: PaymentWorld) -> None:
    """Streams need a Redis: their messages count as delivered."""
    for db in (world.db, world.order_side.db):

        async def deliver(tx: Any) -> None:
            await tx.execute(
                update(OUTBOX)
                .where(OUTBOX.c.destination.startswith("stream:"))
                .values(state="DONE")
            )

        await db.run(deliver)


async def a_day_of_trade(world: PaymentWorld) -> None:
    """Card, cashier, wallet, refunds, late money that is refused, an order that nobody pays."""
    await world.charge(await world.order())
    await refund(world, await world.charge(await world.order()), "40.00")
    await refund(world, await world.charge(await world.order()))
    waiting = await world.cashier(await world.order())
    await world.press(waiting)
    await world.callbacks()
    await top_up(world, "100.00")
    await refund(world, await spend(world, await world.order("60.00")), "10.00")
    await at_rest(world)


async def told(world: PaymentWorld, name: str) -> str:
    """The story as a person reads it, one line per line."""
    found = await read_explanations(
        {"payment_rpc": world.db, "order_rpc": world.order_side.db}, name
    )
    assert len(found) == 1
    out = io.StringIO()
    show(Terminal(file=out, width=400), next(iter(found.values())))
    return out.getvalue()


def in_this_order(text: str, *parts: str) -> None:
    """Each part stands in the text, one after the other."""
    at = 0
    for part in parts:
        found = re.compile(part).search(text, at)
        assert found is not None, f"{part!r} is not in\n{text[at:]}"
        at = found.end()
