"""Things that somebody changes by hand in the database of merchant_rpc, of which everything holds,
and what `paymesh audit` finds of each: for tests/integration/merchant/test_merchant_corruptions.py and
the mutants of the audit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from merchant_rpc.audit import AUDIT
from merchant_rpc.domain.shop_settings import ShopSettings
from merchant_rpc.tables import ACTION_LOG, metadata
from merchant_rpc.usecases.api_keys import CreateApiKey
from merchant_rpc.usecases.logins import CreateSession
from mesh.api_key_format import ApiKeyKind
from mesh.audit import AuditTolerance
from tests.builders.audit_corruptions import Row, all_rows, restore_rows
from tests.builders.merchant import HOME, PASSWORD, MerchantWorld, as_member
from tests.support.databases import plant


async def lived(world: MerchantWorld) -> None:
    """A merchant with everything, one in each state, and no mail that waits."""
    await world.merchant()
    await world.member()
    await world.update_settings(ShopSettings())
    await world.update_settings(ShopSettings(), read_version=1)
    await world.step("activate")
    for merchant_id in ("shop", "gone", "back"):
        await world.merchant(merchant_id)
    for merchant_id in ("acme", "gone"):
        await _key_and_session(world, merchant_id)
    await world.step("suspend", "shop")
    await world.step("close", "gone")
    await world.step("suspend", "back")
    await world.step("resume", "back")
    await world.invite("other@acme.example")
    await world.sign_up("pending", "p@pending.example")
    while await world.app.mail_relay.run_once():
        pass


async def _key_and_session(world: MerchantWorld, merchant_id: str) -> None:
    """Of the owner."""
    owner = await world.owner(merchant_id)
    await world.app.api_keys.create(
        CreateApiKey(
            merchant_id=f"{merchant_id}_test",
            kind=ApiKeyKind.SECRET,
            name="web shop",
            scopes=(),
            allowed_addresses=(),
            expires_at=None,
            reason="a new shop",
        ),
        as_member(owner, merchant_id=f"{merchant_id}_test"),
    )
    await world.app.logins.create_session(
        CreateSession(
            email=owner.account.email,
            password=PASSWORD,
            code="",
            merchant_id=merchant_id,
            client_address=HOME,
        )
    )


@dataclass
class MerchantStage:
    """Merchants after a day, and their rows as they were."""

    world: MerchantWorld
    rows: dict[str, list[Row]]

    @classmethod
    async def of(cls, world: MerchantWorld) -> MerchantStage:
        await lived(world)
        rows = {
            table.name: await world.db.read(all_rows, table) for table in metadata.sorted_tables
        }
        return cls(world, rows)

    async def restore(self) -> None:
        """Every row as it was."""
        await self.world.db.run(restore_rows, metadata, self.rows)

    async def found(self) -> set[tuple[str, str]]:
        """What the audit finds: (check, subject)."""
        tolerance = AuditTolerance(now=self.world.clock.now(), strict=True)
        return {
            (found.check, found.subject)
            async for found in AUDIT.violations(self.world.db, tolerance)
        }

    async def one(self, query: str) -> str:
        """What a query says, as text."""

        async def read(tx: AsyncConnection) -> Any:
            return (await tx.execute(text(query))).scalar_one()

        return str(await self.world.db.read(read))


@dataclass(frozen=True, slots=True, kw_only=True)
class Corruption:
    """Statements, each of which changes a row, and what the audit says of it then. `of` is the
    subject, or a query that finds it (before anything is changed).
    """

    sql: tuple[str, ...]
    check: str
    of: str

    async def subject(self, stage: MerchantStage) -> str:
        return await stage.one(self.of) if self.of.startswith("SELECT ") else self.of

    async def plant(self, stage: MerchantStage) -> None:
        await plant(stage.world.db, *self.sql)


def _changed(check: str, of: str, *sql: str) -> Corruption:
    return Corruption(sql=sql, check=check, of=of)


_KEY_OF_GONE = "SELECT key_id FROM api_key WHERE merchant_id = 'gone_test'"
_KEY_OF_ACME = "SELECT key_id FROM api_key WHERE merchant_id = 'acme_test'"
_SESSION_OF_GONE = "SELECT session_id FROM session WHERE merchant_id = 'gone'"
_SESSION_OF_ACME = "SELECT session_id FROM session WHERE merchant_id = 'acme'"
_ANY_LINK = "SELECT MIN(token_digest) FROM one_time_link"
_OLDEST_MAIL = "SELECT event_id FROM outbox ORDER BY id LIMIT 1"
_LAST = "SELECT MAX(id) AS id FROM admin_action WHERE merchant_id = 'acme'"
_OF_OLDEST_MAIL = "WHERE id = (SELECT id FROM (SELECT MIN(id) AS id FROM outbox) AS oldest)"

OF_MERCHANTS = {
    "a test sibling is gone": _changed(
        "sibling_exists", "shop", "DELETE FROM merchant WHERE merchant_id = 'shop_test'"
    ),
    "a merchant is its own sibling": _changed(
        "sibling_exists", "shop", "UPDATE merchant SET is_test = 0 WHERE merchant_id = 'shop_test'"
    ),
    "a sibling of nobody": _changed(
        "sibling_of_merchant",
        "lost_test",
        "UPDATE merchant SET merchant_id = 'lost_test' WHERE merchant_id = 'shop_test'",
    ),
    "a suspended merchant whose sibling is not": _changed(
        "sibling_follows",
        "shop",
        "UPDATE merchant SET state = 'TEST_ONLY', state_before = NULL WHERE merchant_id = 'shop_test'",
    ),
    "a closed merchant whose sibling is not": _changed(
        "sibling_follows",
        "gone",
        "UPDATE merchant SET state = 'TEST_ONLY' WHERE merchant_id = 'gone_test'",
    ),
    "a living merchant whose sibling is closed": _changed(
        "sibling_follows",
        "acme",
        "UPDATE merchant SET state = 'CLOSED' WHERE merchant_id = 'acme_test'",
    ),
    "a merchant may not take money any more": _changed(
        "log_leads_here",
        "acme",
        "UPDATE merchant SET state = 'TEST_ONLY' WHERE merchant_id = 'acme'",
    ),
    "a merchant may take money": _changed(
        "log_leads_here", "back", "UPDATE merchant SET state = 'LIVE' WHERE merchant_id = 'back'"
    ),
    "a closed merchant is back": _changed(
        "log_leads_here", "gone", "UPDATE merchant SET state = 'LIVE' WHERE merchant_id = 'gone'"
    ),
    "what a merchant became in its log": _changed(
        "log_leads_here",
        "acme",
        "UPDATE admin_action SET after_json = '{}' WHERE method = 'ActivateMerchant'",
    ),
    "the log and its chains are gone": _changed(
        "log_leads_here", "acme", "DELETE FROM admin_action", "DELETE FROM log_chain"
    ),
    "a sign-up of long ago": _changed(
        "sign_up_late",
        "pending",
        "UPDATE merchant SET created_at = created_at - 90000000 WHERE merchant_id = 'pending'",
    ),
    "older settings are in force": _changed(
        "settings_in_force",
        "acme",
        "UPDATE merchant SET settings_version = 1 WHERE merchant_id = 'acme'",
    ),
    "settings that nobody made are in force": _changed(
        "settings_in_force",
        "shop",
        "UPDATE merchant SET settings_version = 1 WHERE merchant_id = 'shop'",
    ),
    "the newest settings are gone": _changed(
        "settings_in_force", "acme", "DELETE FROM merchant_setting WHERE version = 2"
    ),
    "older settings are gone": _changed(
        "settings_in_force", "acme", "DELETE FROM merchant_setting WHERE version = 1"
    ),
    "settings of another merchant": _changed(
        "settings_in_force",
        "shop",
        "UPDATE merchant_setting SET merchant_id = 'shop' WHERE version = 2",
    ),
}
OF_PEOPLE = {
    "an owner is gone": _changed(
        "merchant_has_owner", "shop", "DELETE FROM membership WHERE merchant_id = 'shop'"
    ),
    "an owner is something less": _changed(
        "merchant_has_owner",
        "acme",
        "UPDATE membership SET role = 'ADMIN' WHERE merchant_id = 'acme' AND role = 'OWNER'",
    ),
    "somebody works for a sibling": _changed(
        "member_of_merchant",
        "SELECT member_id FROM membership WHERE merchant_id = 'acme' AND role = 'SUPPORT'",
        (
            "UPDATE membership SET merchant_id = 'acme_test' "
            "WHERE merchant_id = 'acme' AND role = 'SUPPORT'"
        ),
    ),
    "somebody works for a sign-up": _changed(
        "member_of_merchant",
        "SELECT member_id FROM membership WHERE merchant_id = 'acme' AND role = 'SUPPORT'",
        (
            "UPDATE membership SET merchant_id = 'pending' "
            "WHERE merchant_id = 'acme' AND role = 'SUPPORT'"
        ),
    ),
    "a key of a closed merchant's sibling lives": _changed(
        "closed_has_no_key",
        _KEY_OF_GONE,
        "UPDATE api_key SET revoked_at = NULL WHERE merchant_id = 'gone_test'",
    ),
    "a key of a closed merchant lives": _changed(
        "closed_has_no_key",
        _KEY_OF_ACME,
        "UPDATE api_key SET merchant_id = 'gone' WHERE merchant_id = 'acme_test'",
    ),
    "a session of a closed merchant lives": _changed(
        "closed_has_no_session",
        _SESSION_OF_GONE,
        "UPDATE session SET revoked_at = NULL WHERE merchant_id = 'gone'",
    ),
    "a session of a closed merchant's sibling lives": _changed(
        "closed_has_no_session",
        _SESSION_OF_ACME,
        "UPDATE session SET merchant_id = 'gone_test' WHERE merchant_id = 'acme'",
    ),
    "a link that was used works beside another": _changed(
        "one_link_works",
        "acme",
        (
            "UPDATE one_time_link SET used_at = NULL, subject = 'acme', "
            "expires_at = 99999999999999 WHERE kind = 'INVITATION'"
        ),
    ),
}
OF_MESSAGES = {
    "a refused mail": _changed(
        "outbox_dead", _OLDEST_MAIL, f"UPDATE outbox SET state = 'DEAD' {_OF_OLDEST_MAIL}"
    ),
    "a mail that is late": _changed(
        "outbox_late", _OLDEST_MAIL, f"UPDATE outbox SET state = 'NEW' {_OF_OLDEST_MAIL}"
    ),
    "a mail that nobody can read": _changed(
        "outbox_readable", _OLDEST_MAIL, f"UPDATE outbox SET payload = '{{' {_OF_OLDEST_MAIL}"
    ),
}
OF_THE_LOG = {
    "the first action of a merchant is gone": _changed(
        "log_chained",
        "acme",
        "DELETE FROM admin_action WHERE merchant_id = 'acme' AND method = 'ConfirmSignUp'",
    ),
    "an action in the middle is gone": _changed(
        "log_chained",
        "acme",
        "DELETE FROM admin_action WHERE merchant_id = 'acme' AND method = 'ActivateMerchant'",
    ),
    "the last action is gone": _changed(
        "log_chained",
        "acme",
        f"DELETE FROM admin_action WHERE id = (SELECT id FROM ({_LAST}) AS newest)",
    ),
    "the log is empty": _changed("log_chained", "acme", "DELETE FROM admin_action"),
    "the log of one merchant is empty": _changed(
        "log_chained", "shop", "DELETE FROM admin_action WHERE merchant_id = 'shop'"
    ),
    "the heads of the log are gone": _changed("log_chained", "acme", "DELETE FROM log_chain"),
    "an action is there twice": _changed(
        "log_chained",
        "acme",
        (
            "INSERT INTO admin_action (merchant_id, actor, method, target, before_json, after_json, "
            "reason, client_address, trace_id, outcome, created_at, chain_seq, chain_hash) "
            "SELECT merchant_id, actor, method, target, before_json, after_json, "
            "reason, client_address, trace_id, outcome, created_at, chain_seq, chain_hash "
            "FROM admin_action WHERE merchant_id = 'acme' AND method = 'ActivateMerchant'"
        ),
    ),
    **{
        f"{column} of an action": _changed(
            "log_chained",
            "acme",
            f"UPDATE admin_action SET {column} = {'1' if column == 'created_at' else repr('shop')} "
            "WHERE merchant_id = 'acme' AND method = 'ActivateMerchant'",
        )
        for column in ACTION_LOG.said
    },
}


def _unreadable(damage: str, of: str, where: str) -> Corruption:
    table = damage.partition(" ")[0]
    return _changed("row_readable", of, f"UPDATE {table} SET {damage.partition(' ')[2]} {where}")


_OF_SHOP = "WHERE merchant_id = 'shop'"
UNREADABLE = {
    f"unreadable {damage}": _unreadable(damage, of, where)
    for damage, of, where in (
        ("merchant state = 'NONSENSE'", "shop", _OF_SHOP),
        ("merchant state_before = NULL", "shop", _OF_SHOP),
        ("merchant state_before = 'CLOSED'", "shop", _OF_SHOP),
        ("merchant version = 0", "shop", _OF_SHOP),
        ("merchant default_currency = 'ZZZ'", "shop", _OF_SHOP),
        ("merchant created_at = 1000000000000000", "shop", _OF_SHOP),
        ("merchant state = 'LIVE'", "acme_test", "WHERE merchant_id = 'acme_test'"),
        ("merchant_setting body = '['", "2", "WHERE version = 2"),
        ("membership role = 'NONSENSE'", "SELECT MAX(member_id) FROM membership", "WHERE 1 = 1"),
        ("member state = 'NONSENSE'", "SELECT MAX(member_id) FROM member", "WHERE 1 = 1"),
        ("one_time_link kind = 'NONSENSE'", _ANY_LINK, "WHERE 1 = 1"),
        ("one_time_link payload = '{'", _ANY_LINK, "WHERE 1 = 1"),
        ("session rotation = 0", _SESSION_OF_ACME, "WHERE merchant_id = 'acme'"),
        ("session idle_expires_at = expires_at + 1", _SESSION_OF_ACME, "WHERE 1 = 1"),
        ("api_key kind = 'NONSENSE'", _KEY_OF_ACME, "WHERE merchant_id = 'acme_test'"),
    )
}

CORRUPTIONS = {**OF_MERCHANTS, **OF_PEOPLE, **OF_MESSAGES, **OF_THE_LOG, **UNREADABLE}
