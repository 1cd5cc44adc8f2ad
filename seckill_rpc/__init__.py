"""seckill_rpc: flash sales. Redis filters clicks, the database decides who gets a unit.

Where each RPC of `paymesh.seckill.v1` is implemented, below `usecases`:

SeckillAction: `admission/seckill_action.py`, `Admission.seckill_action`
SeckillResult, WatchSeckillResult, GetTicketOrder: `results.py`, methods of the same names
ReturnStock: `returns.py`, `Returns.return_stock`
CreateActivity, PublishActivity, PauseActivity, ResumeActivity, CloseActivity, GetActivity,
ListActivities: `activity_lifecycle/activities.py`
RebuildActivity: `rebuild.py`, `Rebuilder.rebuild`

What runs without a call: `consumer` turns queued clicks into orders, `reconciler.py` repairs Redis,
`draw.py` draws lots, `outbox_to_order.py` and `outbox_to_redis.py` deliver the outbox. `app.py`
puts all of it together.
"""
