"""What the sequence batchers make of requests that wait together: as batches.py, for requests of sequences.

A request is (sequence, "s" for start / "e" for end / "se" / "", value).
"""

import json
import threading

import batches
import stateful

RUN_MS = batches.RUN_MS
ENVIRONMENT = batches.ENVIRONMENT

MODEL_PY = stateful.SUM_PY.replace("import json\n", "import json\nimport time\n").replace(
    "        self.sums = {}\n",
    '        self.sums = {}\n        self.delay = int(json.loads(args["model_config"])["parameters"]["execute_delay_ms"]["string_value"]) / 1000\n',
).replace("    def execute(self, requests):\n", "    def execute(self, requests):\n        time.sleep(self.delay)\n")


def model(strategy, batch=4):
    by_id = stateful.corrid("UINT64") if "oldest" in strategy else ""
    config = stateful.sequences(batch, strategy, "max_sequence_idle_microseconds: 60000000", signals=stateful.SIGNALS + by_id)
    config += f'parameters {{ key: "execute_delay_ms" value {{ string_value: "{RUN_MS}" }} }}\n'
    return ("dyna_sequence" if by_id else "sequence"), config


def whole(*ids, length):
    """Sequences of so many requests, their requests in turns."""
    mark = {0: "s", length - 1: "e"}
    return [(one, "se" if length == 1 else mark.get(place, ""), 1) for place in range(length) for one in ids]


DIRECT = "direct { }"

WITH_BACKLOG = [(1, "s", 1), (2, "s", 1), (1, "", 1), (2, "", 1), (1, "e", 1), (3, "s", 1), (3, "e", 1), (2, "e", 1)]
SIX = [request for one in range(1, 6) for request in ((one, "s", 1), (one, "e", 1))] + [(6, "se", 1)]

# The last request of each is the one that ends the delay: what waits in a backlog, or behind another of its sequence under the oldest strategy, does not count.
SCENARIOS = {
    "q_direct_side_by_side": (model(DIRECT), whole(1, 2, 3, length=2)),
    "q_direct_uneven": (model(DIRECT), [(1, "s", 1), (2, "s", 1), (1, "", 1), (2, "e", 1), (1, "", 1), (1, "e", 1)]),
    "q_direct_gap_in_the_rows": (model(DIRECT), [(1, "s", 1), (2, "s", 1), (2, "", 1), (2, "", 1), (2, "", 1), (2, "e", 1)]),
    "q_direct_gap_after_the_end": (model(DIRECT), [(1, "se", 1), (2, "s", 1), (2, "", 1), (2, "", 1), (2, "", 1), (2, "e", 1)]),
    "q_direct_last_row_ends": (model(DIRECT), [(1, "s", 1), (2, "s", 1), (3, "se", 1), (1, "", 1), (1, "", 1), (2, "e", 1)]),
    "q_direct_backlog": (model(DIRECT, batch=2), WITH_BACKLOG),
    "q_direct_one_slot": (model(DIRECT, batch=1), [(1, "s", 1), *[(1, "", 1)] * 4, (2, "s", 1), (2, "e", 1), (1, "e", 1)]),
    "q_direct_without_batching": (model(DIRECT, batch=0), [(1, "s", 1), *[(1, "", 1)] * 4, (2, "s", 1), (2, "e", 1), (1, "e", 1)]),
    "q_direct_start_again": (model(DIRECT), [(1, "s", 1), (1, "", 1), (1, "s", 5), (1, "", 1), (2, "s", 1), (2, "e", 1)]),
    "q_direct_utilization": (model("direct { minimum_slot_utilization: 0.5 max_queue_delay_microseconds: 3000000 }"), whole(1, 2, 3, length=2)),
    "q_direct_low_utilization": (model("direct { minimum_slot_utilization: 0.5 max_queue_delay_microseconds: 3000000 }"), whole(1, length=6)),
    "q_oldest_side_by_side": (model("oldest { max_candidate_sequences: 8 }", batch=8), SIX),
    "q_oldest_small_batches": (model("oldest { max_candidate_sequences: 8 }"), SIX),
    "q_oldest_preferred": (model("oldest { max_candidate_sequences: 8 preferred_batch_size: [ 2 ] }"), SIX),
    "q_oldest_delay": (model("oldest { max_candidate_sequences: 8 preferred_batch_size: [ 3 ] max_queue_delay_microseconds: 3000000 }"), SIX),
}

# How these fall into batches depends on how fast a sequence's next request follows.
RACING = {"q_oldest_small_batches", "q_oldest_delay"}


def play(server, name):
    """Sends a scenario's requests one after the other, each once the one before waits; what became of them."""
    (_, config), requests = SCENARIOS[name]
    answers, threads = {}, []
    for place, (sequence, marks, value) in enumerate(requests):
        parameters = {"sequence_id": sequence, "sequence_start": "s" in marks, "sequence_end": "e" in marks}
        shape = [1] if "max_batch_size: 0" in config else [1, 1]
        body = {"parameters": parameters, "inputs": [{"name": "INPUT", "shape": shape, "datatype": "INT32", "data": [value]}]}
        threads.append(threading.Thread(target=send, args=(server, name, place, body, answers)))
        threads[-1].start()
        if place + 1 < len(requests):
            batches.wait_until(lambda: batches.pending(server, name) == place + 1, f"request {place} of {name} to wait")
    for thread in threads:
        thread.join(60)
    stats = json.loads(batches.ask(server.http, "GET", f"/v2/models/{name}/stats"))["model_stats"][0]
    formed = {
        "batches": {str(line["batch_size"]): line["compute_infer"]["count"] for line in sorted(stats["batch_stats"], key=lambda line: line["batch_size"])},
        "executions": stats["execution_count"],
    }
    return {
        "sums": [answers[place] for place in range(len(requests))],
        "success": stats["inference_stats"]["success"]["count"],
        "inferences": stats["inference_count"],
        **({} if name in RACING else formed),
    }


def send(server, name, place, body, answers):
    text = json.loads(batches.ask(server.http, "POST", f"/v2/models/{name}/infer", json.dumps(body)))
    answers[place] = text.get("error") or text["outputs"][0]["data"][0]
