"""The rules of activities and their orders. Nothing here knows databases, Redis, RPC or time."""
