#!lua
-- A message enters its owner's index. KEYS: the index, a sorted set of message ids by the time they were sent.
local index = KEYS[1]

local time = redis.call('TIME')
redis.call('ZADD', index, string.format('%.6f', time[1] + time[2] / 1000000 - age), message_id)
redis.call('ZREMRANGEBYRANK', index, 0, -1 - limit)
-- A message with a long delay may have been sent before this one.
if redis.call('PTTL', index) < tonumber(ttl) then redis.call('PEXPIRE', index, ttl) end
return 'written'
