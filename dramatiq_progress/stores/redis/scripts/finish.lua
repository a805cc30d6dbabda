#!lua flags=allow-oom
-- An attempt finishes: in a final state, or in retrying. Accepted by a full store (allow-oom). A failed attempt of a
-- message whose cancel was requested isn't retried: it is cancelled. Nor does one go on later. One whose pause was
-- requested is paused instead of waiting.
--
-- A success of any attempt that report.lua would show, or lets wait, ends the message. Any other end leaves a message on
-- which another attempt is known to work as it is. Where nothing shows yet whether that attempt has died, the end is
-- written, and the attempt is noted as doubted: its next write, if there is one, continues the record.
-- KEYS: record, and its companion if there is one, for which the last fields and values are: as many as `beside` says.
-- Returns {written, rebuilt or refused; the state before, the state and the attempt that it shows now, when the attempt
-- ended}.
local record = KEYS[1]

local before = redis.call('HMGET', record, 'state', 'attempt', 'token', 'heartbeat', 'version', 'cancel_requested',
  'later')
local refused = {'refused', before[1] or '', before[1] or '', before[2] or 0, '0'}
local latest = tonumber(before[2] or 0)
local later_number, undecided, later_token, later_heartbeat = parse_later(before[7])
if is_foreign(before[1]) then return refused end
-- A token that matches means that the attempt has started: only the answer was lost, or the worker's thread was
-- interrupted before it knew.
local is_shown = before[3] == token
if is_shown or later_token == token then
  started = '1'
  if attempt == '0' then attempt = is_shown and before[2] or later_number end
end
local now = clock()
local is_running = before[1] == 'running'
local other_lives = is_running and not is_shown and is_alive(before[4], now, lost_after)
local is_over = FINAL[before[1]] and before[1] ~= 'failed'
local doubted = given_up == '1' and '*' or false
local pause_requested = (resumable == '1' or before[1] == 'paused') and redis.call('HGET', record, 'pause_requested')
local rebuilt = false
if started == '0' then
  if not before[1] or FINAL[before[1]] then return refused end
  -- A copy of a message that another worker is running says nothing about it.
  if other_lives then return refused end
elseif is_shown then
  -- From retrying and paused too: the delivery may find that its retry can't be sent, and has then failed. One that makes
  -- room may not have got the answer, and asks again.
  local asks_again = before[1] == 'retrying' or before[1] == 'paused' or yields == '1' and before[1] == 'enqueued'
  if not is_running and not asks_again then return refused end
  local continues = state == 'failed' or UNFINISHED[state]
  if is_running and continues and not before[6] and is_alive(later_heartbeat, now, lost_after) then
    -- Left to the attempt that waits. Its next report shows it.
    redis.call('HDEL', record, 'token')
    redis.call('HSET', record, 'heartbeat', later_heartbeat, 'deliveries', 1)
    note_later(record, later_number, 0, later_token, later_heartbeat)
    return refused
  end
else
  -- It no longer waits, even if its end is refused.
  if later_token == token then note_later(record, later_number, undecided, token, 0) end
  if is_over then return refused end
  local known_doubted, left = unpack(redis.call('HMGET', record, 'doubted', 'retries_left'))
  local is_doubted = not is_running and (known_doubted == token or known_doubted == '*')
  if attempt == '0' then
    -- The store never knew it. The attempt in the record is a later one if it has fewer retries left. If none has started,
    -- the sender may have counted them with an older limit: a final state is followed by no retry.
    attempt = math.max(latest, later_number) + 1
    local own_left = tonumber(retries_left)
    left = tonumber(left or nil)
    if left and own_left and left < own_left and (attempt > 1 or UNFINISHED[state]) then return refused end
    attempt = math.max(attempt, tonumber(min_attempt))
  elseif not is_doubted and latest >= tonumber(attempt) then
    return refused
  end
  if other_lives and before[3] and state ~= 'done' then
    -- It has sent a heartbeat since this attempt started: by the times, or by the count of starts since then, which
    -- a slow network doesn't change.
    if now - before[4] < tonumber(running_for) or tonumber(attempt) <= later_number - undecided then return refused end
    doubted = doubted or before[3]
  end
  rebuilt = true
  -- The last values of a message that is given up stay.
  if given_up == '0' then clear(record) end
  rebuild(record, attempt, latest, redis.call('HGET', record, 'later'), token, actor, queue, retries_left,
    cancellable, owner, now - running_for)
end

raise_version(record, before[5], version)
redis.call('HDEL', record, 'retry_at', 'deliveries', 'doubted')
redis.call('HSET', record, 'state', state, 'ended_at', moment(now - age), unpack(ARGV, FIELDS, #ARGV - beside))
if doubted then redis.call('HSET', record, 'doubted', doubted) end
-- An actor that enqueued its own message again: this round has ended, and the next one waits.
if UNFINISHED[state] and state ~= 'retrying' then redis.call('HSET', record, 'enqueued_at', moment(now - age)) end
if before[6] and (state == 'retrying' or state == 'failed' or yields == '1') then
  redis.call('HDEL', record, 'result')
  redis.call('HSET', record, 'state', 'cancelled')
  state, delay = 'cancelled', ''
end
if delay ~= '' then redis.call('HSET', record, 'retry_at', moment(now - age + delay)) end
if pause_requested and UNFINISHED[state] then
  wait_paused(record, state)
  state = 'paused'
elseif pause_requested then
  redis.call('HDEL', record, 'pause_requested')
end
changed(record)
redis.call('PEXPIRE', record, ttl)
if KEYS[2] then
  keep(KEYS[2], attempt, true, #ARGV - beside + 1, #ARGV)
  redis.call('PEXPIRE', KEYS[2], ttl)
end
return {rebuilt and 'rebuilt' or 'written', before[1] or '', state, rebuilt and math.max(attempt, latest) or latest,
  moment(now - age)}
