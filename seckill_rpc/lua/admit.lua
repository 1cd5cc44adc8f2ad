-- admit.lua: admits a batch of clicks to the queue of one activity, or to its draw. All or nothing per buyer; refusals write nothing.
--
-- KEYS[1] seckill:{A}:meta     hash    epoch rev run state mode stock out start end limit [hold] [drawn]            (A: the activity's id)
-- KEYS[2] seckill:{A}:users    hash    <user> units held or queued | <user>+ units held | <user>#<request> "0<order>" queued, "1<order>" live
-- KEYS[3] seckill:{A}:q        stream  the admission queue: o order, u user, r request, e epoch; one entry is one order of one unit
-- KEYS[4] seckill:{A}:entries  hash    <user> "<order> <request>"; entries of a draw
-- KEYS[4+i]                    string  the view of buyer i: 1 holds a live order, else 0 queued, else 2
-- ARGV[1] n buyers   [2] seconds that a 0 lives   [3] longest queue, or most entries of a draw
-- ARGV[4] min_epoch: 0 for buyers. The row's epoch when a consumer admits entries of an older epoch again. They were in time once, so window, pause,
--         closing and queue length are not checked, and a draw is over for them; hold, limit and stock are checked.
-- ARGV[5..] n times: user, request, order
--
-- Reply: lines epoch, code1, detail1, code2, detail2, ... as one text, which a client reads faster than a list; no id has a line break
--   0 queued (its order)         1 replay: still queued (its order)    8 replay: live (its order)
--   2 sold out (undecided)       3 limit (units held)                  4 not started (ms left)         5 ended (undecided)   9 paused (undecided)
--   6 not ready: not published, being rebuilt, or older than min_epoch 7 the queue is full, or no memory
-- undecided: clicks that are queued or in the draw; "" while not published. A process may cache the refusal only when no click is undecided: then
-- every possible replay is already known to all processes.
--
-- Why it is so.
-- - Scripts do not roll back. All reads for a buyer come before the writes, and only the first write (XADD; HSET of a draw) can fail on keys of the
--   right type. Its failure is answered with 7.
-- - A replay comes before every refusal, so a lost answer is found again after the end, when all is sold, and during a pause.
-- - Refusals write nothing, so robots cost no memory.
-- - A 0 is never written over the 1 of a buyer with a live order.
-- - The clock is Redis' own.
-- - It may run twice: the record of the request answers the second time.
-- Lines marked [guard] handle one case each: tests/integration/seckill/test_seckill_script_mutants.py removes each and sees a test fail.
local n, seconds, longest, min_epoch = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'stock', 'state', 'start', 'end', 'limit', 'hold', 'mode', 'drawn', 'out')
local epoch, stock, state, starts, ends, limit = meta[1], tonumber(meta[2]), meta[3], tonumber(meta[4]), tonumber(meta[5]), tonumber(meta[6])
local reply = { epoch or '0' }

local function answer(i, code, detail)
  reply[2 * i], reply[2 * i + 1] = code, detail or ''
end

local is_ready = epoch and stock
if meta[7] then is_ready = false end  -- [guard] no new click comes before entries that a rebuild still moves
if epoch and tonumber(epoch) < min_epoch then is_ready = false end  -- [guard] the old epoch's record would say "replay"
if not is_ready then
  for i = 1, n do answer(i, state == 'CLOSED' and 5 or 6) end  -- [guard] a click after the close need not be repeated
  return table.concat(reply, '\n')
end

local is_again = min_epoch > 0
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local is_draw = meta[8] == 'DRAW' and not is_again  -- [guard] an entry that is admitted again has won already
local refusal, reason = nil, nil
if not is_again then  -- [guard] an entry that was in time stays in time
  if state == 'PAUSED' then refusal = 9  -- [guard]
  elseif state ~= 'OPEN' or now >= ends then refusal = 5  -- [guard]
  elseif is_draw and meta[9] then refusal = 5  -- [guard] a draw that has begun takes no entry, whatever the window says
  elseif now < starts then refusal, reason = 4, tostring(starts - now) end -- [guard]
end

-- Clicks that are not decided yet.
local function undecided(taken)
  return tostring(tonumber(meta[10] or '0') + taken + (is_draw and redis.call('HLEN', KEYS[4]) or 0))  -- [guard]
end
if refusal and not reason then reason = undecided(0) end

local room = is_again and n or longest - redis.call(is_draw and 'HLEN' or 'XLEN', KEYS[is_draw and 4 or 3])  -- [guard]
local taken = 0

-- One unit for buyer i: the queue entry, the record, the view.
local function take(i, user, held, holds, record, order, request)
  local added = redis.pcall('XADD', KEYS[3], '*', 'o', order, 'u', user, 'r', request, 'e', epoch)  -- [guard] the first write; a failure is an answer
  if type(added) == 'table' and added.err then return answer(i, 7) end
  redis.call('HSET', KEYS[2], user, held + 1, record, '0' .. order)
  if not holds then redis.call('SET', KEYS[4 + i], '0', 'EX', seconds) end -- [guard] a queued second unit keeps the 1 of the first
  taken, room = taken + 1, room - 1  -- [guard]
  answer(i, 0, order)
end

-- One entry for buyer i; its 0 lives until the draw.
local function enter(i, user, order, request)
  local entered = redis.pcall('HSET', KEYS[4], user, order .. ' ' .. request)  -- [guard]
  if type(entered) == 'table' and entered.err then return answer(i, 7) end
  redis.call('SET', KEYS[4 + i], '0', 'EX', math.ceil((ends - now) / 1000) + seconds)
  room = room - 1  -- [guard]
  answer(i, 0, order)
end

for i = 1, n do
  local user, request, order = ARGV[3 * i + 2], ARGV[3 * i + 3], ARGV[3 * i + 4]
  local record = user .. '#' .. request
  local known = redis.call('HMGET', KEYS[2], record, user, user .. '+')
  local held = tonumber(known[2] or '0')
  local entry = is_draw and redis.call('HGET', KEYS[4], user)
  local entered_order, entered_request = string.match(entry or '', '^(.-) (.*)$')
  if known[1] then  -- [guard] a replay comes first
    answer(i, string.sub(known[1], 1, 1) == '1' and 8 or 1, string.sub(known[1], 2))
  elseif entered_request == request then answer(i, 1, entered_order)  -- [guard]
  elseif refusal then answer(i, refusal, reason)
  elseif entry or held >= limit then answer(i, 3, tostring(held))  -- [guard]
  elseif not is_draw and stock - taken < 1 then answer(i, 2, undecided(taken))  -- [guard]
  elseif room < 1 then answer(i, 7)  -- [guard]
  elseif is_draw then enter(i, user, order, request)
  else take(i, user, held, known[3], record, order, request) end
end
if taken > 0 then
  redis.call('HINCRBY', KEYS[1], 'stock', -taken)
  if redis.call('HINCRBY', KEYS[1], 'out', taken) == taken then  -- [guard] the queue was empty: processes begin to watch it closely
    redis.call('PUBLISH', string.gsub(KEYS[1], 'meta$', 'wakeups'), '')
  end
end
return table.concat(reply, '\n')
