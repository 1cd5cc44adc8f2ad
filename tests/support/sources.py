"""Reading the product's own sources in tests."""

from __future__ import annotations

import ast
import gc
from pathlib import Path


def parsed(path: Path) -> ast.Module:
    """The syntax tree of a module. Without garbage collection: what a finalizer parses in the
    middle of it makes CPython 3.11 raise SystemError (AST constructor recursion depth mismatch)."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    finally:
        if was_enabled:
            gc.enable()
