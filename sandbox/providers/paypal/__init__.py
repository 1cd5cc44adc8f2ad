"""Simulates PayPal: Orders v2, Payments v2, transaction search and webhooks, as far as a shop uses
them. `triggers` lists what an amount asks for, `buyer` what somebody else than the shop can do.
"""

from __future__ import annotations

from sandbox.providers.paypal.app import create_app
from sandbox.providers.paypal.config import PayPalConfig, delivery_rule
from sandbox.providers.simulation import Provider

PROVIDER = Provider(name="paypal", config=PayPalConfig, rule=delivery_rule, create_app=create_app)
