"""merchant_rpc dies by kill -9 at each of its named points, on SQLite and on MariaDB: what was
promised is there, whole or not at all, and the same call again comes to the same end.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from merchant_rpc.audit import AUDIT
from merchant_rpc.domain.errors import LinkInvalid, MerchantIdTaken, SettingsChanged
from merchant_rpc.tables import (
    ADMIN_ACTION,
    API_KEY,
    MEMBERSHIP,
    MERCHANT,
    MERCHANT_SETTING,
    ONE_TIME_LINK,
    SESSION,
)
from mesh.audit import AuditTolerance
from tests.builders.merchant import MerchantWorld, merchant_world
from tests.builders.merchant_crashes import STORIES, later
from tests.support.sources import failpoints

ROOT = Path(__file__).parents[3]
POINTS = [point for point in failpoints("merchant_rpc") if point.split(".")[1] in STORIES]
# What the call again is told when the one that died had committed.
DONE_BEFORE = (LinkInvalid, MerchantIdTaken, SettingsChanged)
# How many rows of each table there are in the end, however often the process died.
ENDS = {
    "sign_up": {MERCHANT: 1, ONE_TIME_LINK: 1, ADMIN_ACTION: 0},
    "confirm": {MERCHANT: 2, MEMBERSHIP: 1, ADMIN_ACTION: 1},
    "step": {MERCHANT: 2, ADMIN_ACTION: 2},
    "settings": {MERCHANT_SETTING: 1, ADMIN_ACTION: 2},
    "invite": {ONE_TIME_LINK: 2, MEMBERSHIP: 1},
    "accept": {MEMBERSHIP: 2, ADMIN_ACTION: 3},
    "member_role": {MEMBERSHIP: 2, ADMIN_ACTION: 4},
    "member_remove": {MEMBERSHIP: 1, ADMIN_ACTION: 4},
    "key_create": {API_KEY: 1, ADMIN_ACTION: 2},
    "key_rotate": {API_KEY: 2, ADMIN_ACTION: 3},
    "key_revoke": {API_KEY: 1, ADMIN_ACTION: 3},
    "log_in": {SESSION: 1, ADMIN_ACTION: 2},
    "reset": {ONE_TIME_LINK: 2, ADMIN_ACTION: 2},
}
# What these make is made again when nobody heard of the first one: each is there to be seen and
# ended.
MADE_AGAIN = {
    "key_create": {API_KEY: 1, ADMIN_ACTION: 1},
    "key_rotate": {API_KEY: 1, ADMIN_ACTION: 1},
    "log_in": {SESSION: 1, ADMIN_ACTION: 1},
}


def test_every_writing_call_has_a_story_with_a_point_on_either_side_of_its_commit() -> None:
    assert set(POINTS) == {
        f"merchant.{story}.{side}_commit" for story in STORIES for side in ("before", "after")
    }


def dies(url: str, story: str, point: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tests.builders.merchant_crashes", url, story, f"{point}=kill"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr


async def problems(world: MerchantWorld) -> list[str]:
    """What does not hold, but for mail that waits: nothing delivers it here."""
    tolerance = AuditTolerance(now=world.clock.now(), strict=False)
    return [
        f"{violation.check} {violation.subject}: {violation.detail}"
        async for violation in AUDIT.violations(world.db, tolerance)
        if violation.check != "outbox_late"
    ]


@pytest.mark.drawn(8)
@pytest.mark.parametrize("point", POINTS)
async def test_a_call_that_died_is_whole_or_never_was_and_comes_to_its_end(
    database_url: str, point: str
) -> None:
    name, url = point.split(".")[1], database_url
    story, was_committed = STORIES[name], point.endswith("after_commit")
    async with merchant_world(url) as world:
        await story.prepare(world)
        before = {table: len(await world.rows(table)) for table in ENDS[name]}
    await asyncio.to_thread(dies, url, name, point)
    async with merchant_world(url) as world:
        await later(world)
        await later(world)
        assert await problems(world) == []
        left = before if not was_committed else ENDS[name]
        assert {table: len(await world.rows(table)) for table in before} == left
        with suppress(*DONE_BEFORE):
            await story.call(world)
            assert story.is_repeatable or not was_committed
        more = MADE_AGAIN.get(name, {}) if was_committed else {}
        end = {table: count + more.get(table, 0) for table, count in ENDS[name].items()}
        assert {table: len(await world.rows(table)) for table in before} == end
        assert await problems(world) == []
