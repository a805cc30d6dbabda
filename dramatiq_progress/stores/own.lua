#!lua
-- A message becomes one of its owner's. KEYS: the owner's index, a sorted set of message ids by the time they were sent.
-- ARGV: message id, time to live in ms, seconds since it was sent, how many are kept.
local index = KEYS[1]
local message_id, ttl, age, most = unpack(ARGV)

local time = redis.call('TIME')
redis.call('ZADD', index, string.format('%.6f', time[1] + time[2] / 1000000 - age), message_id)
redis.call('ZREMRANGEBYRANK', index, 0, -1 - most)
-- A message with a long delay may have been sent before this one.
if redis.call('PTTL', index) < tonumber(ttl) then redis.call('PEXPIRE', index, ttl) end
return 'written'
