-- draw.lua: draws one portion of lots: winners while there is stock, else losers. Run it until no entry is left.
--
-- KEYS[1] meta   [2] users   [3] queue   [4] entries                                                                           (fields: admit.lua)
-- ARGV[1] n   [2] seconds that a 0 lives   [3] seconds that a result lives   [4] channel of wake-ups
-- ARGV[5] [6] what stands before and after a buyer in the key of the view: the script finds the buyers itself (one Redis, no cluster)
--
-- Reply { winners, losers, entries left }; { 0, 0, -1 }: not now.
--
-- Why it is so.
-- - HRANDFIELD with a positive count returns distinct fields with equal chances, so the order of clicks does not matter.
-- - A winner enters the queue exactly as in admit.lua (XADD first; then the record and the stock), and leaves the entries in the same script. However
--   often this is interrupted and repeated, an entry wins once and none is lost.
-- - Entries lose only when no unit is left; units that come back later wait for the close.
-- - A buyer who holds a unit already (a failover revived the entry) does not win again.
-- - `drawn` ends admission to the draw for good.
-- - During a rebuild nothing is drawn: the stock is not reserved yet for entries that have won already.
local n, queued_seconds, seconds, channel, before, after = tonumber(ARGV[1]), ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'stock', 'state', 'end', 'hold', 'mode', 'limit')
local epoch, stock, state, ends, limit = meta[1], tonumber(meta[2]), meta[3], tonumber(meta[4]), tonumber(meta[7])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local not_now = { 0, 0, -1 }
if not epoch or not stock or meta[6] ~= 'DRAW' then return not_now end  -- [guard]
if meta[5] then return not_now end  -- [guard]
if state ~= 'CLOSING' and now < ends then return not_now end  -- [guard]
local begun = redis.pcall('HSET', KEYS[1], 'drawn', 1)  -- [guard] also detects that there is no memory
if type(begun) == 'table' and begun.err then return not_now end

local winners, losers, told = 0, 0, {}
local picked = redis.call('HRANDFIELD', KEYS[4], stock > 0 and math.min(n, stock) or n, 'WITHVALUES')  -- [guard] never more winners than units
for i = 1, #picked, 2 do
  local user, entry = picked[i], picked[i + 1]
  local order, request = string.match(entry, '^(.-) (.*)$')
  local view = before .. user .. after
  local counts = redis.call('HMGET', KEYS[2], user, user .. '+')
  local held = tonumber(counts[1] or '0')
  if stock > 0 and order and held < limit then  -- [guard]
    redis.call('XADD', KEYS[3], '*', 'o', order, 'u', user, 'r', request, 'e', epoch)
    redis.call('HSET', KEYS[2], user, held + 1, user .. '#' .. request, '0' .. order)
    redis.call('SET', view, '0', 'EX', queued_seconds)
    winners = winners + 1
  else
    local said = counts[2] and '1' or counts[1] and '0' or '2'  -- [guard] a holder keeps the 1
    redis.call('SET', view, said, 'EX', seconds)
    told[#told + 1] = user .. ' ' .. said .. ' '
    losers = losers + 1
  end
  redis.call('HDEL', KEYS[4], user)  -- [guard] wins or loses once
end
if winners > 0 then
  redis.call('HINCRBY', KEYS[1], 'stock', -winners)
  redis.call('HINCRBY', KEYS[1], 'out', winners)
end
if losers > 0 then redis.call('PUBLISH', channel, table.concat(told, '\n')) end
return { winners, losers, redis.call('HLEN', KEYS[4]) }
