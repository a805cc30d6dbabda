#!lua flags=allow-oom
-- A scheduler declares a schedule. One that is new, or that has other times than before, is due from now. If the store
-- has lost the record, it is due from the latest tick that a scheduler knows to be claimed. Another scheduler may know a
-- later one, or a tick that it has claimed and couldn't send, so nothing is claimed for a while, in which all of them
-- declare.
-- KEYS: the schedule. ARGV: ticks that this scheduler has claimed and not sent, each with its message id. Returns
-- written, or refused if nothing has changed.
local schedule = KEYS[1]

local before, last, lost_at = unpack(redis.call('HMGET', schedule, 'fingerprint', 'last', 'lost_at'))
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local from = tonumber(known) or 0
local clock = string.format('%.6f', now)
if not before and from > 0 then
  lost_at = now
  redis.call('HSET', schedule, 'lost_at', clock)
elseif before ~= fingerprint then
  from = now
end
if math.abs(now - (lost_at or 0)) < tonumber(hold) then
  for i = FIELDS, #ARGV, 2 do redis.call('HSETNX', schedule, 'open:' .. ARGV[i], clock .. ' ' .. ARGV[i + 1]) end
end
if before == fingerprint and tonumber(last) >= from then return 'refused' end
redis.call('HSET', schedule, 'fingerprint', fingerprint, 'last',
  string.format('%.6f', math.max(tonumber(last or 0), from)))
redis.call('PEXPIRE', schedule, ttl)
return 'written'
