"""`paymesh up`: the whole mesh on this machine, from an empty directory to printed URLs, until
Ctrl-C.
"""

from __future__ import annotations

import asyncio
import io
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import IO, Any, TextIO, cast

import click
from alembic.util import CommandError
from sqlalchemy.exc import SQLAlchemyError

from mesh.errors import MeshError
from paymesh_cli.options import installation_option
from paymesh_cli.screen import Screen
from paymesh_cli.supervisor.installation import Installation, InstallationBusy, InstallationUnusable
from paymesh_cli.supervisor.plan import MeshPlan, PlanRefused, plan_mesh
from paymesh_cli.supervisor.processes import StartFailed, Supervisor
from paymesh_cli.terminal import Terminal

START_SECONDS_MAX = 90.0


def _replicas_option(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(
        f"--{name}-replicas",
        type=click.IntRange(1, 16),
        default=1,
        show_default=True,
        help=f"Processes of {name}_rpc; more than one needs MySQL.",
    )


@click.command()
@installation_option
@_replicas_option("payment")
@_replicas_option("order")
@_replicas_option("seckill")
@_replicas_option("merchant")
@click.option(
    "--discovery",
    type=click.Choice(["static", "consul"]),
    envvar="PAYMESH_DISCOVERY",
    help="How services find each other.  [default: static]",
)
@click.option(
    "--providers/--no-providers",
    default=True,
    show_default=True,
    help="Run the simulated payment providers too.",
)
@click.option("--verbose", "-v", is_flag=True, help="Show the logs of all processes.")
def up(
    installation: Installation,
    *,
    payment_replicas: int,
    order_replicas: int,
    seckill_replicas: int,
    merchant_replicas: int,
    discovery: str | None,
    providers: bool,
    verbose: bool,
) -> None:
    """Runs the whole mesh on this machine until Ctrl-C.

    Ports: GATEWAY_PORT (8080), PAYMENT_RPC_PORT (9907), ORDER_RPC_PORT (9906), SECKILL_RPC_PORT
    (9909), MERCHANT_RPC_PORT (9905), SANDBOX_PORT (8090), PAYMESH_REDIS_PORT (any free one); 0
    takes any free one. The simulated payment providers take PROVIDERS_STRIPE_PORT (8091),
    PROVIDERS_PAYPAL_PORT (8092), PROVIDERS_ALIPAY_PORT (8093), PROVIDERS_WECHAT_PORT (8094) and
    PROVIDERS_BTCPAY_PORT (8095), or free ones where these are taken. Databases:
    PAYMENT_RPC_DATABASE_URL, ORDER_RPC_DATABASE_URL, SECKILL_RPC_DATABASE_URL and
    MERCHANT_RPC_DATABASE_URL (SQLite below the var directory). Redis: PAYMESH_REDIS_URL, else one
    of our own; without any there is no flash sale.
    """
    try:
        installation.prepare()
        installation.lock()  # held until this process ends
        replicas = {
            "payment_rpc": payment_replicas,
            "order_rpc": order_replicas,
            "seckill_rpc": seckill_replicas,
            "merchant_rpc": merchant_replicas,
        }
        plan = plan_mesh(
            installation, replicas=replicas, discovery=discovery, with_providers=providers
        )
    except (InstallationBusy, InstallationUnusable, PlanRefused) as refusal:
        raise click.ClickException(str(refusal)) from None
    os.umask(0o077)  # databases, logs and whatever else the processes make are the owner's alone
    screen = Screen(Terminal(file=cast("IO[str]", _Listener(sys.stdout))), installation, plan)
    if not asyncio.run(_run(installation, plan, screen, verbose=verbose)):
        raise SystemExit(1)


class _Listener(io.TextIOBase):
    """Standard output, or nobody: a terminal or a pager that went away ends no process of the
    mesh.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]  # a plain attribute there
        """That of the stream."""
        return self._stream.encoding

    def isatty(self) -> bool:
        """Whether a person looks."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """That of the stream: it tells how wide a terminal is."""
        return self._stream.fileno()

    def write(self, text: str) -> int:
        """Writes where somebody listens."""
        with suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Likewise."""
        with suppress(OSError, ValueError):
            self._stream.flush()


async def _run(
    installation: Installation, plan: MeshPlan, screen: Screen, *, verbose: bool
) -> bool:
    """Returns False when the mesh did not start."""
    stop = asyncio.Event()
    supervisor = Supervisor(
        log_dir=installation.log_dir,
        on_event=screen.on_event,
        on_line=screen.on_line if verbose else None,
    )

    def on_signal() -> None:
        if stop.is_set():
            supervisor.kill()  # a second Ctrl-C: no more patience
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    screen.pids_changed = lambda: installation.write_running(
        replace(plan.running, pids=supervisor.pids)
    )
    starting = asyncio.create_task(_start(supervisor, plan, screen))
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((starting, stopped), return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            screen.show_urls()
            await stopped
    except (StartFailed, MeshError, CommandError, SQLAlchemyError, OSError) as problem:
        screen.show_failure(problem)
        return False
    finally:
        screen.stopping()
        starting.cancel()
        stopped.cancel()
        await asyncio.gather(starting, stopped, return_exceptions=True)
        await supervisor.stop()
        installation.clear_running()
        screen.stopped()
    return True


async def _start(supervisor: Supervisor, plan: MeshPlan, screen: Screen) -> None:
    """Redis and whatever simulates payment providers while the databases get their schema, then all
    others at once.
    """
    supervisor.start([process for process in plan.processes if process.is_early])
    await asyncio.to_thread(_migrate, plan)
    screen.schema_done()
    supervisor.start([process for process in plan.processes if not process.is_early])
    await supervisor.wait_healthy(timeout_seconds=START_SECONDS_MAX)


def _migrate(plan: MeshPlan) -> None:
    from mesh import migrations  # noqa: PLC0415  # loads Alembic while the first processes start

    for service, url in plan.database_urls.items():
        migrations.upgrade(service, url)
