-- A message is about to become visible in its queue or its delay queue.
-- KEYS: record. ARGV: origin (new, due), state, actor, queue, retries_left, time to live in ms.
local record = KEYS[1]
local origin, state, actor, queue, retries_left, ttl = unpack(ARGV)

local before = redis.call('HGET', record, 'state')
local ended = before == 'done' or before == 'failed' or before == 'cancelled' or before == 'skipped'
if origin == 'due' then
  if before and before ~= 'delayed' and before ~= 'retrying' then return 'refused' end
elseif before and not ended then
  return 'refused'
end

local time = redis.call('TIME')
local now = string.format('%d.%03d', time[1], math.floor(time[2] / 1000))
if ended then
  -- Attempt and version go on, so that a write of the earlier life is still older than any of the new one.
  redis.call('HDEL', record, 'token', 'current', 'total', 'description', 'metadata', 'result',
    'started_at', 'ended_at', 'retry_at', 'heartbeat')
end
redis.call('HDEL', record, 'retry_at')
redis.call('HSET', record, 'state', state, 'actor', actor, 'queue', queue, 'retries_left', retries_left,
  'enqueued_at', now)
redis.call('HINCRBY', record, 'version', 1)
redis.call('PEXPIRE', record, ttl)
return 'written'
