#!lua
-- Durations of an actor's runs are counted. Its hash has a histogram for each estimate key, "seconds bucket:count …":
-- the time of the last run, and the buckets that have any. While a histogram has more than `max_runs` runs, all counts
-- are halved, so that it follows an actor that becomes faster or slower. Sent twice, the runs count twice, which an
-- estimate can bear.
-- KEYS: the hash. ARGV: estimate keys, each with its runs as "bucket:count …". Returns the keys that were refused, since
-- the actor has `max_keys` others.
local hash = KEYS[1]

local now = tonumber(redis.call('TIME')[1])
local refused = {}

local function has_room()
  if redis.call('HLEN', hash) < tonumber(max_keys) then return true end
  for _, key in ipairs(redis.call('HKEYS', hash)) do
    local last = string.match(redis.call('HGET', hash, key), '^%d+')
    if now - (last or 0) > ttl / 1000 then redis.call('HDEL', hash, key) end
  end
  return redis.call('HLEN', hash) < tonumber(max_keys)
end

for i = FIELDS, #ARGV, 2 do
  local key, stored = ARGV[i], redis.call('HGET', hash, ARGV[i])
  if stored or has_room() then
    local counts, runs = {}, 0
    for bucket, count in string.gmatch((stored or '') .. ' ' .. ARGV[i + 1], '(%d+):(%d+%.?%d*)') do
      counts[tonumber(bucket)] = (counts[tonumber(bucket)] or 0) + count
      runs = runs + count
    end
    local share = 1
    while runs * share > tonumber(max_runs) do share = share / 2 end
    local texts = {now}
    for bucket = 0, 63 do
      local count = (counts[bucket] or 0) * share
      -- What has been halved several times has no weight left.
      if count >= 0.1 then table.insert(texts, string.format('%d:%.4g', bucket, count)) end
    end
    redis.call('HSET', hash, key, table.concat(texts, ' '))
  else
    table.insert(refused, key)
  end
end
redis.call('PEXPIRE', hash, ttl)
return refused
