"""`paymesh channels`: the accounts of merchants at payment providers."""

from __future__ import annotations

import asyncio
import os
import pwd
from collections.abc import Awaitable, Callable, Iterable
from secrets import token_bytes
from typing import TypeVar

import click

from mesh import schema_versions
from mesh.clock import SystemClock
from mesh.db import Database, open_database
from mesh.errors import MeshError
from mesh.settings import SettingsRefused, read_settings
from payment_rpc.account_keys import AccountKeys
from payment_rpc.channels.providers import PROVIDERS
from payment_rpc.settings import PaymentSettings
from payment_rpc.store import channel_accounts
from payment_rpc.store.channel_accounts import StoredAccount
from payment_rpc.tables import metadata
from payment_rpc.usecases.account_channels import AccountChannels
from payment_rpc.usecases.account_key_rotation import PAGE, AccountKeyRotation, KeyRotation
from payment_rpc.usecases.channel_accounts import CHECK_SECONDS_MAX, check_account
from paymesh_cli.account_key_files import key_file_of
from paymesh_cli.options import installation_option
from paymesh_cli.supervisor.installation import Installation
from paymesh_cli.terminal import Terminal, shown, table

T = TypeVar("T")


@click.group()
def channels() -> None:
    """Lists and tries accounts at payment providers, and rotates the key of their credentials."""


@channels.command("list")
@installation_option
def list_all(installation: Installation) -> None:
    """Lists the accounts of all merchants. Times are UTC."""
    rows = table(
        "account", "merchant", "mode", "state", "default for", "key", "label", whole=("account",)
    )
    for stored in _with_database(_settings(installation), all_accounts):
        account = stored.account
        cells = (
            account.account_id,
            account.merchant_id,
            account.mode,
            account.state,
            account.default_for,
            account.key_id,
            account.label,
        )
        rows.add_row(*(shown(str(cell)) for cell in cells))
    console = Terminal()
    if rows.row_count:
        console.show(rows)
    else:
        console.print("no accounts: merchants add them by CreateChannelAccount")


@channels.command()
@installation_option
@click.argument("account_ids", metavar="[ACCOUNT]...", nargs=-1)
def test(installation: Installation, *, account_ids: tuple[str, ...]) -> None:
    """Makes one harmless call with the credentials of each account, or of all. Exits 1 when one
    cannot be used.
    """
    settings = _settings(installation)
    keys = account_keys(settings, installation)

    async def try_them(db: Database) -> list[tuple[str, str]]:
        wanted = [
            stored
            for stored in await all_accounts(db)
            if not account_ids or stored.account.account_id in account_ids
        ]
        return await try_accounts(db, settings, keys, wanted)

    found = _with_database(settings, try_them)
    for unknown in set(account_ids) - {account_id for account_id, _ in found}:
        raise click.BadParameter(f"there is no account {unknown!r}", param_hint="ACCOUNT")
    for account_id, problem in found:
        click.echo(f"{account_id}: {problem or 'ok'}")
    if any(problem for _, problem in found):
        raise SystemExit(1)


@channels.command("rotate-key")
@installation_option
@click.option("--reason", default="key rotation", show_default=True, help="For the log.")
def rotate_key(installation: Installation, *, reason: str) -> None:
    """Encrypts the credentials of all accounts under the first key of PAYMENT_RPC_ACCOUNT_KEY_FILE.
    Afterwards the other lines can be taken out. Called again it goes on with what is left.
    """
    settings = _settings(installation)
    keys = account_keys(settings, installation)

    async def rotate(db: Database) -> KeyRotation:
        rotation = AccountKeyRotation(db=db, clock=SystemClock(), keys=keys)
        return await rotation.run(actor=f"cli:{_user()}", reason=reason)

    done = _with_database(settings, rotate)
    click.echo(f"{done.rotated} accounts are encrypted anew, under the key {keys.first_id!r}")
    for account_id, problem in done.problems.items():
        click.echo(f"{account_id}: {problem}", err=True)
    if done.problems:
        raise SystemExit(1)


async def try_accounts(
    db: Database, settings: PaymentSettings, keys: AccountKeys, accounts: Iterable[StoredAccount]
) -> list[tuple[str, str]]:
    """The id of each account, and what one harmless call with its credentials says is wrong; ""
    for nothing.
    """
    opened = AccountChannels(
        db=db,
        clock=SystemClock(),
        keys=keys,
        providers=PROVIDERS,
        rules=settings.account_rules(),
    )
    try:
        return [
            (
                stored.account.account_id,
                await check_account(opened, stored, timeout_seconds=CHECK_SECONDS_MAX),
            )
            for stored in accounts
        ]
    finally:
        await opened.aclose()


async def all_accounts(db: Database) -> list[StoredAccount]:
    """The accounts of all merchants."""
    found: list[StoredAccount] = []
    after = ""
    while ids := await db.read(channel_accounts.ids_after, after, limit=PAGE):
        for account_id in ids:
            stored = await db.read(channel_accounts.find, account_id)
            if stored is not None:
                found.append(stored)
        after = ids[-1]
    return found


def _settings(installation: Installation) -> PaymentSettings:
    try:
        return read_settings(PaymentSettings, var_dir=installation.var_dir)
    except SettingsRefused as refusal:
        raise click.ClickException(str(refusal)) from None


def account_keys(settings: PaymentSettings, installation: Installation) -> AccountKeys:
    """The keys of the credentials.

    Raises:
        ClickException: there are none that can be read.
    """
    path = key_file_of(settings, installation)
    if path is None:
        raise click.ClickException("PAYMENT_RPC_ACCOUNT_KEY_FILE is not set")
    try:
        return AccountKeys.of_file(path, random_bytes=token_bytes)
    except (OSError, ValueError) as problem:
        raise click.ClickException(str(problem)) from None


def _with_database(settings: PaymentSettings, work: Callable[[Database], Awaitable[T]]) -> T:
    async def run() -> T:
        db = open_database(settings.database_url, metadata, pool_size=2)
        try:
            await schema_versions.check_current("payment_rpc", db.engine)
            return await work(db)
        finally:
            await db.close()

    try:
        return asyncio.run(run())
    except MeshError as problem:
        raise click.ClickException(problem.message) from None


def _user() -> str:
    """Who runs the command, for the log of an account."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name[:64]
    except KeyError:  # a container without accounts
        return str(os.getuid())
