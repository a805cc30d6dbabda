#!lua flags=no-writes
-- The messages of an owner. KEYS: the owner's index. Returns {message id, time, …}, newest first.
return redis.call('ZRANGE', KEYS[1], 0, -1, 'REV', 'WITHSCORES')
