#!lua flags=allow-oom
-- A scheduler declares a schedule. One that is new, or that has other times than before, is due from now. If the store
-- has lost the record, it is due from the latest tick that a scheduler knows to be claimed. Another scheduler may know a
-- later one, so nothing is claimed for a while, in which all of them declare.
-- KEYS: the schedule. Returns written, or refused if nothing has changed.
local schedule = KEYS[1]

local before, last = unpack(redis.call('HMGET', schedule, 'fingerprint', 'last'))
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local from = tonumber(known) or 0
if not before and from > 0 then
  redis.call('HSET', schedule, 'held_until', string.format('%.6f', now + hold))
elseif before ~= fingerprint then
  from = now
end
if before == fingerprint and tonumber(last) >= from then return 'refused' end
redis.call('HSET', schedule, 'fingerprint', fingerprint, 'last',
  string.format('%.6f', math.max(tonumber(last or 0), from)))
redis.call('PEXPIRE', schedule, ttl)
return 'written'
