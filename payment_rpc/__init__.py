"""Takes money for orders: payments, attempts at channels, the ledger."""
