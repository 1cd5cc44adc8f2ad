"""Reading the product's own sources in tests."""

from __future__ import annotations

import ast
import gc
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


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


@cache
def failpoints(
    *folders: str,
) -> tuple[str, ...]:
    """The name of every `failpoint("…")` in some folders of the product; without one in those of
    the mesh and of every service.
    """
    return tuple(
        sorted(
            {
                str(inner.value)
                for folder in folders
                or ("mesh", "payment_rpc", "order_rpc", "seckill_rpc", "merchant_rpc")
                for path in (ROOT / folder).rglob("*.py")
                if "failpoint(" in path.read_text()
                for node in ast.walk(parsed(path))
                if isinstance(node, ast.Call)
                and getattr(node.func, "id", getattr(node.func, "attr", "")) == "failpoint"
                for inner in ast.walk(node.args[0])
                if isinstance(inner, ast.Constant) and "." in str(inner.value)
            }
        )
    )
