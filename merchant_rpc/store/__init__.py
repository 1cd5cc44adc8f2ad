"""SQL. Functions with a parameter `visible_to` filter by the caller; the others are called after
such a one in the same transaction, or by workers.
"""
