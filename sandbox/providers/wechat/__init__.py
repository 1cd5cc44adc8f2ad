"""Simulates WeChat Pay (APIv3, direct merchant): native, jsapi, h5 and app orders, queries, closes,
refunds, bills and encrypted notices. `triggers` lists the amounts that provoke special cases.
"""

from __future__ import annotations

from typing import Final

from sandbox.providers.simulation import Provider
from sandbox.providers.wechat.app import create_app
from sandbox.providers.wechat.notices import delivery_rule
from sandbox.providers.wechat.objects import WechatConfig

PROVIDER: Final = Provider(
    name="wechat", config=WechatConfig, rule=delivery_rule, create_app=create_app
)
