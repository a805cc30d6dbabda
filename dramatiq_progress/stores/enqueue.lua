#!lua
-- A message is about to become visible in its queue or its delay queue.
-- KEYS: record. ARGV: origin (new, due, late), state, actor, queue, retries_left, cancellable (0, 1), time to live in ms,
-- age in s, owner (or empty).
-- Answers {what became of it, the state before}.
local record = KEYS[1]
local origin, state, actor, queue, retries_left, cancellable, ttl, age, owner = unpack(ARGV)

local before = redis.call('HGET', record, 'state')
local ended = before == 'done' or before == 'failed' or before == 'cancelled' or before == 'skipped'
local allowed
if origin == 'new' then
  allowed = not before or ended
elseif origin == 'due' then
  allowed = not before or before == 'delayed' or before == 'retrying'
else
  -- Told late: whatever a worker has written meanwhile is newer.
  allowed = not before
  -- But whose it is only the sender knew.
  if before and owner ~= '' then redis.call('HSETNX', record, 'owner', owner) end
end
if not allowed then return {'refused', before or ''} end

local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000 - age
if ended then
  -- Attempt and version go on, so that a write of the earlier life is still older than any of the new one.
  redis.call('HDEL', record, 'token', 'current', 'total', 'description', 'rate', 'reported_at', 'metadata', 'result',
    'started_at', 'ended_at', 'heartbeat', 'deliveries', 'cancel_requested')
end
redis.call('HDEL', record, 'retry_at', 'cancellable')
redis.call('HSET', record, 'state', state, 'actor', actor, 'queue', queue, 'retries_left', retries_left,
  'enqueued_at', string.format('%.6f', now))
if cancellable == '0' then redis.call('HSET', record, 'cancellable', '0') end
-- Once somebody's, always theirs: who sends an ended message again gets nothing of theirs to see.
if owner ~= '' then redis.call('HSETNX', record, 'owner', owner) end
redis.call('HINCRBY', record, 'version', 1)
redis.call('PEXPIRE', record, ttl)
-- For streams: see report.lua.
redis.pcall('PUBLISH', record, '')
return {'written', before or ''}
