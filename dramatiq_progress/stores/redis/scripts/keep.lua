#!lua flags=allow-oom
-- Writes beside a record what no page reads: when the message is sent (without a token), when an attempt starts, and
-- during the attempt. Without the record, or by an attempt that isn't the one that is shown or waits, it is refused. So a
-- full store, which accepts this script (allow-oom), takes nothing for messages that it refuses.
-- KEYS: record, companion. Returns {written or refused; start of the attempt, {field, value, …} except `about`}.
local record, companion = KEYS[1], KEYS[2]

local state, known, attempt, deliveries, enqueued_at, started_at, later = unpack(redis.call('HMGET', record,
  'state', 'token', 'attempt', 'deliveries', 'enqueued_at', 'started_at', 'later'))
local later_number, _, later_token = parse_later(later)
if token == '' then
  if known or state ~= 'enqueued' and state ~= 'delayed' then return {'refused', '', {}} end
  -- A message that is sent again begins a new life.
  redis.call('DEL', companion)
elseif known ~= token then
  if later_token ~= token then return {'refused', '', {}} end
  attempt = later_number
end
-- An attempt of a message that is given up doesn't run.
local runs = tonumber(max_deliveries) == 0 or tonumber(deliveries or 0) <= tonumber(max_deliveries)
if enqueued_at then redis.call('HSETNX', companion, 'enqueued_at', enqueued_at) end
if started_at and runs then redis.call('HSETNX', companion, 'started_at', started_at) end
keep(companion, attempt, runs, FIELDS, #ARGV)
redis.call('PEXPIRE', companion, redis.call('PTTL', record))

local fields = redis.call('HGETALL', companion)
local kept = {}
for i = 1, #fields, 2 do
  if fields[i] ~= 'about' then
    kept[#kept + 1] = fields[i]
    kept[#kept + 1] = fields[i + 1]
  end
end
return {'written', started_at or '', kept}
