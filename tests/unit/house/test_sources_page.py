"""Whoever meets a source by its number finds in docs/sources.md what it was."""

from __future__ import annotations

import re

from tests.support.sources import ROOT

PAGE = (ROOT / "docs" / "sources.md").read_text()
SPELLED = re.compile(r"\b[Ss]ource (\d{3})\b")
FOLDERS = (
    "docs",
    "protos",
    "mesh",
    "gateway",
    "sandbox",
    "paymesh_cli",
    *("payment_rpc", "order_rpc", "seckill_rpc", "merchant_rpc"),
)


def numbers_used() -> set[str]:
    return {
        number
        for folder in FOLDERS
        for pattern in ("*.py", "*.md", "*.proto", "*.lua")
        for path in (ROOT / folder).rglob(pattern)
        if path.name != "sources.md"
        for number in SPELLED.findall(path.read_text())
    }


def test_the_page_explains_each_source_that_is_named_and_no_other() -> None:
    explained = re.findall(r"^\| source (\d{3}) \|", PAGE, re.MULTILINE)
    assert explained == sorted(numbers_used())


def test_the_pages_that_it_leads_to_are_there() -> None:
    links = re.findall(r"\]\(([^)]+)\)", PAGE)
    assert links
    assert [link for link in links if not (ROOT / "docs" / link).is_file()] == []
