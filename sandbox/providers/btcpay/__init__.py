"""Simulates a store of a BTCPay Server: invoices, pull payments and webhooks of the Greenfield API,
as far as a shop uses them. `triggers` lists what an amount asks for, `buyer` what somebody else
than the shop can do.
"""

from __future__ import annotations

from sandbox.providers.btcpay.app import create_app
from sandbox.providers.btcpay.config import BTCPayConfig, delivery_rule
from sandbox.providers.simulation import Provider

PROVIDER = Provider(name="btcpay", config=BTCPayConfig, rule=delivery_rule, create_app=create_app)
