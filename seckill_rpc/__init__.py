"""Flash sales. Redis filters clicks, the database decides who gets a unit. `paymesh.seckill.v1`.

Where each RPC is implemented, below `usecases/`:

    admission/seckill_action.py            SeckillAction
    results.py                             SeckillResult, WatchSeckillResult, GetTicketOrder
    returns.py                             ReturnStock
    activity_lifecycle/activities.py       CreateActivity, PublishActivity, PauseActivity,
                                           ResumeActivity, CloseActivity, GetActivity,
                                           ListActivities
    rebuild.py                             RebuildActivity

What runs without a call: `consumer` turns queued clicks into orders, `reconciler.py` repairs Redis,
`draw.py` draws lots, `outbox_to_order.py` and `outbox_to_redis.py` deliver the outbox. `app.py`
puts all of it together.
"""
