"""`paymesh channels` and what `paymesh doctor` says of the key of accounts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from pathlib import Path
from secrets import token_bytes
from time import time
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mesh import migrations
from mesh.clock import SystemClock
from mesh.db import Database
from mesh.ids import UlidIds
from mesh.paging import PageTokens
from mesh.settings import read_settings
from payment_rpc.account_keys import AccountKeys, new_key_line
from payment_rpc.channels.provider_clocks import ProviderClocks
from payment_rpc.settings import PaymentSettings
from payment_rpc.tables import metadata
from payment_rpc.usecases.account_channels import AccountChannels
from payment_rpc.usecases.channel_accounts import ChannelAccounts
from paymesh_cli import channel_clocks, paymesh
from paymesh_cli import channels as command
from paymesh_cli.account_key_files import check_account_keys
from paymesh_cli.findings import Level
from paymesh_cli.supervisor.installation import Installation
from tests.builders.channel_accounts import RULES, Toy, ToyChannel, new_account, staff
from tests.support.databases import open_patiently


@pytest.fixture
def toy() -> Toy:
    return Toy(base_url="http://127.0.0.1:9")


@pytest.fixture
def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toy: Toy) -> Installation:
    for name in ("PAYMENT_RPC_DATABASE_URL", "PAYMESH_DATABASE_URL", "PAYMESH_VAR_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(command, "PROVIDERS", toy.providers())
    found = Installation(tmp_path).prepare()
    migrations.upgrade("payment_rpc", url(found))
    return found


def url(installation: Installation) -> str:
    return f"sqlite+aiosqlite:///{installation.var_dir}/payment_rpc.db"


def run(installation: Installation, *arguments: str) -> Result:
    return CliRunner().invoke(
        paymesh, ["channels", *arguments, "--var-dir", str(installation.var_dir)]
    )


def in_database(installation: Installation, work: Callable[[Database], Awaitable[Any]]) -> Any:
    async def inside() -> Any:
        db = open_patiently(url(installation), metadata)
        try:
            return await work(db)
        finally:
            await db.close()

    return asyncio.run(inside())


def an_account(installation: Installation, toy: Toy) -> str:
    async def create(db: Database) -> str:
        clock = SystemClock()
        keys = AccountKeys.of_file(installation.account_key_file, random_bytes=token_bytes)
        providers = toy.providers()
        opened = AccountChannels(db=db, clock=clock, keys=keys, providers=providers, rules=RULES)
        accounts = ChannelAccounts(
            db=db,
            clock=clock,
            ids=UlidIds(clock),
            page_tokens=PageTokens(b"p" * 32),
            keys=keys,
            providers=providers,
            rules=RULES,
            channels=opened,
        )
        return (await accounts.create(new_account(), staff())).account_id

    found: str = in_database(installation, create)
    return found


def levels(installation: Installation) -> list[tuple[Level, str]]:
    settings = read_settings(PaymentSettings, var_dir=installation.var_dir)
    findings = asyncio.run(check_account_keys(settings, installation))
    return [(finding.level, finding.fact) for finding in findings]


def test_accounts_are_listed_and_tried(installation: Installation, toy: Toy) -> None:
    assert "no accounts" in run(installation, "list").output
    account_id = an_account(installation, toy)
    listed = run(installation, "list")
    assert account_id in listed.output
    assert "sk_toy" not in listed.output
    assert run(installation, "test").output == f"{account_id}: ok\n"
    toy.problem = "the key was revoked"
    tried = run(installation, "test", account_id)
    assert (tried.exit_code, tried.output) == (1, f"{account_id}: the key was revoked\n")
    assert "no account 'toy_0'" in run(installation, "test", "toy_0").output


def test_a_key_is_rotated_and_the_doctor_knows_which_are_in_use(
    installation: Installation, toy: Toy
) -> None:
    account_id = an_account(installation, toy)
    file = installation.account_key_file
    old = file.read_text()
    file.write_text(new_key_line("2", b"n" * 32) + old)
    [(level, fact)] = levels(installation)
    assert (level, "1 in use" in fact) == (Level.OK, True)
    file.write_text(new_key_line("2", b"n" * 32))  # too early
    [(level, _)] = levels(installation)
    assert level is Level.FAILURE
    early = run(installation, "rotate-key")
    assert (early.exit_code, account_id in early.output) == (1, True)
    file.write_text(new_key_line("2", b"n" * 32) + old)
    done = run(installation, "rotate-key")
    assert (done.exit_code, "1 accounts" in done.output) == (0, True)
    assert "0 accounts" in run(installation, "rotate-key").output
    file.write_text(new_key_line("2", b"n" * 32))
    assert levels(installation) == [(Level.OK, "1 keys")]
    assert run(installation, "test").output == f"{account_id}: ok\n"
    file.chmod(0o644)
    assert levels(installation)[0][0] is Level.UNSAFE
    file.write_text("nonsense")
    assert levels(installation)[0][0] is Level.FAILURE
    assert "nonsense" not in run(installation, "rotate-key").output
    file.unlink()
    assert levels(installation)[0][0] is Level.FAILURE
    assert "PAYMENT_RPC_ACCOUNT_KEY_FILE" in run(installation, "rotate-key").output


def test_the_doctor_compares_our_clock_with_those_of_providers(
    installation: Installation, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    clocks = ProviderClocks(SystemClock())
    monkeypatch.setattr(channel_clocks, "PROVIDER_CLOCKS", clocks)

    async def check(self: ToyChannel, *, timeout_seconds: float) -> str:
        for host, ahead in (("good.example", 0), ("slow.example", -300)):
            clocks.heard(host, formatdate(time() + ahead, usegmt=True), took_seconds=0)
        return "whatever is wrong with the account"

    monkeypatch.setattr(ToyChannel, "check", check)
    settings = read_settings(PaymentSettings, var_dir=installation.var_dir)

    def findings() -> list[tuple[str, Level]]:
        found = asyncio.run(channel_clocks.check_channel_clocks(settings, installation))
        return [(finding.what, finding.level) for finding in found]

    assert findings() == []
    an_account(installation, toy)
    an_account(installation, toy)
    assert findings() == [
        ("clock of good.example", Level.OK),
        ("clock of slow.example", Level.FAILURE),
    ]
