"""Simulates payment providers as one separate program: what their public documents say about
requests, answers, notices and statements, with the published test values.

State is in memory and dies with the process. Everything that depends on time uses the simulation's
clock, which tests move. Nothing here reaches a provider, and no key here opens anything.

- `simulation`: what a provider is built from; `server` runs it
- `faults`: misbehaviour on demand; `ledger`: what money really moved; `webhooks`: notices
- `control`: the routes below /_sim/, common to all
- `buyer_page`: pages for a person; `rsa_keys`, `china`: what several providers share
- one package per provider
"""
