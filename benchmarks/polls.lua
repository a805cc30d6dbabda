-- wrk asks for each id in turn. Its arguments: the path up to the id, and how many ids there are.
local before, count = "/", 1
local next_id = 0

function init(arguments)
  before, count = arguments[1], tonumber(arguments[2])
end

function request()
  next_id = (next_id + 1) % count
  return wrk.format("GET", string.format("%s%08x-9f3b-4d2e-8a51-0c6f2b7d1e94/", before, next_id))
end

-- Answers per second, and how many requests failed.
function done(summary)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format("\nPOLLS %f %d\n", summary.requests / (summary.duration / 1000000), failed))
end
