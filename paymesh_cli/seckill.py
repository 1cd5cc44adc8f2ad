"""`paymesh seckill`: what an operator does with flash sales: look at them, and build anew what
Redis knows of one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import click
import grpc
from paymesh.seckill.v1 import activity_pb2, activity_pb2_grpc
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mesh.auth import UserTokenIssuer
from mesh.errors import RemoteError
from mesh.policies import DEFAULT_MERCHANT
from mesh.wire_errors import from_rpc_error
from paymesh_cli.options import installation_option, load_settings, need_running
from paymesh_cli.supervisor.health import open_channel
from paymesh_cli.supervisor.installation import Installation
from paymesh_cli.terminal import Terminal, shown, table
from paymesh_cli.token import open_issuer

LIST_SECONDS_MAX = 10.0
REBUILD_SECONDS_MAX = 115.0  # below the method's own
_PAGE = 100
Metadata = tuple[tuple[str, str], ...]


@click.group()
def seckill() -> None:
    """Flash sales: looks at them, and repairs what Redis knows of them."""


@seckill.command(name="list")
@installation_option
@click.option("--merchant", default=DEFAULT_MERCHANT, show_default=True, help="The tenant.")
def list_activities(installation: Installation, merchant: str) -> None:
    """Lists activities with their live numbers, newest first."""
    found = _ask(installation, lambda stub, metadata: _list(stub, metadata, merchant))
    rows = table(
        "activity",
        "product",
        "state",
        "sold",
        "of",
        "left",
        "in the queue",
        "",
        whole=("activity", "product", "state"),
    )
    for activity in found:
        state = activity_pb2.ActivityState.Name(activity.state).removeprefix("ACTIVITY_STATE_")
        live = activity.live if activity.HasField("live") else None
        held = "being rebuilt" if live is not None and not live.is_admitting else activity.problem
        rows.add_row(
            shown(activity.activity_id),
            shown(activity.sku_id),
            state,
            str(activity.sold),
            str(activity.total),
            "" if live is None else str(live.stock),
            "" if live is None else str(live.queued),
            shown(held),
        )
    console = Terminal()
    if found:
        console.show(rows)
    else:
        console.print("no activities")


@seckill.command()
@installation_option
@click.argument("activity_id")
def rebuild(installation: Installation, activity_id: str) -> None:
    """Builds what Redis knows of an activity anew from the database, while it sells. Nobody loses a
    place.
    """
    console = Terminal()
    with Progress(
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    ) as progress:
        last = _ask(
            installation, lambda stub, metadata: _rebuild(stub, metadata, activity_id, progress)
        )
    if last.step == activity_pb2.REBUILD_STEP_DONE:
        console.print(f"[green]done[/] epoch {last.epoch}, {last.done} holders")
    else:
        console.print("nothing was rebuilt: somebody else was newer, or the activity is not open")


async def _list(stub: Any, metadata: Metadata, merchant: str) -> list[Any]:
    found: list[Any] = []
    token = ""
    while True:
        request = activity_pb2.ListActivitiesRequest(
            merchant_id=merchant, page_size=_PAGE, page_token=token
        )
        page = await stub.ListActivities(request, metadata=metadata, timeout=LIST_SECONDS_MAX)
        found += page.activities
        token = page.next_page_token
        if not token:
            return found


async def _rebuild(stub: Any, metadata: Metadata, activity_id: str, progress: Progress) -> Any:
    tasks: dict[int, Any] = {}
    last = activity_pb2.RebuildActivityResponse()
    request = activity_pb2.RebuildActivityRequest(activity_id=activity_id)
    async for last in stub.RebuildActivity(request, metadata=metadata, timeout=REBUILD_SECONDS_MAX):
        if last.step not in tasks:
            name = activity_pb2.RebuildStep.Name(last.step).removeprefix("REBUILD_STEP_").lower()
            tasks[last.step] = progress.add_task(name, total=last.total or None)
        progress.update(tasks[last.step], completed=last.done, total=last.total or None)
    return last


def _ask(installation: Installation, work: Callable[[Any, Metadata], Awaitable[Any]]) -> Any:
    """Runs a conversation with the running seckill_rpc as an administrator.

    Raises:
        click.ClickException: no mesh runs, it has no flash sale, or the call was refused.
    """
    addresses = need_running(installation).grpc.get("seckill_rpc")
    if not addresses:
        raise click.ClickException(
            "this mesh runs without flash sale: it found no Redis at its start"
        )
    try:
        return asyncio.run(_converse(addresses[0], open_issuer(installation), work))
    except RemoteError as refusal:
        raise click.ClickException(f"{refusal.reason}: {refusal.message}") from None


async def _converse(
    address: str, issuer: UserTokenIssuer, work: Callable[[Any, Metadata], Awaitable[Any]]
) -> Any:
    metadata = (("authorization", f"Bearer {issuer.issue('operator', roles=['admin'])}"),)
    async with open_channel(address, load_settings("seckill_rpc")) as channel:
        try:
            return await work(activity_pb2_grpc.ActivityServiceStub(channel), metadata)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error
