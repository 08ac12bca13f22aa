"""Command lines that Triton refuses before it starts, and what it says: some of it before its usage text, the reason behind it."""

import os
import subprocess

LINES = """
--load-model=x
--load-model=x --model-control-mode=poll
--trace-config=foo
--trace-config=foo=
--trace-config==bar
--trace-config=,foo=bar
--trace-config=x,foo=bar
--trace-config=triton,foo
--trace-config=rate=x
--trace-config=rate=99999999999
--trace-config=count=x
--trace-config=level=foo
--trace-config=mode=foo
--trace-config=triton,log-frequency=x
--trace-rate=x
--trace-count=x
--trace-level=all
--trace-log-frequency=x
--metrics-config=foo
--metrics-config=foo=
--metrics-config==a
--metrics-config=a,b=c
--metrics-config=
--backend-config=foo
--backend-config=foo=
--backend-config==a
--backend-config=python,
--backend-config=python,foo
--backend-config=python,foo=
--backend-config=,a=b
--backend-config=python,=b
--backend-config=
--host-policy=foo
--host-policy=foo,
--host-policy=foo,bar
--host-policy=foo,bar=
--host-policy=,a=b
--host-policy=a=b
--host-policy=foo,=b
--host-policy=foo,nosuch=1
--host-policy=
--rate-limit=foo
--rate-limit-resource=foo
--rate-limit-resource=foo:x
--rate-limit-resource=foo:
--rate-limit-resource=foo:4:x
--rate-limit-resource=foo:4:
--rate-limit-resource=foo:4:0:1
--rate-limit-resource=
--cache-config=foo
--cache-config=foo,bar
--cache-config=foo,bar=
--cache-config=,a=b
--cache-config=foo,=b
--cache-config=a=b
--cache-config=
--cache-config=local,size=1 --response-cache-byte-size=1
--response-cache-byte-size=x
--log-format=foo
--log-format=
--log-info=maybe
--log-info=
--log-verbose=loud
--allow-http=maybe
--exit-on-error=2
--model-namespacing=yes
--strict-model-config=maybe
--http-port=abc
--http-port=
--http-port=99999999999
--http-thread-count=x
--grpc-infer-allocation-pool-size=x
--grpc-infer-response-compression-level=foo
--grpc-keepalive-time=x
--grpc-restricted-protocol=foo
--grpc-restricted-protocol=foo:bar
--grpc-restricted-protocol=foo:a=b
--grpc-restricted-protocol=health:a=b --grpc-restricted-protocol=health:c=d
--http-restricted-api=foo
--http-restricted-api=foo:bar
--http-restricted-api=foo:a=b
--http-restricted-api=health:a=b --http-restricted-api=health:c=d
--model-control-mode=foo
--repository-poll-secs=x
--model-load-thread-count=x
--model-load-retry-count=x
--model-load-gpu-limit=foo
--model-load-gpu-limit=0:x
--model-config-name=
--metrics-interval-ms=x
--metrics-port=x
--pinned-memory-pool-byte-size=x
--cuda-memory-pool-byte-size=foo
--cuda-memory-pool-byte-size=0:x
--cuda-memory-pool-byte-size=x:0
--cuda-virtual-address-size=foo
--min-supported-compute-capability=x
--buffer-manager-thread-count=x
--exit-timeout-secs=x
--sagemaker-safe-port-range=foo
--sagemaker-safe-port-range=a-b
--flag
--flag=x
--http_port=1
--log-
--http-port
-v
stray
--http-port=8001
""".strip().splitlines()


def ask(argv, env, folder):
    """What is said of each line, with the code of the end. `argv` is the program and flags of its own."""
    environment = {**os.environ, **env}
    shown = subprocess.run([argv[0], "--help"], capture_output=True, text=True, env=environment, check=False)
    usage = (shown.stdout or shown.stderr).strip()
    answers = {}
    for line in LINES:
        command = [*argv, f"--model-repository={folder}", *line.split(" ")]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
        said = done.stderr.replace(argv[0], "tritonserver")
        before, found, after = said.partition(usage)
        before, after = (before, after) if found else ("", said)
        answers[line] = {"code": done.returncode, "before": before.strip(), "usage": bool(found), "after": after.strip(), "stdout": done.stdout}
    return answers
