"""The report: sections of rows, and what was to be reached beside what was."""

import os
import platform
import subprocess
from pathlib import Path

import load
from serving import ROOT

FIGURES = ("server CPU us/request", "p50 us", "p99 us", "requests/s")


class Table:
    """Lines of the report, and how many limits were missed."""

    def __init__(self):
        self.lines, self.limits, self.missed = [], [], 0

    def section(self, title):
        self.lines += ["", title, "-" * len(title)]

    def row(self, *columns, widths=(24, 9, 26, 26, 28, 30, 20)):
        self.lines.append("".join(f"{column:<{width}}" for column, width in zip(map(str, columns), widths)).rstrip())

    def figure(self, what, value, unit, digits=1):
        """One number with its spread."""
        self.row(what, f"{value:.{digits}f} {unit}", widths=(44, 40))

    def requests(self, title, rounds):
        """A section with a row per target; `rounds` as `turns.in_turns` returns them."""
        self.section(title)
        self.row("", "callers", *FIGURES, "mean batch")
        for target, all_of in rounds.items():
            cpu, p50, p99, rate = (load.spread(getattr(one, field) for one in all_of) for field in ("cpu", "p50", "p99", "rate"))
            batch = "" if all_of[0].batch is None else f"{load.spread(one.batch for one in all_of).middle:.1f}"
            self.row(target.name, target.callers, f"{cpu:.1f}", f"{p50:.0f}", f"{p99:.0f}", f"{rate:.0f}", batch)

    def limit(self, what, value, limit, unit, at_least=False):
        """Compares a Spread's median with what was to be reached."""
        kept = value.middle >= limit if at_least else value.middle <= limit
        self.missed += not kept
        word = "at least" if at_least else "at most"
        self.limits.append(f"{'PASS' if kept else 'MISS'}  {what:<86}{f'{value:.2f} {unit}':<34}{word} {limit:.2f}")

    def text(self):
        title = "Against what is to be reached"
        limits = ["", title, "-" * len(title), *self.limits] if self.limits else []
        return "\n".join([*self.lines, *limits]).strip()


def machine(table, options):
    """What was measured, and on what."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "?")
    revision = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    table.section("Machine and build")
    table.row("processor", f"{os.cpu_count()} x {model}", widths=(12, 80))
    table.row("system", f"{platform.system()} {platform.release()}", widths=(12, 80))
    table.row("build", f"{revision}, profile {options.profile}", widths=(12, 80))
    table.row("rounds", f"{options.rounds} of {options.seconds} s, all targets of a section in turns; figures are medians (least..most)", widths=(12, 100))
