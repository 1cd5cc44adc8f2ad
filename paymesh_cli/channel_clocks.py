"""Whether our clock agrees with those of the providers that merchants have accounts at."""

from __future__ import annotations

import click
from sqlalchemy.exc import SQLAlchemyError

from mesh.db import Database, open_database
from mesh.errors import MeshError
from payment_rpc.channels.provider_clocks import ALERT_SECONDS, PROVIDER_CLOCKS
from payment_rpc.settings import PaymentSettings
from payment_rpc.store.channel_accounts import StoredAccount
from payment_rpc.tables import metadata
from paymesh_cli.channels import account_keys, all_accounts, try_accounts
from paymesh_cli.findings import Finding, failure, ok
from paymesh_cli.supervisor.installation import Installation


async def check_channel_clocks(
    settings: PaymentSettings, installation: Installation
) -> list[Finding]:
    """Makes one harmless call with one account of each provider and mode, and compares the clocks.
    Nothing where there are no accounts, or where another check says why they cannot be read.
    """
    db = open_database(settings.database_url, metadata, pool_size=1)
    try:
        await _call_each_provider(db, settings, installation)
    except (MeshError, SQLAlchemyError, OSError, click.ClickException):
        return []
    finally:
        await db.close()
    return [_finding(host, ahead) for host, ahead in sorted(PROVIDER_CLOCKS.offsets().items())]


async def _call_each_provider(
    db: Database, settings: PaymentSettings, installation: Installation
) -> None:
    accounts: dict[tuple[str, str], StoredAccount] = {}
    for stored in await all_accounts(db):
        if stored.account.takes_new_payments:
            accounts.setdefault((stored.account.provider, stored.account.mode), stored)
    if accounts:
        keys = account_keys(settings, installation)
        # what is wrong with an account is said by `paymesh channels test`
        await try_accounts(db, settings, keys, accounts.values())


def _finding(host: str, ahead_seconds: float) -> Finding:
    what = f"clock of {host}"
    apart = f"{abs(ahead_seconds):.0f} s apart from ours"
    if abs(ahead_seconds) > ALERT_SECONDS:
        advice = "synchronize ours (NTP): providers refuse requests, and we refuse their messages"
        return failure(what, apart, advice)
    return ok(what, apart)
