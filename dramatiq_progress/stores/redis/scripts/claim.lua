#!lua flags=allow-oom
-- A scheduler claims a tick, in order to send its message (or not to send it, without a message id).
--
-- Every scheduler computes each tick and claims it; one gets it, since `last` only rises. The tick stays open until its
-- message was sent. If that takes longer than the lease, its scheduler may have ended: another one gets the tick, with
-- the message id of the first, so that a message that was sent nevertheless is the same one. A claim whose answer was
-- lost is made again with its own message id, and is answered as the first time. What is due, and what is late, is
-- decided by this clock, never by a host's.
-- KEYS: the schedule. Returns {claimed, taken, early, late, held or unknown; the message id; the latest tick that was
-- claimed; the clock}.
local schedule = KEYS[1]

local last, open, lost_at = unpack(redis.call('HMGET', schedule, 'last', 'open:' .. tick, 'lost_at'))
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local clock = string.format('%.6f', now)
if not last then return {'unknown', '', '', clock} end
-- Not for longer if the clock is set back: therefore in both directions.
if math.abs(now - (lost_at or 0)) < tonumber(hold) then return {'held', '', last, clock} end
if late ~= '' and now - tick > tonumber(late) then return {'late', '', last, clock} end
if open then
  local claimed_at, first_id = string.match(open, '^(%S+) (%S+)$')
  if first_id ~= message_id and now - claimed_at < tonumber(lease) then return {'taken', '', last, clock} end
  message_id = first_id
elseif tonumber(tick) <= tonumber(last) then
  return {'taken', '', last, clock}
elseif tonumber(tick) > now + early then
  return {'early', '', last, clock}
else
  last = tick
  redis.call('HSET', schedule, 'last', tick)
  if skipped == '1' then redis.call('HINCRBY', schedule, 'skipped', 1) end
end
if message_id ~= '' then
  redis.call('HSET', schedule, 'open:' .. tick, clock .. ' ' .. message_id)
end
redis.call('PEXPIRE', schedule, ttl)
return {'claimed', message_id, last, clock}
