"""The simulated outside world: a payment channel as a program of its own.

It knows paymesh by the published HTTP API alone, and imports nothing of the services. It does
import the runtime `mesh`: money, identifiers, clock, settings, logs, the worker and the HTTP
server.
"""
