#!lua flags=no-writes
-- Reads records. KEYS: records. Answers {seconds, microseconds, the fields of each record: {field, value, …}, …}.
local answer = redis.call('TIME')
for i, record in ipairs(KEYS) do
  answer[2 + i] = redis.call('HGETALL', record)
end
return answer
