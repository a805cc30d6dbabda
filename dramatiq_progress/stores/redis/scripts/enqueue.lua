#!lua
-- A message is about to become visible in its queue or its delay queue.
-- KEYS: record. Returns {written or refused, the state before, version}; the version only if it was written.
local record = KEYS[1]

local before = redis.call('HGET', record, 'state')
local allowed
if origin == 'new' then
  allowed = not before or FINAL[before]
elseif origin == 'due' then
  allowed = not before or before == 'delayed' or before == 'retrying'
else
  -- Deferred: what a worker has written in the meantime is newer, but only the sender knew the owner.
  allowed = not before
  if before and owner ~= '' then redis.call('HSETNX', record, 'owner', owner) end
end
-- It has come from its delay queue, and a resume lets it wait in its queue.
if before == 'paused' and origin == 'due' then wait_paused(record, 'enqueued') end
if not allowed then return {'refused', before or '', 0} end

if FINAL[before] then
  -- Attempt and version continue, so that a write of the earlier life is older than any of the new one.
  local attempt, later = unpack(redis.call('HMGET', record, 'attempt', 'later'))
  if later then redis.call('HSET', record, 'attempt', math.max(attempt or 0, (parse_later(later)))) end
  redis.call('HDEL', record, 'token', 'current', 'total', 'description', 'rate', 'overall', 'step', 'reported_at',
    'title', 'metadata', 'estimate_key', 'result', 'started_at', 'ended_at', 'heartbeat', 'deliveries',
    'cancel_requested', 'pause_requested', 'doubted', 'later', 'cursor')
end
redis.call('HDEL', record, 'retry_at', 'cancellable')
redis.call('HSET', record, 'state', state, 'actor', actor, 'queue', queue, 'retries_left', retries_left,
  'enqueued_at', moment(clock() - age))
describe(record, cancellable, owner)
introduce(record, title, metadata, estimate_key)
local version = changed(record)
redis.call('PEXPIRE', record, ttl)
return {'written', before or '', version}
