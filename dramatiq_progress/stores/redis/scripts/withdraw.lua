#!lua flags=allow-oom
-- A message could not be sent: the record that its sender has just created is removed, unless it has changed since.
-- KEYS: record, and its companion or, for a composite, its members. Returns written or refused.
local record = KEYS[1]

local before = redis.call('HMGET', record, 'state', 'version')
if (before[1] ~= 'enqueued' and before[1] ~= 'delayed') or before[2] ~= version then return 'refused' end
redis.call('DEL', unpack(KEYS))
redis.pcall('PUBLISH', record, '')
return 'written'
