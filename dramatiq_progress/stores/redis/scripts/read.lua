#!lua flags=no-writes
-- Reads records. KEYS: records. Returns {seconds, microseconds, the fields of each record: {field, value, …}, …}. For a
-- key of another type, the fields are {error}: one key must not fail the others.
local answer = redis.call('TIME')
for i, record in ipairs(KEYS) do
  local fields = redis.pcall('HGETALL', record)
  answer[2 + i] = fields.err and {fields.err} or fields
end
return answer
