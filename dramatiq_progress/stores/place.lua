#!lua flags=no-writes
-- Where a message stands. KEYS: the queue's line. ARGV: message id. Answers {how many are before it or nil, length}.
return {redis.call('ZRANK', KEYS[1], ARGV[1]), redis.call('ZCARD', KEYS[1])}
