#!lua flags=allow-oom
-- The message of a tick was sent; without a tick, by hand. Without a message id it can't be sent, and is given up.
-- KEYS: the schedule. Returns written, or refused if it was confirmed before.
local schedule = KEYS[1]

local closed = redis.call('HDEL', schedule, 'open:' .. tick)
local sent_id, sent_tick = unpack(redis.call('HMGET', schedule, 'sent_id', 'sent_tick'))
if closed == 0 and (sent_id == message_id or message_id == '') then return 'refused' end
if tick == '' then
  local time = redis.call('TIME')
  tick = string.format('%.6f', time[1] + time[2] / 1000000)
end
if message_id ~= '' then
  redis.call('HINCRBY', schedule, 'sent', 1)
  if tonumber(tick) >= tonumber(sent_tick or 0) then
    redis.call('HSET', schedule, 'sent_id', message_id, 'sent_tick', tick)
    redis.call('HDEL', schedule, 'outcome')
  end
end
-- Never less than a scheduler has set: what is sent by hand doesn't know how seldom the schedule is due.
if redis.call('PTTL', schedule) < tonumber(ttl) then redis.call('PEXPIRE', schedule, ttl) end
return 'written'
