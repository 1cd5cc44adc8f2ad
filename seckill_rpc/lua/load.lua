-- load.lua: warm-up and rebuild (the same thing), and changes of the state. ARGV[1] is the step.
--
-- KEYS[1] meta   [2] users   [3] seckill:{A}:users:<epoch>, being built   [4] queue   [5] entries   [5+i] views (part, stale)  (fields: admit.lua)
--
-- hold                                          stops admission until the next publish and its carry. Comes before the fence in the database.
--                                               Removes keys of another type than we write, and a meta that is none.
-- part     epoch seconds, then field, value ... a portion of the users as the fenced row and its LIVE orders say (absolute values: <user> k,
--                                               <user>+ k, <user>#<request> 1<order>); the views of KEYS[6..] become 1
-- stale    epoch seconds                        the views of KEYS[6..], of buyers without a LIVE order, that say 1 become 2 (a failover revives such)
-- publish  epoch rev state stock start end limit run group mode          hold stays until:
-- carry    epoch cursor count group             moves queued entries of older epochs into this one: same order, same queue position, its unit taken
--                                               before any new click. Reply: the next cursor, or '' at the end: then hold is lifted, and
--                                               `since` says when: a click that is missing from then on is lost
-- state    rev state start end limit            pause, resume, closing: applied if the row's rev is newer; works without the rest of meta
-- clear                                         removes the views of KEYS[6..] of earlier activities; only while nothing is published. Reply: number
-- drop     epoch rev seconds                    the activity is CLOSED: only epoch, rev and CLOSED stay, for so long, as a tombstone
--
-- Reply (but carry): 1 done, 0 refused: this epoch (or this rev) or a newer one is published already.
--
-- Why it is so.
-- - A slow rebuild never overwrites a newer one (epoch).
-- - A rebuild that read the row before a pause never opens the activity again (rev: the newer state stays), nor a CLOSED one (the tombstone keeps
--   the epoch).
-- - The building key has the epoch in its name, so two rebuilds never mix their portions.
-- - The stream is kept, and carry moves its entries (XADD, XACK, XDEL in one script) before any new click is admitted. Without it the same click,
--   repeated after a rebuild, got a second order id, and new buyers got the units of queued ones.
-- - What carry leaves (live already, no unit, limit reached) the consumer finishes, or admits again, or refuses with a row.
-- - Entries of a draw take no units and survive every rebuild.
-- - A rebuild that dies before the end leaves hold behind: the reconciler sees it and rebuilds.
-- - No script can see that the sale was closed while Redis was lost: after publish the rebuild reads the row again, and drops if it is CLOSED.
local step, meta, users, building, line, entries = ARGV[1], KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local FIRST_VIEW = 6
local BUILDING_SECONDS = 600  -- keys of a dead rebuild expire; a live one renews them with every portion

local function carry(epoch, cursor, count, group)
  local now = redis.call('HMGET', meta, 'epoch', 'stock', 'limit')
  if now[1] ~= epoch then return 0 end  -- [guard]
  local stock, limit, moved, last = tonumber(now[2]), tonumber(now[3]), 0, ''
  local found = redis.call('XRANGE', line, cursor == '' and '-' or '(' .. cursor, '+', 'COUNT', count)
  for _, entry in ipairs(found) do
    local f = {}
    for i = 1, #entry[2], 2 do f[entry[2][i]] = entry[2][i + 1] end
    local is_whole = f.o and f.u and f.r and tonumber(f.e or '')
    if is_whole and tonumber(f.e) >= tonumber(epoch) then last = ''; break end  -- from here on the entries were moved already
    last = entry[1]
    if is_whole then
      local record = f.u .. '#' .. f.r
      local known = redis.call('HMGET', users, record, f.u)
      local held = tonumber(known[2] or '0')
      if not known[1] and held < limit and stock - moved > 0 then  -- [guard] otherwise the consumer decides
        redis.call('XADD', line, '*', 'o', f.o, 'u', f.u, 'r', f.r, 'e', epoch)
        redis.call('XACK', line, group, entry[1])  -- [guard] otherwise it would be pending for ever
        redis.call('XDEL', line, entry[1])  -- [guard]
        redis.call('HSET', users, f.u, held + 1, record, '0' .. f.o)
        moved = moved + 1
      end
    end
  end
  if moved > 0 then
    redis.call('HINCRBY', meta, 'stock', -moved)
    redis.call('HINCRBY', meta, 'out', moved)
  end
  if #found < tonumber(count) then last = '' end
  if last == '' then
    local time = redis.call('TIME')
    redis.pcall('HSET', meta, 'since', tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000))  -- [guard]
    redis.call('HDEL', meta, 'hold')
  end
  return last
end

local function publish(epoch, rev, state, stock, starts, ends, limit, run, group, mode)
  redis.call('DEL', users)  -- [guard]
  if redis.call('EXISTS', building) == 1 then
    redis.call('RENAME', building, users)
    redis.call('PERSIST', users)  -- [guard]
  end
  redis.pcall('XGROUP', 'CREATE', line, group, '0', 'MKSTREAM')  -- [guard] '0': entries from before the group was lost are read too
  local known = redis.call('HGET', meta, 'rev')
  if not known or tonumber(known) <= tonumber(rev) then  -- [guard]
    redis.call('HSET', meta, 'rev', rev, 'state', state, 'start', starts, 'end', ends, 'limit', limit)
  end
  redis.call('HSET', meta, 'epoch', epoch, 'stock', stock, 'out', 0, 'run', run, 'mode', mode, 'hold', 1)  -- [guard] until carry is done
end

-- Removes what our code never writes: every later step would fail on it.
local function heal()
  local kinds = { [meta] = 'hash', [users] = 'hash', [line] = 'stream', [entries] = 'hash' }
  for key, kind in pairs(kinds) do
    if redis.call('TYPE', key).ok ~= kind then redis.call('DEL', key) end  -- [guard]
  end
  local known = redis.call('HMGET', meta, 'epoch', 'rev')
  if (known[1] and not tonumber(known[1])) or (known[2] and not tonumber(known[2])) then redis.call('DEL', meta) end  -- [guard]
end

if step == 'hold' then
  heal()
  if redis.call('EXISTS', meta) == 1 then redis.call('HSET', meta, 'hold', 1) end  -- [guard]
  return 1
elseif step == 'state' then
  local rev = redis.call('HGET', meta, 'rev')
  if rev and tonumber(rev) >= tonumber(ARGV[2]) then return 0 end  -- [guard]
  redis.call('HSET', meta, 'rev', ARGV[2], 'state', ARGV[3], 'start', ARGV[4], 'end', ARGV[5], 'limit', ARGV[6])
  return 1
elseif step == 'carry' then
  return carry(ARGV[2], ARGV[3], ARGV[4], ARGV[5])
elseif step == 'clear' then
  if redis.call('EXISTS', meta) == 1 then return 0 end  -- [guard] it was published meanwhile: these are results of buyers
  return redis.call('UNLINK', unpack(KEYS, FIRST_VIEW))
end

local epoch = redis.call('HGET', meta, 'epoch')
if epoch and tonumber(epoch) >= tonumber(ARGV[2]) then  -- [guard]
  redis.call('DEL', building)  -- [guard]
  return 0
end
if step == 'part' then
  for i = 4, #ARGV, 2 do redis.call('HSET', building, ARGV[i], ARGV[i + 1]) end
  redis.call('EXPIRE', building, BUILDING_SECONDS)  -- [guard]
  for i = FIRST_VIEW, #KEYS do redis.call('SET', KEYS[i], '1', 'EX', ARGV[3]) end
elseif step == 'stale' then
  for i = FIRST_VIEW, #KEYS do
    if redis.pcall('GET', KEYS[i]) == '1' then redis.call('SET', KEYS[i], '2', 'EX', ARGV[3]) end  -- [guard]
  end
elseif step == 'publish' then
  publish(unpack(ARGV, 2, 11))
elseif step == 'drop' then
  redis.call('DEL', meta, users, line, entries)
  redis.call('HSET', meta, 'epoch', ARGV[2], 'rev', ARGV[3], 'state', 'CLOSED')
  redis.call('EXPIRE', meta, ARGV[4])  -- [guard]
end
return 1
