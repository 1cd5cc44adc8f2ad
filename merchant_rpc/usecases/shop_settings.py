"""What a merchant decides for its shop: versions that never change; the newest is in force."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy.ext.asyncio import AsyncConnection

from merchant_rpc.domain.errors import MerchantStateInvalid, SettingsChanged
from merchant_rpc.domain.merchant import Merchant, MerchantState
from merchant_rpc.domain.shop_settings import SettingsVersion, ShopSettings
from merchant_rpc.store import merchants
from merchant_rpc.store import shop_settings as store
from merchant_rpc.usecases.actions import Actions, actor_of, digest_of
from mesh.call import Caller
from mesh.clock import Clock
from mesh.db import Database
from mesh.failpoints import failpoint
from mesh.paging import Key, PageTokens


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateSettings:
    """The whole new settings, the version that was read before, and why."""

    merchant_id: str
    settings: ShopSettings
    read_version: int
    reason: str


class SettingsOfShops:
    """GetSettings, UpdateSettings, ListSettingsVersions, GetMerchantSettings."""

    def __init__(
        self, *, db: Database, clock: Clock, page_tokens: PageTokens, actions: Actions
    ) -> None:
        self._db = db
        self._clock = clock
        self._page_tokens = page_tokens
        self._actions = actions

    async def get(self, *, merchant_id: str, caller: Caller) -> SettingsVersion:
        """The version in force.

        Raises:
            MerchantNotFound: there is no such merchant, or it is not the caller's.
        """
        return await self._db.read(self._get, merchant_id=merchant_id, caller=caller)

    async def update(self, command: UpdateSettings, caller: Caller) -> SettingsVersion:
        """Puts a new version in force.

        Raises:
            InvalidArgument, MerchantNotFound, MerchantStateInvalid: the merchant is closed, or its
                address is not confirmed. SettingsChanged: another version is in force than the one
                that was read.
        """
        command.settings.check()
        version = await self._db.run(self._update, command, caller)
        failpoint("merchant.settings.after_commit")
        return version

    async def list_versions(
        self, *, merchant_id: str, page_size: int, page_token: str, caller: Caller
    ) -> tuple[tuple[SettingsVersion, ...], str]:
        """One page of versions, newest first, and the token of the next one.

        Raises:
            MerchantNotFound, PageTokenInvalid.
        """
        await self._db.read(merchants.get_merchant, merchant_id=merchant_id, visible_to=caller)

        async def read(before: tuple[Key, ...] | None, limit: int) -> Sequence[SettingsVersion]:
            return await self._db.read(
                store.list_versions,
                merchant_id=merchant_id,
                before=int(before[0]) if before else None,
                limit=limit,
            )

        return await self._page_tokens.page(
            read,
            list_name="ListSettingsVersions",
            filter={"merchant_id": merchant_id},
            types=(int,),
            size=page_size,
            token=page_token,
            key=lambda version: (version.version,),
        )

    async def for_service(self, merchant_id: str) -> tuple[Merchant, SettingsVersion] | None:
        """A merchant and its settings, for services; None for one that we do not know, or that has
        not begun.
        """
        return await self._db.read(self._for_service, merchant_id)

    async def _for_service(
        self, tx: AsyncConnection, merchant_id: str
    ) -> tuple[Merchant, SettingsVersion] | None:
        merchant = await merchants.find_merchant(tx, merchant_id=merchant_id)
        if merchant is None or merchant.state is MerchantState.PENDING_EMAIL:
            return None
        return merchant, await _in_force(tx, merchant)

    async def _get(
        self, tx: AsyncConnection, *, merchant_id: str, caller: Caller
    ) -> SettingsVersion:
        merchant = await merchants.get_merchant(tx, merchant_id=merchant_id, visible_to=caller)
        return await _in_force(tx, merchant)

    async def _update(
        self, tx: AsyncConnection, command: UpdateSettings, caller: Caller
    ) -> SettingsVersion:
        await merchants.get_merchant(tx, merchant_id=command.merchant_id, visible_to=caller)
        merchant = await merchants.lock_merchant(tx, merchant_id=command.merchant_id)
        if merchant.state in {MerchantState.PENDING_EMAIL, MerchantState.CLOSED}:
            raise MerchantStateInvalid(
                f"settings cannot change in state {merchant.state}",
                state=merchant.state,
                verb="UPDATE_SETTINGS",
            )
        if merchant.settings_version != command.read_version:
            raise SettingsChanged(
                f"version {merchant.settings_version} is in force",
                version=merchant.settings_version,
            )
        before = await _in_force(tx, merchant)
        now = self._clock.now()
        version = SettingsVersion(
            merchant_id=merchant.merchant_id,
            version=merchant.settings_version + 1,
            settings=command.settings,
            created_by=actor_of(caller),
            created_at=now,
        )
        await store.insert_version(tx, version)
        await merchants.update_merchant(
            tx,
            replace(
                merchant,
                settings_version=version.version,
                version=merchant.version + 1,
                updated_at=now,
            ),
        )
        await self._actions.record(
            tx,
            caller=caller,
            merchant_id=merchant.merchant_id,
            method="UpdateSettings",
            target=f"version {version.version}",
            # The versions themselves are kept; these say that nobody changed them.
            before={"version": before.version, "body": digest_of(before.settings.body())},
            after={"version": version.version, "body": digest_of(version.settings.body())},
            reason=command.reason,
        )
        failpoint("merchant.settings.before_commit")
        return version


async def _in_force(tx: AsyncConnection, merchant: Merchant) -> SettingsVersion:
    found = None
    if merchant.settings_version:
        found = await store.find_version(
            tx, merchant_id=merchant.merchant_id, version=merchant.settings_version
        )
    return found or SettingsVersion(
        merchant_id=merchant.merchant_id,
        version=0,
        settings=ShopSettings(),
        created_by="",
        created_at=merchant.created_at,
    )
