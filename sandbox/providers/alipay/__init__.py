"""Simulates Alipay's gateway (version 2, RSA2): page and wap payments, QR codes, queries, closes,
refunds, bills and notices. `triggers` lists the amounts that provoke special cases.
"""

from __future__ import annotations

from typing import Final

from sandbox.providers.alipay.app import create_app
from sandbox.providers.alipay.notices import delivery_rule
from sandbox.providers.alipay.objects import AlipayConfig
from sandbox.providers.simulation import Provider

PROVIDER: Final = Provider(
    name="alipay", config=AlipayConfig, rule=delivery_rule, create_app=create_app
)
