"""Redis, the admission filter. It may be wrong in either direction; the database decides. Every key
and every script call stands here.
"""
