"""Defines column types that behave the same on every database."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import BigInteger, Dialect, Integer, MetaData, String
from sqlalchemy.dialects import mysql
from sqlalchemy.types import TypeDecorator, TypeEngine

from mesh.times import from_milliseconds, milliseconds

# an offset may leave the range: the start of year 1 at +08:00 is before year 1 in UTC
_FIRST = milliseconds(datetime.min.replace(tzinfo=UTC))
_LAST = milliseconds(datetime.max.replace(tzinfo=UTC))

# An autoincrementing key: SQLite only increments an INTEGER PRIMARY KEY.
BigInt = BigInteger().with_variant(Integer, "sqlite")
# A whole number of 38 digits, for sums of amounts: a tenant can make 64 bits overflow. SQLite
# continues in floating point there.
WideInteger = BigInteger().with_variant(mysql.DECIMAL(38, 0), "mysql", "mariadb")


def Identifier(length: int) -> TypeEngine[str]:
    """A string that is compared byte for byte. MySQL's default collations treat 'abc' and 'ABC' as
    equal; SQLite compares bytes anyway.
    """
    exact = mysql.VARCHAR(length, charset="ascii", collation="ascii_bin")
    return String(length).with_variant(exact, "mysql", "mariadb")


class UtcMillis(TypeDecorator[datetime]):
    """An aware UTC datetime, stored as milliseconds since 1970: MariaDB truncates DATETIME
    fractions that MySQL rounds, and SQLite has no such type.
    """

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:  # noqa: ARG002  SQLAlchemy's signature
        """Refuses naive datetimes: they would be stored as if they were UTC."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("naive datetime")
        return min(max(milliseconds(value), _FIRST), _LAST)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002  SQLAlchemy's signature
        """Converts milliseconds to a datetime. A number outside the years 1 to 9999 is clamped, so
        that every row can be read.
        """
        return None if value is None else from_milliseconds(min(max(int(value), _FIRST), _LAST))


def one_of(column: str, values: Iterable[str]) -> str:
    """The condition of a CHECK that a column has one of these values."""
    return f"{column} IN ({', '.join(repr(str(value)) for value in values)})"


def metadata_with_names() -> MetaData:
    """A MetaData whose constraints all have names, so that a violation can be identified."""
    return MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        }
    )
