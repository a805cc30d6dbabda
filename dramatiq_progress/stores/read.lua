#!lua flags=no-writes
-- Reads records. KEYS: records. Answers {seconds, microseconds, the fields of each record as JSON: [[field, value, …], …]}.
-- As one text, since redis-py parses each element of an answer in Python: 100 records took 4.2 ms, and take 0.9 ms so.
local records = {}
for i, record in ipairs(KEYS) do
  records[i] = redis.call('HGETALL', record)
end
local time = redis.call('TIME')
return {time[1], time[2], cjson.encode(records)}
