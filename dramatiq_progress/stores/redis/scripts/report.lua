#!lua
-- A running message reports changed fields; without any, this is only its heartbeat. Publishes by changed() of the prelude.
--
-- The record shows one attempt. Which one is decided by heartbeats and not by the times of starts, which after a failover
-- are of two clocks: the one that is shown stays while it is alive, and a later one waits. It is shown when the other
-- has died, or has ended without success. An older one is refused: it was frozen, or its end is known. The exception is
-- one that was doubted: a later attempt ended, or the message was given up, before its next heartbeat.
--
-- A record that isn't there, or shows another attempt, is only written by a report that has all values: readers would
-- see the others gone for a moment.
-- KEYS: record, and its companion if there is one. Returns {written, rebuilt, incomplete, waiting or superseded;
-- version, whether a cancel was requested (0, 1), and whether a pause was}.
local record = KEYS[1]

local before = redis.call('HMGET', record, 'state', 'attempt', 'token', 'version', 'cancel_requested', 'later')
-- Also for a superseded attempt: a cancelled message's work is of no use whichever attempt does it.
local cancel_requested = before[5] and 1 or 0
-- Only a message that can be resumed is asked to pause, so only its reports look.
local pause_requested = resumable == '1' and redis.call('HEXISTS', record, 'pause_requested') or 0
local now = clock()
local is_shown = before[1] == 'running' and before[3] == token

if not is_shown then
  local heartbeat, doubted = unpack(redis.call('HMGET', record, 'heartbeat', 'doubted'))
  local is_over = is_foreign(before[1]) or FINAL[before[1]] and before[1] ~= 'failed'
  local is_doubted = before[1] ~= 'running' and (doubted == token or doubted == '*')
  if is_over or not is_doubted and tonumber(before[2] or 0) >= tonumber(attempt) then
    return {'superseded', 0, cancel_requested, pause_requested}
  end
  -- Without a token, the attempt that was shown has left the record to any later one.
  if before[1] == 'running' and before[3] and is_alive(heartbeat, now, lost_after) then
    local later_number, undecided, later_token = parse_later(before[6])
    if later_token == '' then later_token = token end
    note_later(record, math.max(later_number, attempt), undecided, later_token, moment(now))
    redis.call('PEXPIRE', record, ttl)
    return {'waiting', 0, cancel_requested, pause_requested}
  end
  if has_all == '0' then return {'incomplete', 0, cancel_requested, pause_requested} end
  clear(record)
  -- Its own is among its values.
  redis.call('HDEL', record, 'cursor')
  rebuild(record, attempt, before[2], before[6], token, actor, queue, retries_left, cancellable, owner,
    now - running_for)
  redis.call('HSET', record, 'state', 'running')
  if is_doubted then redis.call('HSET', record, 'deliveries', 1) end
elseif before[6] then
  local later_number, undecided, later_token, heartbeat = parse_later(before[6])
  if undecided > 0 then
    -- Those deliveries were no deaths.
    redis.call('HINCRBY', record, 'deliveries', -undecided)
    note_later(record, later_number, 0, later_token, heartbeat)
  end
end
raise_version(record, before[4], version)
version = math.max(tonumber(before[4] or 0), tonumber(version))
redis.call('HSET', record, 'heartbeat', moment(now), unpack(ARGV, FIELDS))
if ARGV[FIELDS] then redis.call('HSET', record, 'reported_at', moment(now)) end
-- It got further than any attempt before: only deaths at the same place count.
if ARGV[FIELDS] == 'cursor' and cursor_attempt(ARGV[FIELDS + 1]) == tonumber(attempt) then
  redis.call('HSET', record, 'deliveries', 0)
end
-- A heartbeat changes nothing that a reader sees.
if not is_shown or ARGV[FIELDS] then version = changed(record) end
redis.call('PEXPIRE', record, ttl)
if KEYS[2] then redis.call('PEXPIRE', KEYS[2], ttl) end
return {is_shown and 'written' or 'rebuilt', version, cancel_requested, pause_requested}
