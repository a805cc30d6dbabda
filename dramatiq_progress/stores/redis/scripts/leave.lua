#!lua flags=allow-oom
-- A message leaves its queue. Those that were enqueued `patience` seconds before it, and haven't left, were purged.
--
-- The queue's pace is "count seconds departure waiting": the number of departures and the seconds between them, both
-- fading, the time of the last one, and whether messages were waiting after it. Only intervals in which one waited
-- count. They fade within `pace_memory` seconds, or in a slow queue within about six departures.
-- KEYS: the queue's index; and its pace, if a worker starts the message.
local index, pace = KEYS[1], KEYS[2]

local enqueued_at = redis.call('ZSCORE', index, message_id)
if not enqueued_at then return 'refused' end
redis.call('ZREM', index, message_id)
redis.call('ZREMRANGEBYSCORE', index, '-inf', string.format('(%.6f', enqueued_at - patience))
if not pace then return 'written' end

local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local count, seconds, departure, waiting = string.match(redis.call('GET', pace) or '', '^(%S+) (%S+) (%S+) ([01])$')
count, seconds = tonumber(count or 0), tonumber(seconds or 0)
-- A time from the future is of another server's clock, before a failover.
local interval = math.max(0, now - (departure or now))
local is_paced = waiting == '1' and interval > 0
local memory = is_paced and math.max(pace_memory, 6 * interval) or pace_memory
local rest = math.exp(-interval / memory)
count, seconds = count * rest, seconds * rest
if is_paced then count, seconds = count + 1, seconds + interval end
waiting = redis.call('EXISTS', index)
redis.call('SET', pace, string.format('%.4f %.4f %.6f %d', count, seconds, now, waiting), 'PX', pace_ttl)
return 'written'
