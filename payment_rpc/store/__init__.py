"""SQL of payment_rpc, in functions that take a transaction and never open one. Rows are loaded only
through `visible_to`.

Locks are taken in one order: order gate, idempotency_key, payment (by id), attempt, outbox.
"""
