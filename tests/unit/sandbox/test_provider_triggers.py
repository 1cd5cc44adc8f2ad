"""The tables of amounts in docstrings, which documentation quotes, are those that the code knows."""

from __future__ import annotations

import re
from enum import Enum
from types import ModuleType

import pytest

from sandbox.providers.alipay import triggers as alipay
from sandbox.providers.wechat import triggers as wechat


def told(module: ModuleType) -> set[int]:
    """The amounts in the first column of the tables, in fen."""
    found = re.findall(r"^\| ([0-9.]+) \|", module.__doc__ or "", re.MULTILINE)
    return {int(amount.replace(".", "")) for amount in found}


@pytest.mark.parametrize("module", [alipay, wechat])
def test_every_trigger_is_in_the_table_and_nothing_else(module: ModuleType) -> None:
    kinds: tuple[type[Enum], ...] = (module.PaymentTrigger, module.RefundTrigger)
    known = {one.value for kind in kinds for one in kind if one.name != "NONE"}
    assert told(module) == known


@pytest.mark.parametrize("module", [alipay, wechat])
@pytest.mark.parametrize("fen", [0, 1, 9999, 7700, 10_000, 77_010])
def test_other_amounts_trigger_nothing(module: ModuleType, fen: int) -> None:
    assert module.of_payment(fen).name == "NONE"
    assert module.of_refund(fen).name == "NONE"
    assert module.of_payment(7702 + 30_000).value == 7702
