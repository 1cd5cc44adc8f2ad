"""What payment_rpc does, one method per RPC or worker round: the order of effects, on one screen
each.
"""
