#!lua
-- A running message reports fields, or with none of them only that it lives.
-- KEYS: record. ARGV: attempt, token, version, actor, queue, retries_left, cancellable (0, 1), seconds since the attempt
-- began, owner (or empty), time to live in ms, then field, value, …
-- Answers {what became of it, version, whether the message is to be cancelled (0, 1)}.
local record = KEYS[1]
local attempt, token, version, actor, queue, retries_left, cancellable, running_for, owner = unpack(ARGV, 1, 9)
local ttl = ARGV[10]

local before = redis.call('HMGET', record, 'state', 'attempt', 'token', 'started_at', 'version', 'cancel_requested')
-- Whoever reports is told, also one that was overtaken: nobody wants its work either.
local to_cancel = before[6] and 1 or 0
local lost = not before[1] or tonumber(before[2] or 0) < tonumber(attempt)
if not lost and (before[1] ~= 'running' or before[2] ~= attempt or before[3] ~= token) then
  return {'refused', 0, to_cancel}
end

local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
-- Numbers began anew when the record was lost: an attempt that began after this one is the later one all the same.
if lost and before[4] and now - running_for < tonumber(before[4]) then return {'refused', 0, to_cancel} end
if lost then
  -- The store lost the record, or went back to an older one; the later start wins.
  redis.call('HDEL', record, 'current', 'total', 'description', 'rate', 'reported_at', 'result', 'ended_at', 'retry_at',
    'cancellable')
  redis.call('HSET', record, 'state', 'running', 'attempt', attempt, 'token', token, 'actor', actor,
    'queue', queue, 'retries_left', retries_left, 'started_at', string.format('%.6f', now - running_for))
  if cancellable == '0' then redis.call('HSET', record, 'cancellable', '0') end
  if owner ~= '' then redis.call('HSETNX', record, 'owner', owner) end
end
-- A store that went back to an older record goes on from the version that was seen.
local known = tonumber(before[5] or 0)
if known < tonumber(version) then redis.call('HSET', record, 'version', version) end
version = math.max(known, tonumber(version))
redis.call('HSET', record, 'heartbeat', string.format('%.6f', now), unpack(ARGV, 11))
if #ARGV > 10 then redis.call('HSET', record, 'reported_at', string.format('%.6f', now)) end
-- A sign of life alone changes nothing that a reader sees.
if lost or #ARGV > 10 then
  version = redis.call('HINCRBY', record, 'version', 1)
  -- For streams: the channel is called like the record (0.4 us while nobody listens). pcall, since a user whose ACL
  -- forbids the channel must not lose the report.
  redis.pcall('PUBLISH', record, '')
end
redis.call('PEXPIRE', record, ttl)
return {lost and 'renewed' or 'written', version, to_cancel}
