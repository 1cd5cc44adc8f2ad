"""docs/channels.md says what the adapters and the simulators say of themselves."""

from __future__ import annotations

import re
from importlib import import_module

import pytest

from mesh.variables import known_variables
from payment_rpc.channels.capabilities import Close
from payment_rpc.channels.providers import PROVIDERS
from paymesh_cli.service_settings import SETTINGS
from sandbox.providers.settings import NAMES
from tests.builders.channel_table import capability_rows
from tools.processes import ROOT

PAGE = (ROOT / "docs" / "channels.md").read_text()


async def test_the_table_of_what_each_can_is_what_the_adapters_say() -> None:
    table = "\n".join(await capability_rows())
    assert table in PAGE, f"docs/channels.md has to have this table:\n{table}"


def test_every_kind_of_closing_is_explained() -> None:
    assert {kind for kind in Close if f"\n| {kind} | " not in PAGE} == set()


@pytest.mark.parametrize("name", NAMES)
def test_the_amounts_that_provoke_something_are_those_of_the_simulator(name: str) -> None:
    told = import_module(f"sandbox.providers.{name}.triggers").__doc__ or ""
    tables = re.findall(r"(?:^\|.*\n?)+", told, re.MULTILINE)
    assert tables
    assert [table for table in tables if table.strip() not in PAGE] == []


@pytest.mark.parametrize("name", sorted(PROVIDERS))
def test_each_provider_has_a_page_of_its_own(name: str) -> None:
    assert f"(channels/{name}.md)" in PAGE
    page = (ROOT / "docs" / "channels" / f"{name}.md").read_text()
    for heading in ("Credentials", "What it can and cannot", "Before going live", "One purchase"):
        assert f"\n## {heading}" in page


@pytest.mark.parametrize("name", sorted(PROVIDERS))
def test_each_field_of_the_credentials_stands_on_the_page(name: str) -> None:
    credentials = import_module(f"payment_rpc.channels.{name}.credentials").Credentials
    page = (ROOT / "docs" / "channels" / f"{name}.md").read_text()
    fields = credentials.__struct_fields__
    assert [field for field in fields if f"`{field}`" not in page] == []


def test_settings_that_it_names_exist() -> None:
    named = set(re.findall(r"`((?:PAYMENT_RPC|PROVIDERS|PAYMESH|GATEWAY)_[A-Z_]+)`", PAGE))
    assert named
    assert named - known_variables(SETTINGS.values()) == set()
