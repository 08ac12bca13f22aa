"""What does a sequence cost: a model that does nothing with 16 slots beside the same model without, and a thousand open sequences beside ten?"""

import contextlib
import tempfile

import load
import make
import numpy as np
from serving import Server
from turns import Target, echo, http_target, in_turns, ratio

NUMBERS = [("INPUT0", np.ones((1, 16), np.float32))]
SLOTS = 16
CALLERS = (1, 64)
DIRECT_LIMIT = 1.3  # over the processor time of the same model without sequences, at 64 callers
OPEN = (10, 1000)
OPEN_CALLERS = 8
OPEN_LIMIT = 3  # p99 of 1,000 open sequences over that of 10
CONTROLS = "".join(
    f'control_input {{ name: "{name}" control {{ kind: CONTROL_SEQUENCE_{name} int32_false_true: [ 0, 1 ] }} }}\n' for name in ("START", "READY")
)


def measure(table, options):
    with contextlib.ExitStack() as stack:
        models = stack.enter_context(tempfile.TemporaryDirectory())
        identity(models, "plain", "")
        identity(models, "direct", f"direct {{ }} {CONTROLS}")
        for count in OPEN:
            identity(models, f"oldest{count}", f"oldest {{ max_candidate_sequences: {count} }} {CONTROLS}")
        server = stack.enter_context(Server(models, "--log-info=false"))
        bare = stack.enter_context(echo("echo_http"))
        start(server, "direct", SLOTS)
        targets = []
        for callers in CALLERS:
            targets.append(http_target("echo", bare, "none", NUMBERS, callers))
            targets.append(http_target("without sequences", server, "plain", NUMBERS, callers))
            targets.append(in_sequences(f"direct, {SLOTS} slots", server, "direct", SLOTS, callers))
        for count in OPEN:
            start(server, f"oldest{count}", count)
            targets.append(in_sequences(f"oldest, {count} open", server, f"oldest{count}", count, OPEN_CALLERS))
        rounds = in_turns(targets, options)
    table.requests("Sequences over HTTP, an identity of 16 numbers", rounds)
    cost = ratio(rounds, f"direct, {SLOTS} slots", "without sequences", 64, "cpu")
    table.limit(f"server CPU, direct sequences of {SLOTS} slots over none, 64 callers", cost, DIRECT_LIMIT, "times")
    slow = ratio(rounds, f"oldest, {OPEN[1]} open", f"oldest, {OPEN[0]} open", OPEN_CALLERS, "p99")
    table.limit(f"p99, {OPEN[1]} open sequences over {OPEN[0]}, {OPEN_CALLERS} callers", slow, OPEN_LIMIT, "times")


def identity(root, name, batching):
    """An identity that batches; with `batching` its requests form sequences, which stay open for the whole measurement."""
    folder = make.identity_of(root, name, [16])
    scheduling = f"sequence_batching {{ {batching} max_sequence_idle_microseconds: 3600000000 }}\n" if batching else ""
    config = (folder / "config.pbtxt").read_text().replace("max_batch_size: 0", f"max_batch_size: {SLOTS}")
    (folder / "config.pbtxt").write_text(config + scheduling)


def start(server, model, count):
    """Starts sequences, which then stay open."""
    for number in range(load.FIRST_SEQUENCE, load.FIRST_SEQUENCE + count):
        body, length = load.http_body(NUMBERS, sequence_id=number, sequence_start=True)
        headers = {"Inference-Header-Content-Length": str(length)}
        status, _, said = server.request("POST", f"/v2/models/{model}/infer", body, headers)
        assert status == 200, said


def in_sequences(name, server, model, count, callers):
    """Requests of open sequences in turn."""
    body, length = load.http_body(NUMBERS, sequence_id=load.FIRST_SEQUENCE)
    url = f"http://127.0.0.1:{server.http}/v2/models/{model}/infer"
    return Target(name, callers, lambda seconds: load.wrk(url, server.process.pid, body, callers, seconds, json_length=length, sequences=count))
