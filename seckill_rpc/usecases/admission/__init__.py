"""SeckillAction: a buyer's click, from the request to the answer of the admission script.

The entry is `seckill_action.Admission`. It finds the activity in `registry`, asks the `gate` of the
activity for a cached refusal, and sends the click to Redis with others of the same moment
(`click_batcher`). `result_cache` and `response_batcher` save work when buyers ask again.
"""
