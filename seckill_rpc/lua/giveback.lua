-- giveback.lua: sells units again whose orders the database has taken back (not paid in time, cancelled, refused by order_rpc).
--
-- KEYS[1] meta   [2] users   [2+i] view of order i's buyer                                                                     (fields: admit.lua)
-- ARGV[1] n   [2] seconds that a result lives   [3] channel of wake-ups
-- ARGV[4..] n times: user, request, order, epoch (the row's, read under its lock in the transaction that did sold - 1)
--
-- Reply, one per order:
--   1 returned   0 returned earlier, or counted by a rebuild or by the close: nothing more to do
--  -1 Redis lost the activity or has not published that epoch yet: try again (when the row is CLOSED: nothing more to do)
--
-- Why it is so.
-- - The record with this order makes it happen once. Deleting it lets the same buyer try again, even with the same request id.
-- - A rebuild that read the database after the return left no record, so an older epoch needs no rule of its own.
-- - An epoch newer than Redis': that rebuild still counted the order and is not published yet; a unit added now would be overwritten.
-- - It may run before finish.lua: the record is "0<order>" then, and finish.lua finds it gone.
-- - A CLOSED activity does not touch the view: it may belong to the product's next activity already.
local n, seconds, channel = tonumber(ARGV[1]), ARGV[2], ARGV[3]
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'state')
local epoch, is_closed = tonumber(meta[1] or '-1'), meta[2] == 'CLOSED'
local back, unqueued, reply, told = 0, 0, {}, {}

local function less(field)
  if redis.call('HINCRBY', KEYS[2], field, -1) <= 0 then redis.call('HDEL', KEYS[2], field) end
end

for i = 1, n do
  local b = 4 * i
  local user, request, order, order_epoch = ARGV[b], ARGV[b + 1], ARGV[b + 2], tonumber(ARGV[b + 3])
  if epoch < order_epoch then reply[i] = -1  -- [guard]
  else
    local record = user .. '#' .. request
    local known = redis.call('HGET', KEYS[2], record)
    reply[i] = 0
    if known and string.sub(known, 2) == order then  -- [guard]
      redis.call('HDEL', KEYS[2], record)  -- [guard]
      less(user)
      if string.sub(known, 1, 1) == '0' then unqueued = unqueued + 1  -- [guard]
      else less(user .. '+') end
      back = back + 1
      reply[i] = 1
    end
    local counts = redis.call('HMGET', KEYS[2], user, user .. '+')
    if not is_closed  -- [guard]
        and not counts[2]  -- [guard] another unit of the buyer is live
        and (reply[i] == 1 or redis.pcall('GET', KEYS[2 + i]) == '1') then  -- [guard] a 1 without a live unit falls, however it came
      local view = counts[1] and '0' or '2'
      redis.call('SET', KEYS[2 + i], view, 'EX', seconds)
      told[#told + 1] = user .. ' ' .. view .. ' '
    end
  end
end
if back > 0 then redis.call('HINCRBY', KEYS[1], 'stock', back) end
if unqueued > 0 then redis.call('HINCRBY', KEYS[1], 'out', -unqueued) end
if #told > 0 then redis.call('PUBLISH', channel, table.concat(told, '\n')) end
return reply
