"""The edge of seckill_rpc: a message in, one use case, a message out. No decision is made here."""
