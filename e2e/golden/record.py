"""Starts a real Triton for each scene, asks it everything in scenes.py, and writes the answers to e2e/fixtures/golden."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "clients"), str(HERE.parent / "common")]

import ask  # noqa: E402
import batches  # noqa: E402
import client_memory  # noqa: E402
import command_lines  # noqa: E402
import real  # noqa: E402
import repository  # noqa: E402
import scenes  # noqa: E402
import sequence_batches  # noqa: E402
from serving import Server, until  # noqa: E402


def main(wanted):
    argv, env = real.command()
    folder = HERE.parent / "fixtures" / "golden"
    folder.mkdir(parents=True, exist_ok=True)
    for name, module in (("batches", batches), ("sequence_batches", sequence_batches)):
        if not wanted or name in wanted:
            record_batches(name, module, argv, env, folder)
    if not wanted or "command_lines" in wanted:
        record_command_lines(argv, env, folder)
    for name, scene in scenes.SCENES.items():
        if wanted and name not in wanted:
            continue
        with tempfile.TemporaryDirectory() as models, client_memory.segments(scene):
            repository.write_scene(models, scene, "python")
            answers, deaths = {}, []
            left = repository.for_backend(scene["cases"], "python")
            while left:
                with Server(repository.folders(models, scene), *scene["flags"], argv=argv, env=env, wait=None, expect_exit=None, deadline=120) as server:
                    wait_for_start(server)
                    left = record(server, left, answers, deaths)
        text = json.dumps({"server": "Triton 2.51 (24.10), Python backend", "cases": answers}, indent=1, ensure_ascii=False)
        for place, word in ((models, "MODELS"), (str(real.HOME), "TRITON"), (os.path.dirname(json.__path__[0]), "PYTHON"), (client_memory.PREFIX, "SEGMENT_")):
            text = text.replace(place, word)
        (folder / f"{name}.json").write_text(text + "\n")
        print(f"{name}: {len(answers)} answers")


def record_command_lines(argv, env, folder):
    with tempfile.TemporaryDirectory() as models:
        answers = command_lines.ask(argv, env, models)
    text = json.dumps({"server": "Triton 2.51 (24.10)", "lines": answers}, indent=1)
    (folder / "command_lines.json").write_text(text + "\n")
    print(f"command_lines: {len(answers)} lines")


def record_batches(name, module, argv, env, folder):
    """What a batcher makes of requests that wait together."""
    with tempfile.TemporaryDirectory() as models:
        for model, (config, _) in module.SCENARIOS.items():
            config = config if isinstance(config, str) else config[1]
            repository.write_model(models, model, config, "python", code=module.MODEL_PY)
        with Server(models, argv=argv, env={**env, **module.ENVIRONMENT}, wait=None, expect_exit=None, deadline=120) as server:
            until(lambda: "Started Metrics Service" in server.log(), "the last port to open", 120, server.process)
            answers = {model: module.play(server, model) for model in module.SCENARIOS}
    text = json.dumps({"server": "Triton 2.51 (24.10), Python backend", "scenarios": answers}, indent=1)
    (folder / f"{name}.json").write_text(text + "\n")
    print(f"{name}: {len(answers)} scenarios")


def record(server, left, answers, deaths):
    """Asks until the list is empty or Triton has died of a case; returns the cases still to be asked."""
    for place, case in enumerate(left, 1):
        assert case["name"] not in answers, f"two cases are called '{case['name']}'"
        answer = ask.ask(case, server.http, server.grpc, server.metrics, deadline=8)
        if "closed" in answer or answer.get("code") == "UNAVAILABLE":
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.process.wait(3)
                answer = {"died": f"the server ended with {server.process.returncode}"}
        if "died" in answer and deaths.count(case["name"]) < 2:
            deaths.append(case["name"])  # some of its deaths are races: once more, on a new server
            return left[place - 1 :]
        answers[case["name"]] = {"asked": ask.describe(case), "answer": answer}
        if "died" in answer:
            print(f"died of: {case['name']}")
            return left[place:]
        if "is not healthy" in json.dumps(answer) and "state" not in json.dumps(answer):
            print(f"a worker died of: {case['name']}")  # the model answers nothing more
            return left[place:]
    return []


def wait_for_start(server):
    """Triton opens its ports when all loading has ended, well or badly."""
    until(lambda: server.status("/v2/health/live") is not None, "an open port", 120, server.process)
    until(lambda: answers(server, server.metrics), "the last port to open", 120, server.process)


def answers(server, port):
    try:
        return server.request("GET", "/metrics", port=port)[0] == 200
    except OSError:
        return False


if __name__ == "__main__":
    main(sys.argv[1:])
