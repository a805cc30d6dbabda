#!lua flags=allow-oom
-- A scheduler declares a schedule. One that is new, or that has other times than before, is due from now. If the store
-- has lost the record, it is due from the latest tick that the scheduler knows to be claimed.
-- KEYS: the schedule. Returns written, or refused if nothing has changed.
local schedule = KEYS[1]

local before, last = unpack(redis.call('HMGET', schedule, 'fingerprint', 'last'))
local time = redis.call('TIME')
local from = tonumber(known) or 0
if before and before ~= fingerprint or not before and from == 0 then from = time[1] + time[2] / 1000000 end
if before == fingerprint and tonumber(last) >= from then return 'refused' end
redis.call('HSET', schedule, 'fingerprint', fingerprint, 'last',
  string.format('%.6f', math.max(tonumber(last or 0), from)))
redis.call('PEXPIRE', schedule, ttl)
return 'written'
