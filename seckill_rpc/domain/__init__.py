"""What activities and their orders are and which steps they may take. Nothing here knows of
databases, Redis, RPC or time.
"""
