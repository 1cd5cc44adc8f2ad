"""The use cases of seckill_rpc: each shows its effects in their order."""
