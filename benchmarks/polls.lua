-- Requests each id in turn. Arguments: the path before the id, and the number of ids.
local before, count = "/", 1
local next_id = 0

function init(arguments)
  before, count = arguments[1], tonumber(arguments[2])
end

function request()
  next_id = (next_id + 1) % count
  return wrk.format("GET", string.format("%s%08x-9f3b-4d2e-8a51-0c6f2b7d1e94/", before, next_id))
end

-- Prints responses per second, and the number of failed requests.
function done(summary)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format("\nPOLLS %f %d\n", summary.requests / (summary.duration / 1000000), failed))
end
