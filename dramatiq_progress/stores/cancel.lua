#!lua flags=allow-oom
-- Somebody wishes a message to be cancelled. One that waits is cancelled at once; that of one that runs is told with its
-- next report. A full store takes it all the same (allow-oom).
-- KEYS: record. ARGV: time to live in ms.
-- Answers {what came of it, the state before, queue}.
local record = KEYS[1]
local ttl = ARGV[1]

local before, queue, cancellable, cancel_requested =
  unpack(redis.call('HMGET', record, 'state', 'queue', 'cancellable', 'cancel_requested'))
if not before then return {'not_found', '', ''} end
if before == 'cancelled' then return {'cancelled', before, queue} end
if before == 'done' or before == 'failed' or before == 'skipped' then return {'finished', before, queue} end
if cancellable == '0' then return {'not_cancellable', before, queue} end
if cancel_requested then return {'requested', before, queue} end

local outcome = 'requested'
if before ~= 'running' then
  outcome = 'cancelled'
  local time = redis.call('TIME')
  -- One that is to be retried ended with its attempt.
  redis.call('HSETNX', record, 'ended_at', string.format('%.6f', time[1] + time[2] / 1000000))
  redis.call('HDEL', record, 'retry_at', 'deliveries')
  redis.call('HSET', record, 'state', 'cancelled')
end
redis.call('HSET', record, 'cancel_requested', '1')
redis.call('HINCRBY', record, 'version', 1)
-- Until its message has come and been skipped: one with a delay lives longer already.
redis.call('PEXPIRE', record, ttl, 'GT')
-- For streams: see report.lua.
redis.pcall('PUBLISH', record, '')
return {outcome, before, queue}
