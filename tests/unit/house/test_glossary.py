"""docs/glossary.md stays short, sorted, and about words that the code uses."""

from __future__ import annotations

import re

from tests.support.sources import ROOT

PAGE = (ROOT / "docs" / "glossary.md").read_text()
TERMS = [term for term in re.findall(r"^\| ([^|]+?) \| ", PAGE, re.MULTILINE) if term != "term"]
TERMS_MAX = 30


def test_there_are_few_terms_in_the_order_of_the_alphabet() -> None:
    assert 20 <= len(TERMS) <= TERMS_MAX
    assert sorted(TERMS) == TERMS


def test_every_line_of_code_of_the_glossary_is_there() -> None:
    folders = re.findall(r"`([a-z_]+/)`", PAGE)
    assert [folder for folder in folders if not (ROOT / folder).is_dir()] == []


def test_every_term_is_used_elsewhere() -> None:
    text = " ".join(
        re.sub(r"[\s#_]+", " ", path.read_text()).lower()
        for folder in ("mesh", "payment_rpc", "order_rpc", "seckill_rpc", "docs", "protos")
        for pattern in ("*.py", "*.md", "*.proto")
        for path in (ROOT / folder).rglob(pattern)
        if path.name != "glossary.md"
    )
    assert [term for term in TERMS if term not in text] == []
