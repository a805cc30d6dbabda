#!lua flags=no-writes
-- Reads records. KEYS: records. Answers {seconds, microseconds, fields of the first, fields of the second, …}.
local answer = redis.call('TIME')
for _, record in ipairs(KEYS) do
  answer[#answer + 1] = redis.call('HGETALL', record)
end
return answer
