#!lua flags=no-writes
-- Whether a composite is to be cancelled, and whether it is the one that is known. KEYS: record, and its members if one of
-- them asks. Returns {whether a cancel was requested (0, 1; 2 if by an operator), born, version, the slot of that member}.
local parts, cancel_requested, version = unpack(redis.call('HMGET', KEYS[1], 'parts', 'cancel_requested', 'version'))
return {cancel_requested == 'forced' and 2 or cancel_requested and 1 or 0, string.match(parts or '', '^%d+') or '',
  string.match(version or '', '^%d+$') or 0, KEYS[2] and redis.call('HGET', KEYS[2], member) or ''}
