#!lua flags=allow-oom
-- A pause is requested, or no longer. A message that waits is paused immediately. One that runs, or is lost, is asked to
-- make room, if it can be resumed: it has a cursor, which is empty until its first item is done.
-- Accepted by a full store (allow-oom).
-- KEYS: record, companion. Returns {outcome, the state before}.
local record = KEYS[1]

local before, queue, version, heartbeat, later, parts, cursor, pause_requested = unpack(redis.call('HMGET', record,
  'state', 'queue', 'version', 'heartbeat', 'later', 'parts', 'cursor', 'pause_requested'))
-- As in cancel.lua.
if not before or is_foreign(before) or not queue or not string.match(version or '', '^%d+$') or #version > 15
  or (before == 'running' and not tonumber(heartbeat or nil)) then
  return {'not_found', ''}
end
if FINAL[before] then return {'finished', before} end
-- It has no work of its own, and its members are asked one by one.
if parts then return {'composite', before} end

local shown = before
if before == 'running' and is_silent(heartbeat, later, clock(), lost_after) then shown = 'lost' end

if wanted == '0' then
  if before ~= 'paused' and not pause_requested then return {'resumed', shown} end
  redis.call('HDEL', record, 'pause_requested')
  if before == 'paused' then
    local waits = pause_requested == 'delayed' or pause_requested == 'retrying'
    redis.call('HSET', record, 'state', waits and pause_requested or 'enqueued')
  end
elseif before == 'running' then
  if not cursor then return {'not_resumable', shown} end
  if pause_requested then return {'requested', shown} end
  redis.call('HSET', record, 'pause_requested', '1')
else
  if before == 'paused' then return {'paused', before} end
  wait_paused(record, before)
end
changed(record)
-- One with a delay lives longer already.
redis.call('PEXPIRE', record, ttl, 'GT')
redis.call('PEXPIRE', KEYS[2], ttl, 'GT')
return {wanted == '0' and 'resumed' or before == 'running' and 'requested' or 'paused', shown}
