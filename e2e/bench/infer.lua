-- wrk: one binary inference request, the same each time. The body comes from a file, its JSON length from the environment.
-- At the end one line of JSON: requests, microseconds at the percentiles, errors.
local body = assert(io.open(os.getenv("BENCH_BODY"), "rb")):read("*a")

wrk.method = "POST"
wrk.body = body
wrk.headers["Content-Type"] = "application/octet-stream"
wrk.headers["Inference-Header-Content-Length"] = os.getenv("BENCH_JSON_LENGTH")

function done(summary, latency, requests)
   local e = summary.errors
   io.write(string.format('RESULT {"requests":%d,"seconds":%f,"p50":%d,"p99":%d,"errors":%d}\n',
      summary.requests, summary.duration / 1e6, latency:percentile(50), latency:percentile(99),
      e.connect + e.read + e.write + e.status + e.timeout))
end
