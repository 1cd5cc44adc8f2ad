"""Simulates a payment channel as a separate program.

It uses only the published HTTP API of paymesh, and imports nothing of the services. It imports the
runtime `mesh`: money, identifiers, clock, settings, logs, the worker and the HTTP server.
"""
