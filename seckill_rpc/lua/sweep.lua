-- sweep.lua: removes the names of consumers that are long gone from a line. Each start of a process leaves one.
--
-- KEYS[1] line   ARGV[1] consumer group   [2] milliseconds for which nobody has heard of a consumer that is gone
--
-- Reply: how many were removed.
--
-- Why it is so. A consumer that is removed takes its pending entries along, and nobody would be handed them again: so
-- only one that has none goes, and looking and removing are one step. One that lives after all is made again by its next
-- read.
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
