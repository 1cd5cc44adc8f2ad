"""Tests of paymesh: unit, contract, integration and e2e. What a folder needs stands in its marker
(pyproject.toml).
"""
