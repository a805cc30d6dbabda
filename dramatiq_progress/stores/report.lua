-- A running message reports fields, or with none of them only that it lives.
-- KEYS: record. ARGV: attempt, token, time to live in ms, then field, value, …
local record = KEYS[1]
local attempt, token, ttl = unpack(ARGV, 1, 3)

local before = redis.call('HMGET', record, 'state', 'attempt', 'token')
if not before[1] then return 'missing' end
if before[1] ~= 'running' or before[2] ~= attempt or before[3] ~= token then return 'refused' end

local time = redis.call('TIME')
redis.call('HSET', record, 'heartbeat', string.format('%d.%03d', time[1], math.floor(time[2] / 1000)),
  unpack(ARGV, 4))
-- A sign of life alone changes nothing that a reader sees.
if #ARGV > 3 then redis.call('HINCRBY', record, 'version', 1) end
redis.call('PEXPIRE', record, ttl)
return 'written'
