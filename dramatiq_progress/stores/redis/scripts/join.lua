#!lua
-- Messages enter their queue. KEYS: the queue's index, a sorted set of message ids by the time they were enqueued.
local index = KEYS[1]

local time = redis.call('TIME')
local moment = time[1] + time[2] / 1000000 - age
for i = FIELDS, #ARGV do redis.call('ZADD', index, moment, ARGV[i]) end
redis.call('PEXPIRE', index, ttl)
return 'written'
