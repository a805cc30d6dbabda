#!lua
-- A worker begins with a message: the attempt is counted, and its token becomes the fence.
-- KEYS: record. ARGV: token, actor, queue, retries_left, cancellable (0, 1), time to live in ms, age in s, the least
-- number of the attempt, how many deliveries are allowed (0: any number), time to live of a finished record in ms, owner
-- (or empty).
-- Answers {verdict, attempt, version, deliveries, metadata, the state before}; where nothing has changed, no state.
local record = KEYS[1]
local token, actor, queue, retries_left, cancellable, ttl, age, least, limit, finished_ttl, owner = unpack(ARGV)

local before, known, started_at, cancel_requested, attempt, deliveries, metadata = unpack(redis.call('HMGET', record,
  'state', 'token', 'started_at', 'cancel_requested', 'attempt', 'deliveries', 'metadata'))
if before == 'done' or before == 'skipped' then return {'unseen', 0, 0, 0, '', ''} end
if before == 'cancelled' then
  -- It has come, and is skipped: nothing is waited for any longer.
  redis.call('PEXPIRE', record, finished_ttl)
  return {'cancelled', 0, 0, 0, '', ''}
end

if before == 'running' and known == token then
  -- The answer to this very start was lost on its way, and it is told again.
  return {'run', attempt, redis.call('HGET', record, 'version'), deliveries, metadata or '{}', before}
end

local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
-- Told late, and another delivery has begun since: the later one wins.
if tonumber(age) > 0 and started_at and now - age < tonumber(started_at) then return {'unseen', 0, 0, 0, '', ''} end
if cancel_requested then
  -- Its worker was lost before it had heard of the wish. The attempt ended with its last sign of life.
  redis.call('HDEL', record, 'deliveries')
  redis.call('HSET', record, 'state', 'cancelled', 'ended_at',
    redis.call('HGET', record, 'heartbeat') or string.format('%.6f', now))
  redis.call('HINCRBY', record, 'version', 1)
  redis.call('PEXPIRE', record, finished_ttl)
  -- For streams: see report.lua.
  redis.pcall('PUBLISH', record, '')
  return {'cancelled', 0, 0, 0, '', before}
end
attempt = math.max((attempt or 0) + 1, tonumber(least))
deliveries = (deliveries or 0) + 1
-- One that is given up reports nothing more: what it came to stays.
if tonumber(limit) == 0 or deliveries <= tonumber(limit) then
  redis.call('HDEL', record, 'result', 'ended_at', 'retry_at', 'cancellable', 'current', 'total', 'description', 'rate',
    'reported_at')
else
  redis.call('HDEL', record, 'result', 'ended_at', 'retry_at', 'cancellable')
end
redis.call('HSET', record, 'state', 'running', 'token', token, 'actor', actor, 'queue', queue,
  'retries_left', retries_left, 'attempt', attempt, 'deliveries', deliveries,
  'started_at', string.format('%.6f', now - age), 'heartbeat', string.format('%.6f', now))
if cancellable == '0' then redis.call('HSET', record, 'cancellable', '0') end
if owner ~= '' then redis.call('HSETNX', record, 'owner', owner) end
redis.call('PEXPIRE', record, ttl)
-- For streams: see report.lua.
redis.pcall('PUBLISH', record, '')
return {'run', attempt, redis.call('HINCRBY', record, 'version', 1), deliveries, metadata or '{}', before or ''}
