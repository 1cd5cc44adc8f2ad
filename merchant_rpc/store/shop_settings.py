"""Versions of the settings of merchants. Rows are only ever added."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from merchant_rpc.domain.shop_settings import SettingsVersion, ShopSettings
from merchant_rpc.tables import MERCHANT_SETTING
from mesh.bad_rows import readable_page

_S = MERCHANT_SETTING.c


async def find_version(
    tx: AsyncConnection, *, merchant_id: str, version: int
) -> SettingsVersion | None:
    """One version, or None."""
    found = await tx.execute(
        select(MERCHANT_SETTING).where(_S.merchant_id == merchant_id, _S.version == version)
    )
    row = found.one_or_none()
    return None if row is None else _version(row)


async def insert_version(tx: AsyncConnection, version: SettingsVersion) -> None:
    """Writes a new version."""
    await tx.execute(
        insert(MERCHANT_SETTING).values(
            merchant_id=version.merchant_id,
            version=version.version,
            body=version.settings.body(),
            created_by=version.created_by,
            created_at=version.created_at,
        )
    )


async def list_versions(
    tx: AsyncConnection, *, merchant_id: str, before: int | None, limit: int
) -> list[SettingsVersion]:
    """Versions of a merchant, newest first, beginning below `before`."""

    async def fetch(last: Any, wanted: int) -> Sequence[Any]:
        below = before if last is None else last.version
        statement = select(MERCHANT_SETTING).where(_S.merchant_id == merchant_id)
        if below is not None:
            statement = statement.where(_S.version < below)
        return (await tx.execute(statement.order_by(_S.version.desc()).limit(wanted))).all()

    return await readable_page(
        fetch,
        _version,
        of="merchant_setting",
        key=lambda row: f"{row.merchant_id}/{row.version}",
        limit=limit,
    )


def _version(row: Any) -> SettingsVersion:
    return SettingsVersion(
        merchant_id=row.merchant_id,
        version=row.version,
        settings=ShopSettings.from_body(row.body),
        created_by=row.created_by,
        created_at=row.created_at,
    )
