#!lua flags=allow-oom
-- A cancel is requested. A waiting message and a lost one are cancelled immediately, a running one is interrupted at its
-- next report.
-- Accepted by a full store (allow-oom).
-- KEYS: record, companion. Returns {outcome, the state before, queue}.
local record = KEYS[1]

local before, queue, cancellable, cancel_requested, version, heartbeat, later, parts = unpack(redis.call('HMGET',
  record, 'state', 'queue', 'cancellable', 'cancel_requested', 'version', 'heartbeat', 'later', 'parts'))
-- A record that readers can't read isn't there, and a script that fails has already written something.
if not before or is_foreign(before) or not queue or not string.match(version or '', '^%d+$') or #version > 15
  or (before == 'running' and not tonumber(heartbeat or nil)) then
  return {'not_found', '', ''}
end
if before == 'cancelled' then return {'cancelled', before, queue} end
if FINAL[before] then return {'finished', before, queue} end

-- A lost message has no worker that could be interrupted: its next delivery is skipped.
if before == 'running' and is_silent(heartbeat, later, clock(), lost_after) then before = 'lost' end
-- reason: 1 (a user), forced (an operator) or composite (that of which this composite is a member).
if cancellable ~= '1' and reason == '1' then return {'not_cancellable', before, queue} end
-- An operator also interrupts those members of a composite whose actors aren't cancellable. One that a failure cancels is
-- `failed` in the end, unless it is cancelled too.
local is_raised = parts and (cancel_requested == 'fail_fast' or reason == 'forced' and cancel_requested ~= 'forced')
if cancel_requested and before == 'running' and not is_raised then return {'requested', before, queue} end

local outcome = 'requested'
-- A composite has no work of its own: its members that wait are skipped when they are delivered.
if before ~= 'running' or parts and running_members(parts) == 0 then
  outcome = 'cancelled'
  -- A message that is to be retried ended with its last attempt, a lost one with its last heartbeat.
  redis.call('HSETNX', record, 'ended_at', before == 'lost' and heartbeat or moment(clock()))
  redis.call('HDEL', record, 'retry_at', 'deliveries', 'pause_requested')
  redis.call('HSET', record, 'state', 'cancelled')
end
redis.call('HSET', record, 'cancel_requested', reason == 'forced' and reason or '1')
changed(record)
-- Until its message has come and been skipped; one with a delay lives longer already.
redis.call('PEXPIRE', record, ttl, 'GT')
redis.call('PEXPIRE', KEYS[2], ttl, 'GT')
return {outcome, before, queue}
