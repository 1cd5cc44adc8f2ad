"""Messages to accounts that nobody has: whoever sends them costs the database a bounded number of
questions, and pushes no account out of what is remembered.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from secrets import token_bytes
from typing import Any, cast

import pytest

from mesh.db import Database
from mesh.errors import Unavailable
from payment_rpc.account_keys import AccountKeys
from payment_rpc.channels.registry import Channels
from payment_rpc.domain.errors import ChannelNotSupported, ChannelUnavailable
from payment_rpc.store.channel_accounts import StoredAccount
from payment_rpc.usecases import account_channels
from payment_rpc.usecases.account_channels import (
    FRESH_SECONDS,
    UNKNOWN_BURST,
    UNKNOWN_PER_SECOND,
    UNKNOWN_REMEMBERED_MAX,
    AccountChannels,
)
from tests.builders.channel_accounts import KEYS, RULES, a_stored_account
from tests.support.fakes import FakeClock

KNOWN = "toy_0123456789ab"


@dataclass
class Accounts:
    """What the database has, and what it was asked."""

    rows: dict[str, StoredAccount] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    async def read(self, _query: Any, account_id: str) -> StoredAccount | None:
        self.asked[account_id] += 1
        return self.rows.get(account_id)


@pytest.fixture
def accounts() -> Accounts:
    return Accounts({KNOWN: a_stored_account(KNOWN)})


@pytest.fixture
def loaded(accounts: Accounts) -> AccountChannels:
    return AccountChannels(
        db=cast("Database", accounts),
        clock=FakeClock(),
        keys=AccountKeys(KEYS, random_bytes=token_bytes),
        providers={},
        rules=RULES,
        now=lambda: accounts.seconds,
    )


def nobody(number: int) -> str:
    return f"toy_{number:012d}"


async def test_strangers_cost_a_bounded_number_of_questions(
    accounts: Accounts, loaded: AccountChannels
) -> None:
    channels = Channels({}, loaded.load, loaded.load_addressed)
    refused = Counter[str]()
    for number in range(UNKNOWN_BURST * 3):
        try:
            await channels.addressed(nobody(number))
        except (ChannelNotSupported, Unavailable) as refusal:
            refused[refusal.reason] += 1
    assert refused == {"CHANNEL_NOT_SUPPORTED": UNKNOWN_BURST, "UNAVAILABLE": 2 * UNKNOWN_BURST}
    assert accounts.asked.total() == UNKNOWN_BURST
    # later some more may ask, and an account that is known here never waits
    accounts.seconds += 1
    for number in range(1000, 1000 + round(UNKNOWN_PER_SECOND)):
        with pytest.raises(ChannelNotSupported):
            await channels.addressed(nobody(number))
    with pytest.raises(Unavailable):
        await channels.addressed(nobody(5000))


async def test_an_account_that_is_known_is_heard_among_strangers(
    accounts: Accounts, loaded: AccountChannels
) -> None:
    assert await loaded.find(KNOWN) is not None
    for number in range(UNKNOWN_BURST + 1):
        with pytest.raises((ChannelNotSupported, Unavailable)):
            await Channels({}, loaded.load, loaded.load_addressed).addressed(nobody(number))
    with pytest.raises(ChannelUnavailable, match="no provider"):  # it was found
        await loaded.load_addressed(KNOWN)
    assert accounts.asked[KNOWN] == 1


async def test_an_id_that_nobody_has_is_asked_for_once_in_a_while(
    accounts: Accounts, loaded: AccountChannels
) -> None:
    for _ in range(3):
        assert await loaded.load_addressed(nobody(1)) is None
    assert accounts.asked[nobody(1)] == 1
    accounts.rows[nobody(1)] = a_stored_account(nobody(1))
    accounts.seconds += FRESH_SECONDS
    assert await loaded.find(nobody(1)) is not None


async def test_unknown_ids_push_no_account_out(
    accounts: Accounts, loaded: AccountChannels, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await loaded.find(KNOWN) is not None
    for number in range(account_channels.ACCOUNTS_REMEMBERED_MAX + 1):
        assert await loaded.find(nobody(number)) is None
    assert await loaded.find(KNOWN) is not None
    assert accounts.asked[KNOWN] == 1
    assert len(loaded._missing) == UNKNOWN_REMEMBERED_MAX


async def test_an_account_that_is_made_here_is_known_at_once(
    accounts: Accounts, loaded: AccountChannels
) -> None:
    assert await loaded.find(nobody(1)) is None
    accounts.rows[nobody(1)] = made = a_stored_account(nobody(1))
    loaded.forget(made.account)
    assert await loaded.find(nobody(1)) is made
