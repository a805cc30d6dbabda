#!lua flags=allow-oom
-- The message that was sent last has finished. Its state is kept here, where it outlives the message's own record.
-- KEYS: the schedule. Returns written or refused.
local schedule = KEYS[1]

if redis.call('HGET', schedule, 'sent_id') ~= message_id then return 'refused' end
redis.call('HSET', schedule, 'outcome', state)
return 'written'
