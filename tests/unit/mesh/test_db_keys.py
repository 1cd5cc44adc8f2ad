"""Conditions on keys of several columns."""

from __future__ import annotations

import sqlite3

from sqlalchemy import Column, Integer, MetaData, String, Table, insert, select
from sqlalchemy.dialects import sqlite

from mesh.db.keys import among_keys, one_of_keys

THING = Table(
    "thing",
    MetaData(),
    Column("shop", String(8), primary_key=True),
    Column("id", Integer, primary_key=True),
)
KEY = (THING.c.shop, THING.c.id)


def found(condition: object) -> list[tuple[str, int]]:
    """The rows of two shops that a condition takes."""
    options = {"literal_binds": True}
    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE thing (shop TEXT, id INTEGER)")
    for shop in "ab":
        for number in range(10):
            database.execute(
                str(
                    insert(THING)
                    .values(shop=shop, id=number)
                    .compile(dialect=sqlite.dialect(), compile_kwargs=options)
                )
            )
    query = select(THING).where(condition).order_by(*KEY)  # type: ignore[arg-type]
    rows = database.execute(
        str(query.compile(dialect=sqlite.dialect(), compile_kwargs=options))
    ).fetchall()
    database.close()
    return rows


def test_a_page_of_neighbours_is_found_by_its_ends_and_by_nothing_beyond_them() -> None:
    page = [("a", 7), ("a", 9), ("b", 0), ("b", 2)]
    assert found(one_of_keys(KEY, page)) == page
    assert found(among_keys(KEY, page)) == [
        ("a", 7),
        ("a", 8),
        ("a", 9),
        ("b", 0),
        ("b", 1),
        ("b", 2),
    ]
    assert found(among_keys(KEY, [])) == []


def test_a_page_of_two_thousand_costs_no_more_values_than_one_of_two() -> None:
    page = [("a", number) for number in range(2000)]
    assert len(select(THING).where(among_keys(KEY, page)).compile().params) == 3
