#!lua flags=no-writes
-- The durations of an actor's runs (see tally.lua). KEYS: the hash. Returns {estimate key, histogram, …}.
return redis.call('HGETALL', KEYS[1])
