#!lua
-- A worker begins with a message: the attempt is counted, and its token becomes the fence.
-- KEYS: record. ARGV: token, actor, queue, retries_left, time to live in ms, age in s, the least number of the attempt,
-- how many deliveries are allowed (0: any number), owner (or empty).
-- Answers {verdict, attempt, version, deliveries, metadata, the state before}.
local record = KEYS[1]
local token, actor, queue, retries_left, ttl, age, least, limit, owner = unpack(ARGV)

local before, known, started_at = unpack(redis.call('HMGET', record, 'state', 'token', 'started_at'))
if before == 'done' or before == 'skipped' then return {'unseen', 0, 0, 0, '', before} end
if before == 'cancelled' then return {'cancelled', 0, 0, 0, '', before} end

if before == 'running' and known == token then
  -- The answer to this very start was lost on its way, and it is told again.
  local found = redis.call('HMGET', record, 'attempt', 'version', 'deliveries', 'metadata')
  return {'run', found[1], found[2], found[3], found[4] or '{}', before}
end

local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
-- Told late, and another delivery has begun since: the later one wins.
if tonumber(age) > 0 and started_at and now - age < tonumber(started_at) then return {'unseen', 0, 0, 0, '', before} end
local deliveries = redis.call('HINCRBY', record, 'deliveries', 1)
redis.call('HDEL', record, 'result', 'ended_at', 'retry_at')
-- One that is given up reports nothing more: what it came to stays.
if tonumber(limit) == 0 or deliveries <= tonumber(limit) then
  redis.call('HDEL', record, 'current', 'total', 'description', 'rate', 'reported_at')
end
redis.call('HSET', record, 'state', 'running', 'token', token, 'actor', actor, 'queue', queue,
  'retries_left', retries_left, 'started_at', string.format('%.6f', now - age),
  'heartbeat', string.format('%.6f', now))
local attempt = math.max((redis.call('HGET', record, 'attempt') or 0) + 1, tonumber(least))
redis.call('HSET', record, 'attempt', attempt)
if owner ~= '' then redis.call('HSETNX', record, 'owner', owner) end
redis.call('PEXPIRE', record, ttl)
-- For streams: see report.lua.
redis.pcall('PUBLISH', record, '')
return {'run', attempt, redis.call('HINCRBY', record, 'version', 1), deliveries,
  redis.call('HGET', record, 'metadata') or '{}', before or ''}
