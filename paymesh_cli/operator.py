"""`paymesh operator`: our own staff, who act as administrators."""

from __future__ import annotations

import asyncio
import os
import pwd
from collections.abc import Awaitable, Callable
from secrets import token_bytes
from typing import TypeVar

import click

from merchant_rpc.domain.member import parse_email
from merchant_rpc.domain.one_time_link import LIFETIME
from merchant_rpc.settings import MerchantSettings
from merchant_rpc.store.people import list_operators
from merchant_rpc.tables import metadata
from merchant_rpc.usecases.actions import Actions
from merchant_rpc.usecases.mail import Mail, Template
from merchant_rpc.usecases.one_time_links import OneTimeLinks
from merchant_rpc.usecases.operators import Operators
from mesh import schema_versions
from mesh.clock import SystemClock
from mesh.db import Database, open_database
from mesh.errors import MeshError
from mesh.ids import UlidIds
from mesh.settings import SettingsRefused, read_settings
from paymesh_cli.options import installation_option
from paymesh_cli.supervisor.installation import Installation
from paymesh_cli.terminal import Terminal, shown, table

T = TypeVar("T")


@click.group()
def operator() -> None:
    """Invites operators and lists them."""


@operator.command()
@installation_option
@click.argument("email")
def add(installation: Installation, *, email: str) -> None:
    """Prints a link with which the owner of an address becomes an operator. It works once, for a
    day; an earlier one for the same address ends.

    Who has no account gives himself a password with it; who has one proves himself by his own.
    """
    clock = SystemClock()
    ids = UlidIds(clock)
    settings = _settings(installation)
    try:
        address = parse_email(email)
    except MeshError as problem:
        raise click.BadParameter(problem.message, param_hint="EMAIL") from None
    operators = Operators(
        clock=clock,
        ids=ids,
        links=OneTimeLinks(clock=clock, random_bytes=token_bytes),
        actions=Actions(clock=clock),
    )

    async def invite(db: Database) -> str:
        return await db.run(operators.invite, address, actor=f"cli:{_user()}")

    token = _with_database(settings, invite)
    mail = Mail(clock=clock, ids=ids, public_url=settings.public_url, is_available=False)
    click.echo(mail.link(Template.OPERATOR, token))
    hours = int(LIFETIME.total_seconds()) // 3600
    click.echo(f"Give it to {address} and nobody else. It works once, for {hours} hours.", err=True)


@operator.command("list")
@installation_option
def list_all(installation: Installation) -> None:
    """Lists the operators. Times are UTC."""

    async def read(db: Database) -> list[tuple[str, ...]]:
        return [
            (member_id, email, state.value, since.strftime("%Y-%m-%d %H:%M:%S"))
            for member_id, email, state, since in await db.read(list_operators)
        ]

    rows = table("id", "address", "state", "since", whole=("id", "state", "since"))
    for row in _with_database(_settings(installation), read):
        rows.add_row(*(shown(each) for each in row))
    console = Terminal()
    if rows.row_count:
        console.show(rows)
    else:
        console.print("nobody: `paymesh operator add EMAIL` invites the first one")


def _settings(installation: Installation) -> MerchantSettings:
    try:
        return read_settings(MerchantSettings, var_dir=installation.var_dir)
    except SettingsRefused as refusal:
        raise click.ClickException(str(refusal)) from None


def _with_database(settings: MerchantSettings, work: Callable[[Database], Awaitable[T]]) -> T:
    async def run() -> T:
        db = open_database(settings.database_url, metadata, pool_size=2)
        try:
            await schema_versions.check_current("merchant_rpc", db.engine)
            return await work(db)
        finally:
            await db.close()

    try:
        return asyncio.run(run())
    except MeshError as problem:
        raise click.ClickException(problem.message) from None


def _user() -> str:
    """Who runs the command, for the log of actions."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name[:64]
    except KeyError:  # a container without accounts
        return str(os.getuid())
