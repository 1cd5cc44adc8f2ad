"""Each account at a provider is what its log says of its last version: whoever leads the money of a
merchant elsewhere changes a row, and cannot change a chained log unseen.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from sqlalchemy import exists, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.audit import Violation
from mesh.audit.queries import Check
from mesh.db import Database
from mesh.progress import looked_at
from payment_rpc.store.channel_accounts import logged, stored_account
from payment_rpc.tables import CHANNEL_ACCOUNT, CHANNEL_ACCOUNT_CHANGE

PAGE = 500
_A, _L = CHANNEL_ACCOUNT.c, CHANNEL_ACCOUNT_CHANGE.c


UNLOGGED = Check(
    name="account_logged",
    query=select(_A.account_id).where(~exists().where(_L.account_id == _A.account_id)),
    by=(_A.account_id,),
    detail="it has no log: it was not added",
)


async def check_accounts(db: Database) -> AsyncIterator[Violation]:
    """Every log against its account. `UNLOGGED` finds the accounts without one."""
    after = ""
    while True:
        rows = await db.read(_page, after)
        for row in rows:
            problem = _problem(row)
            if problem:
                yield Violation(check="account_logged", subject=str(row.account_id), detail=problem)
        looked_at("accounts at providers", len(rows))
        if len(rows) < PAGE:
            return
        after = rows[-1].account_id


async def _page(tx: AsyncConnection, after: str) -> Sequence[Any]:
    """Ids of the log, each with the last version there and the account, in order of the ids."""
    last = (
        select(_L.account_id, func.max(_L.version).label("logged_version"))
        .where(_L.account_id > after)
        .group_by(_L.account_id)
        .order_by(_L.account_id)
        .limit(PAGE)
        .subquery()
    )
    of_log = (
        select(last.c.account_id, last.c.logged_version, _L.after_json, _L.merchant_id.label("of"))
        .join(
            CHANNEL_ACCOUNT_CHANGE,
            (_L.account_id == last.c.account_id) & (_L.version == last.c.logged_version),
        )
        .subquery()
    )
    accounts = [column for column in _A if column is not _A.account_id]
    return (
        await tx.execute(
            select(of_log, *accounts)
            .outerjoin(CHANNEL_ACCOUNT, _A.account_id == of_log.c.account_id)
            .order_by(of_log.c.account_id)
        )
    ).all()


def _problem(row: Any) -> str:
    """What differs; "" when nothing does."""
    if row.version is None:
        return "its log is there, and the account is not"
    if row.version != row.logged_version:
        return f"it has version {row.version}, and its log ends with {row.logged_version}"
    try:
        account = stored_account(row).account
    except ValueError:
        return "its row cannot be read"
    if account.merchant_id != row.of:
        return f"it is of {account.merchant_id}, and its log says of {row.of}"
    if logged(account) != row.after_json:
        return "something in its row is not what its log says of this version"
    return ""
