"""What products and orders are and which steps they may take. Nothing here knows of databases, RPC
or time.
"""
