#!lua flags=allow-oom
-- A message's turn has come. KEYS: the queue's line. ARGV: message id, seconds.
-- Those that came so many seconds before it, and have not had their turn, are no longer in the queue: it was purged.
local line = KEYS[1]
local message_id, patience = unpack(ARGV)

local came = redis.call('ZSCORE', line, message_id)
if not came then return 'refused' end
redis.call('ZREM', line, message_id)
redis.call('ZREMRANGEBYSCORE', line, '-inf', string.format('(%.6f', came - patience))
return 'written'
