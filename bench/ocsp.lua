-- wrk script: sends the prepared requests of a file in turn and prints its figures as one line of JSON.
-- wrk -s ocsp.lua http://HOST:PORT -- FILE          FILE: each request after its length, 32 bits little-endian
local requests, count, at = {}, 0, 0
local thread_number = 0

function setup(thread)
  thread:set("offset", thread_number)
  thread_number = thread_number + 1
end

function init(args)
  local file = assert(io.open(args[1], "rb"))
  local data = file:read("*a")
  file:close()
  local position = 1
  while position <= #data do
    local a, b, c, d = data:byte(position, position + 3)
    local length = a + b * 256 + c * 65536 + d * 16777216
    count = count + 1
    requests[count] = data:sub(position + 4, position + 3 + length)
    position = position + 4 + length
  end
  at = offset * 7919 % count -- threads do not ask for the same thing at the same time
end

function request()
  at = at % count + 1
  return requests[at]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    'JSON {"requests":%d,"duration_us":%d,"bytes":%d,"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d,' ..
    '"p50_us":%.1f,"p90_us":%.1f,"p99_us":%.1f,"max_us":%.1f}\n',
    summary.requests, summary.duration, summary.bytes, errors.connect, errors.read, errors.write, errors.status,
    errors.timeout, latency:percentile(50), latency:percentile(90), latency:percentile(99), latency.max))
end
