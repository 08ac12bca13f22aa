"""Measures the server beside the limits of this machine, in one run, in turns, and compares with what is to be reached."""

import argparse
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), *(str(HERE.parent / name) for name in ("clients", "common", "models", "golden"))]

from sections import allocations, c_backends, ensembles, identity, images, instances, json_numbers, many, native, python, sequences, small, start, streams, tensors, traces  # noqa: E402
from serving import ROOT  # noqa: E402
from table import Table, machine  # noqa: E402

SECTIONS = {
    "start": start,
    "small": small,
    "identity": identity,
    "json": json_numbers,
    "images": images,
    "tensors": tensors,
    "allocations": allocations,
    "many": many,
    "sequences": sequences,
    "instances": instances,
    "native": native,
    "ensembles": ensembles,
    "streams": streams,
    "python": python,
    "c_backends": c_backends,
    "traces": traces,
}


def main():
    options = arguments()
    os.environ["TRITON_PROFILE"] = options.profile
    table = Table()
    machine(table, options)
    for name in options.section or SECTIONS:
        print(f"section {name}", file=sys.stderr)
        SECTIONS[name].measure(table, options)
    text = table.text()
    print(text)
    folder = ROOT / "target" / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{'-'.join(options.section) or 'latest'}.txt"
    file.write_text(text + "\n")
    print(f"\nalso in {file}")
    return 1 if options.strict and table.missed else 0


def arguments():
    listed = "\n".join(f"  {name:<13}{section.__doc__.splitlines()[0]}" for name, section in SECTIONS.items())
    parser = argparse.ArgumentParser(description=f"{__doc__}\n\nsections (default: all):\n{listed}", formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("section", nargs="*", choices=[*SECTIONS, []], metavar="SECTION")
    parser.add_argument("--profile", default="release", help="cargo profile whose programs are measured (release)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="length of each single run")
    parser.add_argument("--runtime", action="append", help="in section native: only this one, and those of further --runtime")
    parser.add_argument("--strict", action="store_true", help="end with 1 when a limit is missed")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
