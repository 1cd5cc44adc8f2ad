"""SQL of payment_rpc, in functions that take a transaction and never open one. Rows are loaded only
through `visible_to`.

Locks are taken in one order: order gate, receipt, payment (by id), attempt, outbox.
"""
