"""What seckill_rpc does: the order of effects on one screen."""
