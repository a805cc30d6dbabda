#!lua
-- A message gets in line. KEYS: the queue's line, a sorted set of message ids by the time they came.
-- ARGV: message id, time to live in ms, seconds since it came.
local line = KEYS[1]
local message_id, ttl, age = unpack(ARGV)

local time = redis.call('TIME')
redis.call('ZADD', line, time[1] + time[2] / 1000000 - age, message_id)
redis.call('PEXPIRE', line, ttl)
return 'written'
