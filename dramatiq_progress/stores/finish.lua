#!lua flags=allow-oom
-- An attempt ends: in a final state, or in retrying. A full store takes it all the same (allow-oom). One that fails while
-- its message is to be cancelled is not tried again: it is cancelled.
-- KEYS: record. ARGV: attempt (0: its start never reached the store), token, version, actor, queue, retries_left,
-- cancellable (0, 1), seconds since it began, owner (or empty), state, seconds until the next attempt (or empty), whether
-- it began (0, 1), the attempt's least number, seconds after which a silent message is lost, time to live in ms, age in s,
-- then field, value, …
-- Answers {what became of it, the state before}.
local record = KEYS[1]
local attempt, token, version, actor, queue, retries_left, cancellable, running_for, owner = unpack(ARGV, 1, 9)
local state, delay, began, least, lost_after, ttl, age = unpack(ARGV, 10, 16)

local before = redis.call('HMGET', record, 'state', 'attempt', 'token', 'heartbeat', 'started_at', 'version',
  'cancel_requested')
local ended = before[1] == 'done' or before[1] == 'failed' or before[1] == 'cancelled' or before[1] == 'skipped'
local latest = tonumber(before[2] or 0)
-- The start was written, and only its answer lost.
if attempt == '0' and before[3] == token then attempt = before[2] end
local lost = false
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
if began == '0' then
  if not before[1] or ended then return {'refused', before[1] or ''} end
  -- A copy of a message that another worker is busy with says nothing about it.
  if before[1] == 'running' and now - before[4] <= tonumber(lost_after) then return {'refused', before[1] or ''} end
elseif attempt == '0' then
  if ended and before[1] ~= 'failed' then return {'refused', before[1] or ''} end
  attempt, lost = math.max(latest + 1, tonumber(least)), true
elseif not before[1] or latest < tonumber(attempt) then
  lost = true
else
  if before[2] ~= attempt or before[3] ~= token then return {'refused', before[1] or ''} end
  -- From retrying too: the same delivery may find that its retry could not be sent, and then it has failed.
  if before[1] ~= 'running' and before[1] ~= 'retrying' then return {'refused', before[1] or ''} end
end

-- An attempt that began after this one is the later one, whatever the numbers say.
if lost and before[5] and now - running_for < tonumber(before[5]) then return {'refused', before[1] or ''} end
if lost then
  -- The store never had this attempt, or lost it; what it came to is worth keeping.
  redis.call('HDEL', record, 'current', 'total', 'description', 'rate', 'reported_at', 'result', 'cancellable')
  redis.call('HSET', record, 'attempt', attempt, 'token', token, 'actor', actor, 'queue', queue,
    'retries_left', retries_left, 'started_at', string.format('%.6f', now - running_for))
  if cancellable == '0' then redis.call('HSET', record, 'cancellable', '0') end
  if owner ~= '' then redis.call('HSETNX', record, 'owner', owner) end
end
if tonumber(before[6] or 0) < tonumber(version) then redis.call('HSET', record, 'version', version) end
redis.call('HDEL', record, 'retry_at', 'deliveries')
redis.call('HSET', record, 'state', state, 'ended_at', string.format('%.6f', now - age), unpack(ARGV, 17))
if before[7] and (state == 'retrying' or state == 'failed') then
  redis.call('HDEL', record, 'result')
  redis.call('HSET', record, 'state', 'cancelled')
  delay = ''
end
if delay ~= '' then redis.call('HSET', record, 'retry_at', string.format('%.6f', now - age + delay)) end
redis.call('HINCRBY', record, 'version', 1)
redis.call('PEXPIRE', record, ttl)
-- For streams: see report.lua.
redis.pcall('PUBLISH', record, '')
return {'written', before[1] or ''}
