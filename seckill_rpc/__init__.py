"""Flash sales: an admission filter in Redis, the truth in one database. Speaks
`paymesh.seckill.v1`.
"""
