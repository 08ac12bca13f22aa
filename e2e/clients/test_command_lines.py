"""What is said of command lines that are wrong, beside what a real Triton says: its words first, where they say too little ours behind."""

import json
import re
from pathlib import Path

import command_lines
import pytest

from serving import program

RECORDED = json.loads((Path(__file__).resolve().parents[1] / "fixtures" / "golden" / "command_lines.json").read_text())["lines"]

# Triton warns of a flag that has a successor when it reads it, we do so when the line is right.
WARNING = "Warning: "


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    return command_lines.ask([program("tritonserver")], {}, tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize("line", command_lines.LINES)
def test_a_wrong_line_is_refused_in_tritons_words(answers, line):
    got, wanted = answers[line], RECORDED[line]
    assert (got["code"], got["stdout"], got["usage"]) == (wanted["code"], wanted["stdout"], wanted["usage"])
    assert got["before"] == ("" if wanted["before"].startswith(WARNING) else wanted["before"])
    assert not wanted["after"] or (without_blanks(got["after"]) + "\n").startswith(without_blanks(wanted["after"]) + "\n")


def without_blanks(text):
    return "\n".join(line.rstrip() for line in text.splitlines())


@pytest.mark.parametrize("line", command_lines.LINES)
def test_the_last_line_names_what_is_wrong(answers, line):
    """A pod's status shows no more."""
    last = answers[line]["after"].splitlines()[-1]
    words = re.split("[=,: ]", line.lstrip("-"))
    assert any(word in last for word in words if word), last
