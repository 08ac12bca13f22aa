"""Runs the tests of the crates as `cargo test --workspace` does, but a few of its programs at a time: most of them wait a good deal.

    crates.py [--at-once N] [--limit SECONDS]

What a program says comes in one piece when it has ended. One that takes longer than `--limit` is ended and counts as failed. The last lines
name the programs that failed. Status: 0 if none did."""

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

SHOW_OUTPUT = "--show-output"  # what tests say that pass: why they were skipped


@dataclass(frozen=True)
class Program:
    """Tests to run: `name` as in cargo's messages, a command, and the folder it expects to be in."""

    name: str
    command: tuple
    folder: str
    size: int = 0


def programs(messages):
    """The test programs that cargo has built, by its messages in JSON; the larger ones first, for these tend to take longest."""
    found = []
    for line in messages.splitlines():
        message = json.loads(line) if line.startswith("{") else {}
        if message.get("reason") != "compiler-artifact" or not message["executable"] or not message["profile"]["test"]:
            continue
        executable, folder = message["executable"], str(Path(message["manifest_path"]).parent)
        target = message["target"]
        name = f"{Path(folder).name} {'unittests' if 'test' not in target['kind'] else 'tests'} {target['name']} ({executable})"
        found.append(Program(name, (executable, SHOW_OUTPUT), folder, os.path.getsize(executable)))
    return sorted(found, key=lambda program: -program.size)


def environment(program, libraries):
    """As cargo sets it."""
    paths = [*libraries, os.environ.get("LD_LIBRARY_PATH", "")]
    return {**os.environ, "CARGO_MANIFEST_DIR": program.folder, "LD_LIBRARY_PATH": ":".join(filter(None, paths))}


def run(program, libraries, limit):
    """Runs it; its status, what it said, and the seconds it took."""
    begun = time.monotonic()
    process = subprocess.Popen(
        program.command, cwd=program.folder, env=environment(program, libraries), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        said, _ = process.communicate(timeout=limit)
        status = process.returncode
    except subprocess.TimeoutExpired:
        process.kill()
        try:
            said, _ = process.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            said = b""  # a process that it has started goes on, and may write still
        said += f"\nit has not ended after {limit:g} s\n".encode()
        status = 1
    return status, said.decode(errors="replace"), time.monotonic() - begun


def libraries(program):
    """Where the programs find libraries that cargo has built, and Rust's own."""
    deps = Path(program.command[0]).parent
    sysroot = subprocess.run(["rustc", "--print", "target-libdir"], capture_output=True, text=True, check=True).stdout.strip()
    return [str(deps), str(deps.parent), sysroot]


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--at-once", type=int, default=2)
    parser.add_argument("--limit", type=float, default=900)
    options = parser.parse_args(arguments)
    built = subprocess.run(["cargo", "test", "--workspace", "--no-run", "--message-format=json-render-diagnostics"], stdout=subprocess.PIPE, text=True)
    if built.returncode:
        return built.returncode
    found = programs(built.stdout)
    if not found:
        print("cargo has built no tests")
        return 1
    paths = libraries(found[0])
    found.append(Program("Doc-tests", ("cargo", "test", "--workspace", "--doc", "--", SHOW_OUTPUT), os.getcwd()))
    failed, took = [], []
    with ThreadPoolExecutor(options.at_once) as pool:
        running = {pool.submit(run, program, paths, options.limit): program for program in found}
        for ended in as_completed(running):
            status, said, seconds = ended.result()
            name = running[ended].name
            print(f"     Running {name}\n{said}", flush=True)
            took.append((seconds, name))
            if status:
                failed.append(f"error: {name} failed with status {status}")
    for seconds, name in sorted(took, reverse=True)[:5]:
        print(f"took {seconds:6.0f} s  {name.split(' (')[0]}")
    print("\n".join(failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
