-- An attempt ends: in a final state, or in retrying.
-- KEYS: record. ARGV: attempt and token (both empty: the attempt never began), state, actor, queue, seconds until the
-- next attempt (or empty), time to live in ms, then field, value, …
local record = KEYS[1]
local attempt, token, state, actor, queue, delay, ttl = unpack(ARGV, 1, 7)

local before = redis.call('HMGET', record, 'state', 'attempt', 'token')
if token == '' then
  if not before[1] then return 'missing' end
  local ended = before[1] == 'done' or before[1] == 'failed' or before[1] == 'cancelled' or before[1] == 'skipped'
  if ended then return 'refused' end
elseif before[1] then
  if before[2] ~= attempt or before[3] ~= token then return 'refused' end
  -- From retrying too: the same delivery may find that its retry could not be sent, and then it has failed.
  if before[1] ~= 'running' and before[1] ~= 'retrying' then return 'refused' end
else
  -- The store lost the record; what this attempt came to is worth keeping.
  redis.call('HSET', record, 'attempt', attempt, 'token', token)
end

local time = redis.call('TIME')
local now = string.format('%d.%03d', time[1], math.floor(time[2] / 1000))
redis.call('HSET', record, 'state', state, 'actor', actor, 'queue', queue, 'ended_at', now, unpack(ARGV, 8))
if delay == '' then
  redis.call('HDEL', record, 'retry_at')
else
  redis.call('HSET', record, 'retry_at', string.format('%.3f', tonumber(now) + tonumber(delay)))
end
redis.call('HINCRBY', record, 'version', 1)
redis.call('PEXPIRE', record, ttl)
return 'written'
