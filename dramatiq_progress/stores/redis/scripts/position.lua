#!lua flags=no-writes
-- The position of a message in its queue. KEYS: the queue's index; and its pace (see leave.lua), if it is wanted.
-- Returns {number of messages before it or nil, length, pace or nil, seconds, microseconds}.
local time = redis.call('TIME')
local pace = KEYS[2] and redis.call('GET', KEYS[2])
return {redis.call('ZRANK', KEYS[1], message_id), redis.call('ZCARD', KEYS[1]), pace or false, time[1], time[2]}
