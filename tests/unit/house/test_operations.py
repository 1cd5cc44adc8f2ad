"""docs/operations.md says what to do at each alert, and names no alert, setting or command that is
not there.
"""

from __future__ import annotations

import ast
import re

from mesh.variables import known_variables
from paymesh_cli import _COMMANDS
from paymesh_cli.service_settings import SETTINGS
from tests.support.sources import parsed
from tools.processes import ROOT

PAGE = (ROOT / "docs" / "operations.md").read_text()
PACKAGES = ("mesh", *SETTINGS)


def alerts() -> set[str]:
    """The events of all log lines that call for a person."""
    found = set()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(parsed(path)):
                if isinstance(node, ast.Call) and any(
                    keyword.arg == "alert" for keyword in node.keywords
                ):
                    assert isinstance(node.args[0], ast.Constant), (
                        f"{path}: the event of an alert is written out, so that it can be looked up"
                    )
                    found.add(str(node.args[0].value))
    return found


def test_every_alert_says_what_to_do() -> None:
    headings = re.findall(r"^### ([a-z_]+)$", PAGE, re.MULTILINE)
    assert sorted(headings) == sorted(alerts())
    for heading, text in re.findall(
        r"^### ([a-z_]+)\n\n(.*?)(?=^###? |\Z)", PAGE, re.MULTILINE | re.DOTALL
    ):
        assert len(text.split()) > 12, heading


def test_every_kind_of_attention_is_explained() -> None:
    kinds = {
        kind
        for path in (ROOT / "payment_rpc" / "domain").glob("*facts.py")
        for kind in re.findall(r'review_reason="([A-Z_]+)"', path.read_text())
    }
    assert kinds
    assert {kind for kind in kinds if f"`{kind}`" not in PAGE} == set()


def test_settings_and_commands_that_it_names_exist() -> None:
    names = set(re.findall(r"`([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)[`=]", PAGE)) - {
        "CAPTURE_CONTRADICTED"
    }
    known = known_variables(SETTINGS.values())
    settings = {
        name
        for name in names
        if name.endswith(
            ("_FILE", "_DAYS", "_SECONDS", "_PORT", "_SIZE", "_MAX", "_TARGETS", "_URL")
        )
    }
    assert settings
    assert {
        name for name in settings if name not in known and f"PAYMESH_{name}" not in known
    } == set()
    assert {
        command for command in re.findall(r"`paymesh ([a-z-]+)", PAGE) if command not in _COMMANDS
    } == set()
