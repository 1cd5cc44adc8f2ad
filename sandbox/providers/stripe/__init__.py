"""Simulates Stripe as far as payments need it."""

from __future__ import annotations

from sandbox.providers.simulation import Provider
from sandbox.providers.stripe.app import create_app
from sandbox.providers.stripe.config import StripeConfig, delivery_rule

PROVIDER = Provider(name="stripe", config=StripeConfig, rule=delivery_rule, create_app=create_app)
