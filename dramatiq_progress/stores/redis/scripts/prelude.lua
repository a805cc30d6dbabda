local FINAL = {done = true, failed = true, cancelled = true, skipped = true}
local UNFINISHED = {enqueued = true, delayed = true, running = true, retrying = true, paused = true}

-- How many attempts' values are kept beside a record.
local KEPT_ATTEMPTS = 50

-- While a deployment replaces processes, a later version of this package may have written a state that this one doesn't
-- know: it then leaves the record alone.
local function is_foreign(state)
  return state and not FINAL[state] and not UNFINISHED[state]
end

-- The server's clock, in seconds.
local function clock()
  local time = redis.call('TIME')
  return time[1] + time[2] / 1000000
end

local function moment(seconds)
  return string.format('%.6f', seconds)
end

-- Whether an attempt is alive, by its last heartbeat. One from the future was written by another server, before a
-- failover: an attempt that is alive replaces it within seconds.
local function is_alive(heartbeat, now, lost_after)
  return math.abs(now - (tonumber(heartbeat or nil) or -math.huge)) <= tonumber(lost_after)
end

-- The attempts that have started while the one that is shown was alive. Returns the highest number, how many started
-- since its last heartbeat, the token of the last one, and the last heartbeat of any.
local function parse_later(later)
  if not later then return 0, 0, '', '0' end
  local number, undecided, token, heartbeat = string.match(later, '^(%d+) (%d+) (%S+) (%S+)$')
  return tonumber(number or 0), tonumber(undecided or 0), token or '', heartbeat or '0'
end

local function note_later(record, number, undecided, token, heartbeat)
  redis.call('HSET', record, 'later', table.concat({number, undecided, token, heartbeat}, ' '))
end

-- Whether the attempt that is shown is silent, and none that waits is alive.
local function is_silent(heartbeat, later, now, lost_after)
  local _, _, _, later_heartbeat = parse_later(later)
  return not is_alive(heartbeat, now, lost_after) and not is_alive(later_heartbeat, now, lost_after)
end

-- Stores the fields that every writer sets. Absent means not cancellable. An owner is never replaced: a message that is
-- sent again by another user must not show its first owner's data to them.
local function describe(record, cancellable, owner)
  if cancellable == '1' then redis.call('HSET', record, 'cancellable', '1') end
  if owner ~= '' then redis.call('HSETNX', record, 'owner', owner) end
end

-- Stores what was given with the message: title and metadata, unless an attempt has set others, and the estimate key.
local function introduce(record, title, metadata, estimate_key)
  if title ~= '' then redis.call('HSETNX', record, 'title', title) end
  if metadata ~= '{}' then redis.call('HSETNX', record, 'metadata', metadata) end
  if estimate_key ~= '' then redis.call('HSETNX', record, 'estimate_key', estimate_key) end
end

-- Where an attempt goes on from: the cursor of an earlier one, and the values that belong to it.
local KEPT = {'cursor', 'current', 'total', 'description', 'overall', 'step'}

-- The number of the attempt that a cursor is of; see worker/resuming/cursor.py.
local function cursor_attempt(cursor)
  return cursor and tonumber(string.match(cursor, '^%[(%d+)') or 0) or 0
end

-- Removes what another attempt reported, except its cursor: what it has done is done.
local function clear(record)
  redis.call('HDEL', record, 'current', 'total', 'description', 'rate', 'overall', 'step', 'reported_at',
    'result')
end

-- Makes the record this attempt's: the store never had the attempt or has lost it, or the one that was shown has died or
-- ended. Numbers never fall.
local function rebuild(record, number, latest, later, token, actor, queue, retries_left, cancellable, owner, started_at)
  local later_number, _, later_token, heartbeat = parse_later(later)
  redis.call('HDEL', record, 'cancellable', 'ended_at', 'retry_at', 'doubted', 'later')
  if later_number > tonumber(number) then note_later(record, later_number, 0, later_token, heartbeat) end
  redis.call('HSET', record, 'attempt', math.max(number, latest or 0), 'token', token, 'actor', actor, 'queue', queue,
    'retries_left', retries_left, 'started_at', moment(started_at))
  describe(record, cancellable, owner)
end

-- Writes beside a record the fields and values at these positions of ARGV. A name that ends with a colon is followed by
-- the attempt's number, if the attempt runs; those of old attempts are removed.
local function keep(companion, attempt, runs, first, last)
  for i = first, last, 2 do
    local name = ARGV[i]
    if string.sub(name, -1) ~= ':' then
      redis.call('HSET', companion, name, ARGV[i + 1])
    elseif runs then
      redis.call('HDEL', companion, name .. (attempt - KEPT_ATTEMPTS))
      redis.call('HSET', companion, name .. attempt, ARGV[i + 1])
    end
  end
end

-- A store that went back to an older record continues from the version that readers have seen.
local function raise_version(record, stored, known)
  if tonumber(stored or 0) < tonumber(known) then redis.call('HSET', record, 'version', known) end
end

-- Ends a change that readers see. Streams subscribe to the channel with the record's name (0.4 us without subscribers);
-- pcall, since a user whose ACL forbids the channel must not lose the write. Returns the new version.
local function changed(record)
  redis.pcall('PUBLISH', record, '')
  return redis.call('HINCRBY', record, 'version', 1)
end

-- Notes that a message is paused, and the state that a resume gives it. That it is to be paused is kept in the record only.
local function wait_paused(record, next_state)
  if next_state ~= 'retrying' then redis.call('HDEL', record, 'retry_at') end
  redis.call('HSET', record, 'state', 'paused', 'pause_requested', next_state)
end

-- The number of members of a composite that run: see composite.lua.
local function running_members(parts)
  return tonumber(string.match(parts, '^%d+ %d+ %d+ %d+ %d+ (%d+) ') or 0)
end
