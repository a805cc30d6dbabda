-- A worker begins with a message: the attempt is counted, and its token becomes the fence.
-- KEYS: record. ARGV: token, actor, queue, retries_left, time to live in ms.
-- Answers {verdict, attempt, metadata}.
local record = KEYS[1]
local token, actor, queue, retries_left, ttl = unpack(ARGV)

local before = redis.call('HGET', record, 'state')
if before == 'done' or before == 'skipped' then return {'unseen', 0, ''} end
if before == 'cancelled' then return {'cancelled', 0, ''} end

local time = redis.call('TIME')
local now = string.format('%d.%03d', time[1], math.floor(time[2] / 1000))
redis.call('HDEL', record, 'current', 'total', 'description', 'result', 'ended_at', 'retry_at')
redis.call('HSET', record, 'state', 'running', 'token', token, 'actor', actor, 'queue', queue,
  'retries_left', retries_left, 'started_at', now, 'heartbeat', now)
redis.call('HINCRBY', record, 'version', 1)
redis.call('PEXPIRE', record, ttl)
return {'run', redis.call('HINCRBY', record, 'attempt', 1), redis.call('HGET', record, 'metadata') or '{}'}
