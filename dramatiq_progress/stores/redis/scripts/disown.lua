#!lua flags=allow-oom
-- A message leaves its owner's index, since it was never sent. KEYS: the index.
redis.call('ZREM', KEYS[1], message_id)
return 'written'
