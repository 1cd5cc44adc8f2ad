"""Which cases of a test run in CI: as many as its markers say, always at least one, and all of them
in the proof and when a test is named.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

TESTS = Path(__file__).parents[2]
Draw = Callable[..., set[str]]


class Case:
    """Of an item of pytest, what the draw looks at."""

    def __init__(self, case: str, marker: pytest.Mark | None) -> None:
        self.nodeid = f"tests/integration/test_it.py::test_it[{case}]"
        self.path = TESTS / "integration/test_it.py"
        self._marker = marker

    def add_marker(self, name: str) -> None:
        assert name == "integration"

    def get_closest_marker(self, name: str) -> pytest.Mark | None:
        return self._marker if self._marker is not None and self._marker.name == name else None


@pytest.fixture
def draw(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Draw:
    """`draw(seed, marker, cases)`: the cases that run."""
    conftest: Any = next(
        plugin
        for plugin in request.config.pluginmanager.get_plugins()
        if getattr(plugin, "__file__", None) == str(TESTS / "conftest.py")
    )

    def drawn(
        seed: int,
        marker: pytest.MarkDecorator | None,
        cases: list[str],
        *,
        proof: bool = False,
        argument: str = "tests",
    ) -> set[str]:
        monkeypatch.setattr(conftest, "SEED", str(seed))
        monkeypatch.setattr(conftest, "PROOF", proof)
        items: Any = [Case(case, marker.mark if marker is not None else None) for case in cases]
        hook = SimpleNamespace(pytest_deselected=lambda items: None)
        config: Any = SimpleNamespace(args=[argument], hook=hook)
        conftest.pytest_collection_modifyitems(config, items)
        return {item.nodeid.partition("[")[2].removesuffix("]") for item in items}

    return drawn


BOTH = ["sqlite", "mariadb"]
TABLE = [f"{dialect}-{row}" for row in range(20) for dialect in BOTH]


def test_without_a_marker_every_case_runs_on_sqlite_and_a_tenth_on_mariadb(draw: Draw) -> None:
    assert draw(1, None, BOTH) == set(BOTH)
    ran = draw(1, None, TABLE)
    assert {case for case in TABLE if "sqlite" in case} < ran
    assert len(ran) == 20 + 2


def test_one_database_is_now_the_one_and_now_the_other(draw: Draw) -> None:
    ran = [draw(seed, pytest.mark.one_database, BOTH) for seed in range(40)]
    assert {tuple(each) for each in ran} == {("sqlite",), ("mariadb",)}
    assert draw(7, pytest.mark.one_database, BOTH) == ran[7]


def test_one_database_keeps_every_case_of_a_table(draw: Draw) -> None:
    assert draw(1, pytest.mark.one_database, TABLE) == draw(1, None, TABLE)


def test_as_many_cases_run_as_are_drawn_whatever_the_databases_left(draw: Draw) -> None:
    for seed in range(40):
        assert len(draw(seed, pytest.mark.drawn(6), TABLE)) == 6
        assert len(draw(seed, pytest.mark.drawn(1), TABLE)) == 1
    assert draw(1, pytest.mark.drawn(6), TABLE[::10]) < set(TABLE)


@pytest.mark.parametrize("marker", [pytest.mark.one_database, pytest.mark.drawn(1), None])
def test_all_run_in_the_proof_and_when_a_test_is_named(
    draw: Draw, marker: pytest.MarkDecorator | None
) -> None:
    assert draw(1, marker, TABLE, proof=True) == set(TABLE)
    assert draw(1, marker, BOTH, argument="tests/integration/test_it.py::test_it") == set(BOTH)
