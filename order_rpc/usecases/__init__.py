"""What order_rpc does: one method per RPC, one transaction per method, its order of effects on one
screen.
"""
