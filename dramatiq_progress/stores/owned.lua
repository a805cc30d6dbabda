#!lua flags=no-writes
-- What an owner has sent. KEYS: the owner's index. Answers {message id, time, …}, the newest first.
return redis.call('ZRANGE', KEYS[1], 0, -1, 'REV', 'WITHSCORES')
