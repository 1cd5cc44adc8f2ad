"""docs/states.md is what the state machines say, and no step is drawn without its cause."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "build_states", ROOT / "tools" / "build_states.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "build_states", module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_document_is_what_the_tables_say(tool: ModuleType) -> None:
    assert (ROOT / "docs" / "states.md").read_text() == tool.document(tool.MACHINES), (
        "run `make protos`"
    )


def test_every_step_of_every_table_is_drawn_with_its_cause(tool: ModuleType) -> None:
    text = tool.document(tool.MACHINES)
    for machine in tool.MACHINES:
        for (state, target), cause in machine.causes.items():
            assert f"    {state} --> {target} : " in text
            assert f"| `{state}` | `{target}` | {cause} |" in text
