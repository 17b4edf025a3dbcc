-- wrk <url> -- <file of "method TAB path TAB body" lines> <threads> <token>: each thread sends its share of the lines, round and round.

local counter = 0

function setup(thread)
  thread:set("number", counter)
  counter = counter + 1
end

function init(args)
  local file, threads, token = args[1], tonumber(args[2]), args[3] or ""
  local headers = { ["Content-Type"] = "application/fhir+json" }
  if token ~= "" then headers["Authorization"] = "Bearer " .. token end
  requests = {}
  local index = 0
  for line in io.lines(file) do
    if index % threads == number then
      local method, path, body = line:match("([^\t]*)\t([^\t]*)\t(.*)")
      if body == "" then body = nil end
      requests[#requests + 1] = wrk.format(method, path, headers, body)
    end
    index = index + 1
  end
  at = 0
end

function request()
  at = at % #requests + 1
  return requests[at]
end

function done(summary, latency, requests)
  local errors = summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.timeout
  io.write(string.format('RESULT {"requests": %d, "us": %d, "p50": %d, "p99": %d, "errors": %d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), errors))
end
