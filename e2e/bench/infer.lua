-- wrk: one inference request, the same each time. The body comes from the file BENCH_BODY: JSON, or with BENCH_JSON_LENGTH binary data after so
-- many bytes of JSON. With BENCH_MODELS the requests go to models m0000, m0001 and so on in turn. With BENCH_SEQUENCES they belong to so many
-- sequences in turn: the number 1000000 in the body is that of the first.
-- At the end one line of JSON: requests, microseconds at the percentiles, errors.
local body = assert(io.open(os.getenv("BENCH_BODY"), "rb")):read("*a")

wrk.method = "POST"
wrk.body = body
if os.getenv("BENCH_JSON_LENGTH") then
   wrk.headers["Content-Type"] = "application/octet-stream"
   wrk.headers["Inference-Header-Content-Length"] = os.getenv("BENCH_JSON_LENGTH")
else
   wrk.headers["Content-Type"] = "application/json"
end

local models = tonumber(os.getenv("BENCH_MODELS") or "")
if models then
   local requests, last = {}, 0
   function init()
      for number = 1, models do
         requests[number] = wrk.format(nil, string.format("/v2/models/m%04d/infer", number - 1))
      end
   end
   function request()
      last = last % models + 1
      return requests[last]
   end
end

local sequences = tonumber(os.getenv("BENCH_SEQUENCES") or "")
if sequences then
   local requests, last = {}, 0
   function init()
      for number = 1, sequences do
         requests[number] = wrk.format(nil, nil, nil, (body:gsub("1000000", tostring(999999 + number), 1)))
      end
   end
   function request()
      last = last % sequences + 1
      return requests[last]
   end
end

function done(summary, latency, requests)
   local e = summary.errors
   io.write(string.format('RESULT {"requests":%d,"seconds":%f,"p50":%d,"p99":%d,"errors":%d}\n',
      summary.requests, summary.duration / 1e6, latency:percentile(50), latency:percentile(99),
      e.connect + e.read + e.write + e.status + e.timeout))
end
