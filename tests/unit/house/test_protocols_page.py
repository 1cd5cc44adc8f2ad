"""docs/protocols.md names no RPC, state, reason, account, table or file that is not there."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from enum import Enum

from gateway.schema import load_schema
from order_rpc import tables as order_tables
from payment_rpc import tables as payment_tables
from payment_rpc.channels.capabilities import Close
from payment_rpc.domain import ledger
from payment_rpc.domain.facts import LOST_BEFORE_CHANNEL
from seckill_rpc import tables as seckill_tables
from tools.processes import ROOT

PAGE = (ROOT / "docs" / "protocols.md").read_text()
SCHEMA = load_schema()
SERVICES = ("payment_rpc", "order_rpc", "seckill_rpc")
# The state of a receipt without an answer, and words of SQL and HTTP.
OTHERS = {"RUNNING", "HTTP", "UPDATE", "UPDATEs", "NULL", "CHECK", "CHECKs"}


def states() -> Iterator[str]:
    """The members of every enum of the three domains."""
    paths = [
        path
        for service in SERVICES
        for path in sorted((ROOT / service / "domain").glob("[a-z]*.py"))
    ]
    for module in (
        importlib.import_module(f"{path.parent.parent.name}.domain.{path.stem}") for path in paths
    ):
        for _, kind in inspect.getmembers(module, inspect.isclass):
            if issubclass(kind, Enum):
                yield from (str(member.value) for member in kind)


def test_every_state_and_reason_of_the_page_is_one() -> None:
    words = set(re.findall(r"\b[A-Z][A-Z_]{3,}s?\b", PAGE))
    reasons = {spec.reason for spec in SCHEMA.errors} | {LOST_BEFORE_CHANNEL.reason}
    assert words - set(states()) - set(Close) - reasons - OTHERS == set()


def test_every_kind_of_closing_is_explained() -> None:
    kinds = re.findall(r"^\| ([A-Z]+) \|.*\|.*\|.*\|$", PAGE, re.MULTILINE)
    assert [kind for kind in kinds if kind in set(Close)] == list(Close)


def test_every_rpc_of_the_page_is_one() -> None:
    names = set(re.findall(r"`([A-Z][a-z]+(?:[A-Z][a-z]+)+)`", PAGE))
    assert len(names) > 10
    assert names - {method.descriptor.name for method in SCHEMA.methods} == set()


def test_every_account_and_column_of_the_page_is_one() -> None:
    names = {
        name for name in re.findall(r"`([a-z]+(?:_[a-z]+)*)`", PAGE) if not name.endswith("_rpc")
    }
    columns = {
        column.name.removesuffix("_minor")
        for tables in (payment_tables, order_tables, seckill_tables)
        for table in tables.metadata.tables.values()
        for column in table.columns
    }
    accounts = {name for name, _ in inspect.getmembers(ledger, inspect.isfunction)} | {"loss"}
    assert names - columns - accounts == set()


def test_every_file_of_the_page_is_there() -> None:
    paths = re.findall(r"`([a-z_]+(?:/[a-z_]+)+\.py)`", PAGE)
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_section_that_the_code_points_to_is_there() -> None:
    sections = set(re.findall(r"^## (\d)\.", PAGE, re.MULTILINE))
    headings = set(re.findall(r"^### (\w+)", PAGE, re.MULTILINE))
    pointers = {
        pointer
        for folder in (*SERVICES, "mesh", "gateway", "tests")
        for path in (ROOT / folder).rglob("*.py")
        for pointer in re.findall(r"docs/protocols\.md (\d)(?:, ([A-Z]\w+))?", path.read_text())
    }
    assert pointers
    assert {
        (section, heading)
        for section, heading in pointers
        if section not in sections or (heading and heading not in headings)
    } == set()
