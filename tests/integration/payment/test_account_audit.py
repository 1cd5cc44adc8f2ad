"""Accounts at providers that somebody changed by hand are found by the audit."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import delete, insert, update

from mesh.audit import AuditTolerance
from payment_rpc.audit import accounts as account_audit
from payment_rpc.audit.checks import violations
from payment_rpc.tables import CHANNEL_ACCOUNT
from tests.builders.channel_accounts import Accounts, accounts_in
from tests.builders.payment import PaymentWorld


@pytest.fixture
async def accounts(world: PaymentWorld) -> AsyncIterator[Accounts]:
    found = accounts_in(world)
    yield found
    await found.app.account_channels.aclose()


async def found_in(world: PaymentWorld) -> list[tuple[str, str]]:
    tolerance = AuditTolerance(now=world.clock.now(), strict=True)
    return [
        (one.subject, one.detail)
        async for one in violations(world.db, tolerance)
        if one.check == "account_logged"
    ]


async def test_accounts_are_what_their_logs_say(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account_audit, "PAGE", 1)
    for label in ("one", "two", "three"):
        await accounts.create(label=label)
    assert await found_in(accounts.world) == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"credentials": "AAAA"}, "not what its log says"),
        ({"state": "DISABLED"}, "not what its log says"),
        ({"hint": '{"account_name":"Thief"}'}, "not what its log says"),
        ({"hint": "nonsense"}, "cannot be read"),
        ({"merchant_id": "thief"}, "it is of thief, and its log says of mall"),
        ({"version": 2}, "version 2, and its log ends with 1"),
    ],
)
async def test_an_account_that_was_changed_by_hand_is_found(
    accounts: Accounts, changes: dict[str, Any], told: str
) -> None:
    account = await accounts.create()
    other = await accounts.create(label="other")
    await accounts.world.execute(
        update(CHANNEL_ACCOUNT)
        .where(CHANNEL_ACCOUNT.c.account_id == account.account_id)
        .values(**changes)
    )
    [(subject, detail)] = await found_in(accounts.world)
    assert subject == account.account_id != other.account_id
    assert told in detail


async def test_an_account_that_was_taken_away_is_found(accounts: Accounts) -> None:
    account = await accounts.create()
    await accounts.world.execute(delete(CHANNEL_ACCOUNT))
    assert await found_in(accounts.world) == [
        (account.account_id, "its log is there, and the account is not")
    ]


async def test_accounts_that_were_put_there_by_hand_are_found(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account_audit, "PAGE", 1)
    account = await accounts.create()
    (row,) = await accounts.world.rows(CHANNEL_ACCOUNT)
    by_hand = [f"{account.account_id[:-1]}{end}" for end in "xyz"]
    for account_id in by_hand:
        copy = {**row, "account_id": account_id, "merchant_id": "thief" + account_id[-1]}
        await accounts.world.execute(insert(CHANNEL_ACCOUNT).values(copy))
    assert await found_in(accounts.world) == [
        (account_id, "it has no log: it was not added") for account_id in by_hand
    ]
