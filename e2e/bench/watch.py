"""One server under load, watched by perf: shares of processor time by library and by function."""

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), *(str(HERE.parent / name) for name in ("clients", "common", "models"))]

import load  # noqa: E402
import make  # noqa: E402
import numpy as np  # noqa: E402
from serving import Server  # noqa: E402

SECONDS = 4


def main(protocol, model, callers, profile):
    os.environ["TRITON_PROFILE"] = profile
    features = [("features", np.random.default_rng(0).random((1, 512 if "big" in model else 50), np.float32))]
    with tempfile.TemporaryDirectory() as models, tempfile.NamedTemporaryFile(suffix=".perf") as data:
        make.bench(models)
        with Server(models, "--log-info=false") as server:
            pid, rounds = server.process.pid, []

            def ask():
                if protocol == "http":
                    body, length = load.http_body(features)
                    rounds.append(load.wrk(f"http://127.0.0.1:{server.http}/v2/models/{model}/infer", pid, body, int(callers), SECONDS + 2, json_length=length))
                else:
                    rounds.append(load.h2load(server.grpc, pid, load.grpc_body(model, features), int(callers), SECONDS + 2))

            asker = threading.Thread(target=ask)
            asker.start()
            record = ["perf", "record", "-q", "-F", "4999", "-p", str(pid), "-o", data.name, "--", "sleep", str(SECONDS)]
            subprocess.run(record, check=True, stderr=subprocess.DEVNULL)
            asker.join()
        one = rounds[0]
        print(f"{model} over {protocol}, {callers} callers: {one.rate:.0f} requests/s, {one.cpu:.1f} us of the server's processor time per request\n")
        for title, keys in (("by library", "dso"), ("by thread", "comm"), ("by function", "dso,symbol")):
            report = ["perf", "report", "-i", data.name, "--stdio", "-q", "--no-children", "--sort", keys, "--percent-limit", "0.7"]
            said = subprocess.run(report, check=True, capture_output=True, text=True).stdout
            lines = [line.rstrip() for line in said.splitlines() if line.strip() and not line.startswith("#")]
            print(title, *lines[:45], "", sep="\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
