"""Open-loop load: sends each request at its time, whether those before have been answered or not, each on a connection of its own, so that
a Service spreads them over its pods. Prints one JSON object.

    trace_load.py URL BODY_FILE TRACE_FILE        TRACE_FILE: JSON list of requests per second, one number for each second"""

import asyncio
import json
import sys
import time

import aiohttp

TIMEOUT = 30  # seconds an answer may take


async def send(session, url, body, latencies, failures):
    began = time.monotonic()
    try:
        async with session.post(url, data=body, headers={"content-type": "application/json"}) as answer:
            text = await answer.read()
            if answer.status != 200:
                failures.append(f"{answer.status} {text[:200]!r}")
                return
    except Exception as error:  # noqa: BLE001 - whatever it was, the request is lost
        failures.append(f"{type(error).__name__}: {error}")
        return
    latencies.append(time.monotonic() - began)


async def main():
    url, body_file, trace_file = sys.argv[1:]
    body, trace = open(body_file, "rb").read(), json.load(open(trace_file))
    latencies, failures, tasks = [], [], []
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=TIMEOUT)) as session:
        began = time.monotonic()
        for second, rate in enumerate(trace):
            for at in range(rate):
                await asyncio.sleep(max(0.0, began + second + at / rate - time.monotonic()))
                tasks.append(asyncio.create_task(send(session, url, body, latencies, failures)))
            await asyncio.sleep(max(0.0, began + second + 1 - time.monotonic()))
        await asyncio.gather(*tasks)
    latencies.sort()
    share = lambda part: latencies[min(len(latencies) - 1, int(part * len(latencies)))] * 1000 if latencies else None  # noqa: E731
    summary = {"sent": len(tasks), "lost": len(failures), "p50_ms": share(0.5), "p95_ms": share(0.95), "p99_ms": share(0.99), "failures": failures[:5]}
    print(json.dumps(summary))


asyncio.run(main())
