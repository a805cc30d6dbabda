#!lua
-- A worker starts a message: the attempt is counted, and its token becomes the fence.
--
-- Unless the attempt that is shown is alive, by its heartbeat. Then nothing shows yet whether it has died (RabbitMQ
-- redelivers within a second) or was only not acknowledged in time. It stays the one that is shown, since it is further
-- on, and the new attempt waits: report.lua shows it as soon as the other one is silent for too long or ends without
-- success. The new delivery counts as a death of the other (MAX_DELIVERIES) until the other's next heartbeat.
--
-- If the one that is shown can be resumed, the later one takes over at once instead, and the other stops at its next
-- item: otherwise both would do all the items that are left. It doesn't if the other has worked on one item for longer
-- than LOST_AFTER: with items longer than the broker waits for an answer, none would ever be done.
--
-- Where an earlier attempt got to (its cursor) stays, with its values. The message may bring a cursor too, as the first of
-- its fields: a store that has lost some writes has an older one.
-- A paused message isn't started.
-- KEYS: record, and its companion if there is one. Fields: those that the message brings. Returns {run, paused, ignored,
-- finished or cancelled; attempt, version, deliveries, title, metadata, the state before, whether the record shows the attempt
-- (0, 1), {field, value, …} to go on from}. Where nothing has changed, the state is empty.
local record = KEYS[1]
local function expire(milliseconds)
  for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, milliseconds) end
end

local before, known, heartbeat, cancel_requested, attempt, deliveries, later, known_title, known_metadata, cursor = unpack(
  redis.call('HMGET', record, 'state', 'token', 'heartbeat', 'cancel_requested', 'attempt', 'deliveries', 'later',
    'title', 'metadata', 'cursor'))
local later_number, undecided, later_token = 0, 0, ''
if later then later_number, undecided, later_token = parse_later(later) end
-- The actor of that attempt has sent this message, its own, for another round: it is no second delivery, and begins at the
-- start.
if cursor == '' or (follows ~= '' and (follows == known or follows == later_token)) then cursor = false end
-- It was not acknowledged. Its attempts share what they have done, so none does it again.
if before == 'done' and cursor then return {'finished', 0, 0, 0, '', '', '', 0, {}} end
if before == 'done' or before == 'skipped' or is_foreign(before) then return {'ignored', 0, 0, 0, '', '', '', 0, {}} end
if before == 'cancelled' then
  -- Its message has come and is skipped, so the record need not wait for it any longer.
  expire(finished_ttl)
  return {'cancelled', 0, 0, 0, '', '', '', 0, {}}
end

local brings = ARGV[FIELDS] and cursor_attempt(ARGV[FIELDS + 1]) >= cursor_attempt(cursor)
local function kept()
  if brings then return {unpack(ARGV, FIELDS)} end
  local fields = {}
  if cursor then
    for i, value in ipairs(redis.call('HMGET', record, unpack(KEPT))) do
      if value then
        fields[#fields + 1] = KEPT[i]
        fields[#fields + 1] = value
      end
    end
  end
  return fields
end

if before == 'running' and (known == token or later_token == token) then
  -- The answer to this very start was lost on its way, and is given again.
  if known ~= token then attempt = later_number end
  return {'run', attempt, redis.call('HGET', record, 'version'), deliveries or 0, known_title or title,
    known_metadata or metadata, before, known == token and 1 or 0, kept()}
end

local now = clock()
local other_lives = before == 'running' and is_alive(heartbeat, now, lost_after)
if cancel_requested then
  -- A deferred start is of an attempt that runs. The other one is interrupted too, and its end is the outcome.
  if other_lives and tonumber(age) > 0 then return {'cancelled', 0, 0, 0, '', '', '', 0, {}} end
  -- Its worker was lost before it was interrupted. The attempt ended with its last heartbeat.
  redis.call('HDEL', record, 'deliveries')
  redis.call('HSET', record, 'state', 'cancelled', 'ended_at', heartbeat or moment(now))
  changed(record)
  expire(finished_ttl)
  return {'cancelled', 0, 0, 0, '', '', before, 0, {}}
end
-- Read again only after a death: a running message is asked by the answers to its reports.
if before == 'paused' or before == 'running' and not other_lives
    and redis.call('HEXISTS', record, 'pause_requested') == 1 then
  if tonumber(age) == 0 then
    if before == 'running' then
      -- Its worker was lost before it made room, and writes nothing more.
      redis.call('HDEL', record, 'token')
      redis.call('HSET', record, 'ended_at', heartbeat)
    end
    wait_paused(record, 'enqueued')
    if before == 'running' then changed(record) end
    expire(ttl)
    return {'paused', 0, 0, 0, '', '', before == 'running' and before or '', 0, kept()}
  end
  -- A deferred start is of an attempt that runs. Its next report asks it to pause, if it can.
  if not cursor and resumable == '0' then redis.call('HDEL', record, 'pause_requested') end
end
attempt = math.max(attempt or 0, later_number) + 1
attempt = math.max(attempt, tonumber(min_attempt))
deliveries = (deliveries or 0) + 1
local takes_over = false
if other_lives and cursor then
  local lead = now - age - redis.call('HGET', record, 'started_at')
  -- Its count is 0 if it got further since it started.
  takes_over = lead >= 0 and (deliveries == 1 or lead < tonumber(lost_after))
end
if other_lives and not takes_over then
  local version = redis.call('HINCRBY', record, 'version', 0)
  redis.call('HSET', record, 'deliveries', deliveries)
  note_later(record, attempt, undecided + 1, token, moment(now))
  redis.call('PEXPIRE', record, ttl)
  return {'run', attempt, version, deliveries, known_title or title, known_metadata or metadata, before, 0, kept()}
end
if tonumber(max_deliveries) ~= 0 and deliveries > tonumber(max_deliveries) then
  -- A message that is given up reports nothing more: its last values stay.
  redis.call('HDEL', record, 'result', 'ended_at', 'retry_at', 'cancellable', 'doubted', 'later')
elseif cursor and not brings then
  redis.call('HDEL', record, 'result', 'ended_at', 'retry_at', 'cancellable', 'doubted', 'later', 'rate', 'reported_at')
else
  redis.call('HDEL', record, 'result', 'ended_at', 'retry_at', 'cancellable', 'doubted', 'later', 'rate', 'reported_at',
    unpack(KEPT))
  if brings then redis.call('HSET', record, unpack(ARGV, FIELDS)) end
end
-- Not rebuild(): one HSET less.
redis.call('HSET', record, 'state', 'running', 'token', token, 'actor', actor, 'queue', queue,
  'retries_left', retries_left, 'attempt', attempt, 'deliveries', deliveries,
  'started_at', moment(now - age), 'heartbeat', moment(now))
describe(record, cancellable, owner)
introduce(record, title, metadata, estimate_key)
redis.call('PEXPIRE', record, ttl)
return {'run', attempt, changed(record), deliveries, known_title or title, known_metadata or metadata, before or '', 1, kept()}
