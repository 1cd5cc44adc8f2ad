"""`paymesh operator`: the first operator of an installation, from the command line to his token."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from merchant_rpc.domain.errors import LinkInvalid
from merchant_rpc.domain.one_time_link import LinkKind
from merchant_rpc.store import one_time_links
from merchant_rpc.tables import ADMIN_ACTION, MEMBER, metadata
from merchant_rpc.usecases.one_time_links import digest
from mesh import migrations
from mesh.clock import SystemClock
from paymesh_cli import paymesh
from tests.builders.merchant_logins import LoginWorld, login_world
from tests.support.databases import open_patiently

ROOT_EMAIL = "root@pay.example"
LINK = re.compile(r"http://127\.0\.0\.1:8080/console/operator#token=([A-Za-z0-9_-]{43})\n")


def url(var_dir: Path) -> str:
    return f"sqlite+aiosqlite:///{var_dir}/merchant_rpc.db"


@pytest.fixture
def var_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("MERCHANT_RPC_DATABASE_URL", "PAYMESH_DATABASE_URL", "PAYMESH_VAR_DIR"):
        monkeypatch.delenv(name, raising=False)
    migrations.upgrade("merchant_rpc", url(tmp_path))
    return tmp_path


def run(var_dir: Path, *arguments: str) -> Result:
    return CliRunner().invoke(paymesh, ["operator", *arguments, "--var-dir", str(var_dir)])


def token_of(result: Result) -> str:
    assert result.exit_code == 0, result.output
    found = LINK.fullmatch(result.stdout)
    assert found is not None
    return found[1]


def test_a_link_is_printed_and_what_was_done_is_written_down(var_dir: Path) -> None:
    token = token_of(run(var_dir, "add", f" {ROOT_EMAIL.upper()}"))

    async def actions() -> list[Any]:
        db = open_patiently(url(var_dir), metadata)
        async with db.engine.connect() as connection:
            found = (await connection.execute(select(ADMIN_ACTION))).all()
        await db.close()
        return list(found)

    [action] = asyncio.run(actions())
    assert action.method == "AddOperator"
    assert action.actor.startswith("cli:")
    assert ROOT_EMAIL not in repr(action)
    assert token not in repr(action)


def test_only_the_last_link_for_an_address_works(var_dir: Path) -> None:
    first, second = (token_of(run(var_dir, "add", ROOT_EMAIL)) for _ in range(2))

    async def works(token: str) -> bool:
        db = open_patiently(url(var_dir), metadata)
        payload = await db.read(
            one_time_links.find_payload,
            token_digest=digest(token),
            kind=LinkKind.OPERATOR,
            now=SystemClock().now(),
        )
        await db.close()
        return payload == f'{{"email":"{ROOT_EMAIL}"}}'

    assert not asyncio.run(works(first))
    assert asyncio.run(works(second))


@pytest.mark.parametrize("email", ["", "root", "root@", "@pay.example", "a b@pay.example"])
def test_what_is_no_address_is_refused(var_dir: Path, email: str) -> None:
    assert run(var_dir, "add", email).exit_code == 2


def test_without_a_database_nothing_is_done(tmp_path: Path) -> None:
    result = run(tmp_path, "add", ROOT_EMAIL)
    assert result.exit_code == 1
    assert "Traceback" not in result.output


def test_the_list_says_how_to_begin(var_dir: Path) -> None:
    assert "paymesh operator add EMAIL" in run(var_dir, "list").stdout


async def accept(world: LoginWorld, password_hash: str) -> str:
    """What AcceptInvitation does with a link."""
    token = await world.db.run(world.app.operators.invite, ROOT_EMAIL, actor="cli:test")

    async def take(tx: AsyncConnection) -> str:
        payload = await world.app.links.redeem(tx, LinkKind.OPERATOR, token)
        return await world.app.operators.accept(tx, payload, name="", password_hash=password_hash)

    return await world.db.run(take)


async def test_the_owner_of_a_link_becomes_an_operator_and_logs_in(database_url: str) -> None:
    async with login_world(database_url) as world:
        member_id = await accept(world, await world.passwords.hash("x" * 12))
        granted = await world.log_in(ROOT_EMAIL, "x" * 12)
        assert granted.is_operator
        assert granted.session.member_id == member_id


async def test_a_member_who_becomes_an_operator_keeps_his_password(database_url: str) -> None:
    async with login_world(database_url) as world:
        member_id = await world.person(ROOT_EMAIL)
        [row] = await world.rows(MEMBER)
        with pytest.raises(LinkInvalid):  # it changed after it was checked
            await accept(world, await world.passwords.hash("x" * 12))
        assert await accept(world, row.password_hash) == member_id
        assert (await world.log_in(ROOT_EMAIL)).is_operator
