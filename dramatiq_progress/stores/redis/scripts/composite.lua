-- A composite is one record for many messages. Beside it lies a hash of its members: message id to a slot, which is the
-- text `state attempt:thousandths:weight`. A contribution replaces a slot, and moves the counters by the difference: it
-- is idempotent, and a member may go from failed to running.
--
-- A slot follows its member's record. Writes of an older attempt are refused, every end but `failed` is final, and
-- nothing of the same attempt follows its end. The end of an attempt 0 is of a message that was never started, as far as
-- its sender knows: the broker may have taken it before the connection was lost. The mark `!` means that the member's
-- record has just been made for this attempt, as after a loss: its number may be lower than that in the slot. The mark
-- `+` means that another member has sent it. A slot `-` removes one whose message could not be sent.
--
-- KEYS: record, members. Returns {the state before, state, version, whether a cancel was requested (0, 1; 2 if by an
-- operator), born, number of running members, thousandths}.
local record, members = KEYS[1], KEYS[2]

-- The states of a slot. w with an attempt: a member that waits again; or a composite, none of whose members runs.
local RANK = {r = 1, w = 2, t = 2, d = 3, f = 3, c = 3, s = 3}
-- Members in these states count in full. One that was cancelled or skipped counts with what it reported last: otherwise a
-- cancel would fill the bar.
local IS_WHOLE = {d = true, f = true}

-- The numbers in the field `parts`; the flags follow. w to s: the slots of each state. weighted_thousandths: the sum of
-- weight x thousandths. known_weight: the sum of the weights of all slots. children and children_weight: the members that
-- other members have sent. over: those of the others that have ended; bad: without success.
local COUNTERS = {'born', 'planned', 'planned_weight', 'callbacks', 'w', 'r', 't', 'd', 'f', 'c', 's',
  'weighted_thousandths', 'known_weight', 'children', 'children_weight', 'over', 'bad', 'moved', 'spent', 'samples',
  'moved_at'}

local now = clock()
local before, parts, version, cancel_requested, started_at, known_cancellable, known_owner = unpack(redis.call('HMGET',
  record, 'state', 'parts', 'version', 'cancel_requested', 'started_at', 'cancellable', 'owner'))
if is_foreign(before) then return {before, before, 0, 0, '', 0, 0} end
-- Values that only another program writes. No error below must leave the members without a TTL.
version = version and #version <= 15 and string.match(version, '^%d+$') or nil
started_at = tonumber(started_at or nil)

local counters = {flags = ''}

local function parse(slot)
  local state, attempt, thousandths, weight, is_child, has_new_record =
    string.match(slot or '', '^(%l) (%d+):(%d+):(%d+)(%+?)(!?)$')
  if not RANK[state] then return nil end
  return {state = state, attempt = tonumber(attempt), weight = tonumber(weight), is_child = is_child == '+',
    has_new_record = has_new_record == '!', thousandths = IS_WHOLE[state] and 1000 or tonumber(thousandths)}
end

local function count(slot, sign)
  counters[slot.state] = counters[slot.state] + sign
  counters.weighted_thousandths = counters.weighted_thousandths + sign * slot.weight * slot.thousandths
  counters.known_weight = counters.known_weight + sign * slot.weight
  if slot.is_child then
    counters.children = counters.children + sign
    counters.children_weight = counters.children_weight + sign * slot.weight
  elseif RANK[slot.state] == 3 then
    counters.over = counters.over + sign
    if slot.state ~= 'd' then counters.bad = counters.bad + sign end
  end
end

local function count_ended()
  return counters.d + counters.f + counters.c + counters.s
end

local function count_slots()
  return counters.w + counters.r + counters.t + count_ended()
end

local function has_flag(flag)
  return string.find(counters.flags, flag, 1, true)
end

local values = {string.match(parts or '', '^' .. string.rep('(%S+) ', #COUNTERS) .. '(%S*)$')}
for i, name in ipairs(COUNTERS) do counters[name] = tonumber(values[i] or 0) or 0 end
counters.flags = values[#COUNTERS + 1] or ''
-- Of a record that is made again, every failure is new.
local failed_before = counters.f
local known_cancel = cancel_requested
-- Fields and values, which are written at the end in one command.
local changes = {}
local function change(field, value)
  changes[#changes + 1], changes[#changes + 2] = field, value
end
if not parts then
  counters.flags = flags
  redis.call('HSET', record, 'actor', name, 'queue', '', 'retries_left', 'null', 'enqueued_at', moment(now - age))
  if title ~= '' then redis.call('HSET', record, 'title', title) end
  if description ~= '' then redis.call('HSET', record, 'description', description) end
end
-- Each of the two keys may be evicted alone. With a new `born`, processes contribute the ends that they remember again.
if not parts or count_slots() ~= redis.call('HLEN', members) then
  counters.born = math.max(counters.born + 1, math.floor(now * 1000))
  for _, name in ipairs({'w', 'r', 't', 'd', 'f', 'c', 's', 'weighted_thousandths', 'known_weight', 'children',
    'children_weight', 'over', 'bad'}) do counters[name] = 0 end
  local known = redis.call('HGETALL', members)
  for j = 1, #known, 2 do
    local slot = parse(known[j + 1])
    if slot then count(slot, 1) else redis.call('HDEL', members, known[j]) end
  end
end
counters.planned = math.max(counters.planned, planned)
counters.planned_weight = math.max(counters.planned_weight, planned_weight)
counters.callbacks = math.max(counters.callbacks, callbacks)
if string.find(flags, 'x', 1, true) and not has_flag('x') then counters.flags = counters.flags .. 'x' end
-- It can be cancelled while the actors of all its members can.
if not known_cancellable or known_cancellable == '1' and cancellable == '0' then change('cancellable', cancellable) end
if owner ~= '' and not known_owner then change('owner', owner) end

local weighted_before, has_run = counters.weighted_thousandths, counters.r > 0
local is_alive = false

-- Returns whether the slot of a member has changed.
local function contribute(id, text)
  if text == '-' then
    local unsent = parse(redis.call('HGET', members, id))
    if unsent and unsent.state == 'w' and unsent.attempt == 0 then
      count(unsent, -1)
      redis.call('HDEL', members, id)
    end
    return
  end
  local slot = parse(text)
  if slot.state == 'w' and slot.attempt == 0 then
    -- Only if it has no slot: it may have started already.
    if redis.call('HSETNX', members, id, text) == 1 then count(slot, 1) end
    return
  end
  is_alive = true
  local known = parse(redis.call('HGET', members, id))
  if known then
    if RANK[known.state] == 3 and known.state ~= 'f' and known.attempt > 0 then return end
    local is_older = slot.attempt < known.attempt or slot.attempt == known.attempt
      and (RANK[known.state] == 3 or RANK[slot.state] < RANK[known.state])
    if is_older and not slot.has_new_record then return end
    count(known, -1)
    slot.weight, slot.is_child = known.weight, known.is_child
    -- It was cancelled or skipped before it ran again.
    if RANK[slot.state] == 3 and slot.thousandths == 0 then slot.thousandths = known.thousandths end
  end
  count(slot, 1)
  redis.call('HSET', members, id, string.format('%s %d:%d:%d%s', slot.state, slot.attempt, slot.thousandths,
    slot.weight, slot.is_child and '+' or ''))
end

for j = FIELDS, #ARGV, 2 do contribute(ARGV[j], ARGV[j + 1]) end

-- Not while it merely has a failed member: of two that are sent again, one after the other, the first would be cancelled.
if counters.f > failed_before and has_flag('f') and not cancel_requested then cancel_requested = 'fail_fast' end
if not started_at and (count_slots() > counters.w or counters.weighted_thousandths > 0) then
  started_at = now - age
  change('started_at', moment(started_at))
end
local has_moved = counters.weighted_thousandths > weighted_before
-- A long time in which no member ran says nothing about the speed.
if not has_run and (counters.r > 0 or has_moved) and now - counters.moved_at > tonumber(memory_seconds) then
  counters.moved_at = now
end
if has_moved then
  local spent = math.max(0, now - counters.moved_at)
  -- Contributions that are older than this count for less than a third.
  local memory = math.max(memory_seconds, memory_part * (now - started_at))
  local fading = math.exp(-spent / memory)
  counters.moved = counters.moved * fading + counters.weighted_thousandths - weighted_before
  counters.spent = counters.spent * fading + spent
  counters.samples, counters.moved_at = counters.samples + 1, now
  change('reported_at', moment(now))
end

-- Returns the state, and whether members are still to come.
local function outcome()
  local others = math.max(counters.planned, count_slots() - counters.children)
  local total, ended = others + counters.children, count_ended()
  local is_missing = ended < total or has_flag('o') and not has_flag('x')
  local is_idle = counters.r == 0 and counters.t == 0
  -- The stages of a pipeline that come after a bad end are never sent, and neither are callbacks. If one of those has
  -- ended too, all of them were sent.
  local without_callbacks = counters.callbacks > 0 and ended == total - counters.callbacks
    and counters.over == others - counters.callbacks and counters.bad > 0
  local has_stopped = is_idle and (has_flag('p') and ended > counters.d or without_callbacks)
  local is_awaited = is_missing and not has_stopped
  -- All others are cancelled now. The failed member may be sent again from the dead letters, and is then to run.
  if not is_awaited and cancel_requested == 'fail_fast' then cancel_requested = false end
  -- A cancelled composite stays so, also if a member turns out to be alive that was taken for lost.
  if cancel_requested and FINAL[before] then return before, is_awaited end
  local is_over = not is_awaited or cancel_requested and counters.r == 0
  if not is_over then
    return started_at and 'running' or (not before or before == 'delayed') and state or 'enqueued', true
  end
  local is_cancelled = counters.c > 0 or cancel_requested and is_missing
  local is_by_person = cancel_requested and cancel_requested ~= 'fail_fast'
  if is_cancelled and (counters.f == 0 or is_by_person) then
    return 'cancelled', is_awaited
  end
  if counters.f > 0 then return 'failed', is_awaited end
  return counters.s > 0 and 'skipped' or 'done', false
end

local after, is_awaited = outcome()
local numbers = {}
for j, name in ipairs(COUNTERS) do numbers[j] = counters[name] end
numbers[#numbers + 1] = counters.flags
local text = string.format(string.rep('%.14g ', #COUNTERS) .. '%s', unpack(numbers))
local is_changed = after ~= before or text ~= parts
-- As the attempt of a member, the version of a composite must not be below that of one that was lost.
version = string.format('%.0f', (version or counters.born) + (is_changed and 1 or 0))
if is_changed then
  change('state', after)
  change('parts', text)
  change('version', version)
end
if cancel_requested and not known_cancel then change('cancel_requested', cancel_requested) end
if known_cancel and not cancel_requested then redis.call('HDEL', record, 'cancel_requested') end
if is_alive or after == 'running' then change('heartbeat', moment(now)) end
if FINAL[after] and not FINAL[before] then change('ended_at', moment(now - age)) end
if FINAL[before] and not FINAL[after] then redis.call('HDEL', record, 'ended_at') end
if #changes > 0 then redis.call('HSET', record, unpack(changes)) end
-- As changed() of prelude.lua does.
if is_changed then redis.pcall('PUBLISH', record, '') end
-- A failed member may be sent again from the dead letters, and opens its composite again: all members must be known then.
local is_over = FINAL[after] and not is_awaited and counters.f == 0
for _, key in ipairs({record, members}) do
  if is_over then
    redis.call('PEXPIRE', key, finished_ttl)
  elseif redis.call('PEXPIRE', key, ttl, 'GT') == 0 then
    redis.call('PEXPIRE', key, ttl, 'NX')
  end
end
local others_weight = math.max(counters.planned_weight, counters.known_weight - counters.children_weight)
local total_weight = others_weight + counters.children_weight
return {before or '', after, version, cancel_requested == 'forced' and 2 or cancel_requested and 1 or 0,
  counters.born, counters.r,
  math.floor(counters.weighted_thousandths / math.max(total_weight, 1))}
