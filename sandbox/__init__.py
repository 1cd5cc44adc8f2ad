"""The simulated outside world: a payment channel as a program of its own.

It uses the runtime of paymesh (`mesh`: clocks, money, HTTP server) and nothing of its services.
They know each other by the published HTTP API.
"""
