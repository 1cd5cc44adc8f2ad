-- sweep.lua: removes the names of old consumers from a queue. Each start of a process leaves one.
--
-- KEYS[1] queue   ARGV[1] consumer group   [2] milliseconds after which an idle consumer is gone
--
-- Reply: how many were removed.
--
-- Why it is so. Removing a consumer drops its pending entries, which would never be delivered again. So only a
-- consumer without pending entries is removed, and the check and the removal are one step. A consumer that lives after all
-- is made again by its next read.
local removed = 0
local found = redis.pcall('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])
if found.err then return 0 end
for _, consumer in ipairs(found) do
  local fields = {}
  for i = 1, #consumer, 2 do fields[consumer[i]] = consumer[i + 1] end
  if fields.pending == 0  -- [guard]
      and fields.idle >= tonumber(ARGV[2]) then  -- [guard]
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], fields.name)
    removed = removed + 1
  end
end
return removed
