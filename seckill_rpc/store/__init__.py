"""SQL: the only place of seckill_rpc that reads and writes rows. Every function takes the open
transaction; rows with an owner are only loaded with `visible_to=caller`."""
