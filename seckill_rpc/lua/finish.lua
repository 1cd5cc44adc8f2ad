-- finish.lua: publishes the decisions of the database about a batch of entries, removes them from the queue and wakes waiting buyers.
--
-- KEYS[1] meta   [2] users   [3] queue   [3+i] view of entry i's buyer                                                         (fields: admit.lua)
-- ARGV[1] consumer group   [2] n   [3] seconds that a result lives   [4] channel of wake-ups
-- ARGV[5..] n times: entry id, user, request, order, verdict, other order, other request
--   L  the order's row is LIVE
--   R  the row is REFUSED or RETURNED: the unit goes back to the stock
--   P  refused because the database is sold out: the unit never existed, nothing goes back
--   D  refused because the buyer holds the LIVE other order (made for the other request), which this Redis has lost: the unit stays taken, for
--      that order; if Redis knows it after all, the unit goes back
--
-- Reply: how many entries this call finished. Wake-ups: lines "<user> <view> <order>", the order with view 1 when this call knows it.
--
-- Why it is so.
-- - Two gates make it happen once. XACK = 1: one of several deliveries acts. The record is "0<order>": one of several entries of the same order acts.
-- - After a give-back, or a rebuild that no longer counts the order, the record is gone. So a late L of a consumer that was stopped cannot turn a 2
--   into a 1; that is why no epoch is needed here.
-- - The view is computed from the counts, never from the verdict, so it never falls while the buyer holds a live order, at any limit.
local group, n, seconds, channel = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
local back, settled, finished, told = 0, 0, 0, {}
redis.call('HLEN', KEYS[1])  -- [guard] a key of another type fails here, before an entry is removed
redis.call('HLEN', KEYS[2])  -- [guard]

-- Removes one queued unit of the buyer.
local function forget(user)
  if redis.call('HINCRBY', KEYS[2], user, -1) <= 0 then redis.call('HDEL', KEYS[2], user) end
end

-- Applies the verdict to the unit of a queued record. Returns the live order that the buyer holds by it, if any.
local function settle(user, record, order, verdict, other_order, other_request)
  local live = user .. '+'
  settled = settled + 1
  if verdict == 'L' then
    redis.call('HSET', KEYS[2], record, '1' .. order)
    redis.call('HINCRBY', KEYS[2], live, 1)
    return order
  end
  redis.call('HDEL', KEYS[2], record)  -- [guard] the same request may try again
  if verdict == 'D' then
    if redis.call('HSETNX', KEYS[2], user .. '#' .. other_request, '1' .. other_order) == 1 then  -- [guard] counted once
      redis.call('HINCRBY', KEYS[2], live, 1)
      return other_order
    end
  end
  forget(user)
  if verdict ~= 'P' then back = back + 1 end  -- [guard] phantom stock does not come back
  return verdict == 'D' and other_order
end

for i = 1, n do
  local b = 7 * i - 2
  local id, user, request, order, verdict, other_order, other_request = unpack(ARGV, b, b + 6)
  local record = user .. '#' .. request
  if redis.call('XACK', KEYS[3], group, id) == 1 then  -- [guard]
    redis.call('XDEL', KEYS[3], id)
    finished = finished + 1
    local has
    if redis.call('HGET', KEYS[2], record) == '0' .. order then  -- [guard]
      has = settle(user, record, order, verdict, other_order, other_request)
    end
    local counts = redis.call('HMGET', KEYS[2], user, user .. '+')
    local view = counts[2] and '1' or counts[1] and '0' or '2'  -- [guard] computed, so a 1 never falls
    redis.call('SET', KEYS[3 + i], view, 'EX', seconds)
    told[#told + 1] = user .. ' ' .. view .. ' ' .. (view == '1' and has or '')
  end
end
if settled > 0 then redis.call('HINCRBY', KEYS[1], 'out', -settled) end
if back > 0 then redis.call('HINCRBY', KEYS[1], 'stock', back) end
if finished > 0 then redis.call('PUBLISH', channel, table.concat(told, '\n')) end
return finished
