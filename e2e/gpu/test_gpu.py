"""The parts of e2e/gpu/run that need no GPU."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import checks  # noqa: E402
from machine import NotHere, Pieces  # noqa: E402


def pieces(folder, files):
    """Pieces of files, of ten bytes each."""
    folder.mkdir()
    lines = []
    for name, data in files.items():
        for number, start in enumerate(range(0, len(data), 10)):
            piece = f"{name.replace('/', '--')}.part-{number:03}"
            (folder / piece).write_bytes(data[start : start + 10])
            lines.append(f"{hashlib.sha256(data[start : start + 10]).hexdigest()}  {piece}\n")
    (folder / "SHA256SUMS").write_text("".join(reversed(lines)))  # in any order
    return Pieces(folder)


def test_pieces_are_put_together_in_order(tmp_path):
    files = {"bin/tool": bytes(range(200)), "models/m/1/model.onnx": b"x" * 25, "models/m/config.pbtxt": b"max"}
    joined = pieces(tmp_path / "pieces", files).join(tmp_path / "joined")
    assert {name: (joined / name).read_bytes() for name in files} == files
    assert os.access(joined / "bin/tool", os.X_OK)


def test_damaged_and_missing_pieces_are_named(tmp_path):
    brought = pieces(tmp_path / "pieces", {"bin/tool": bytes(25)})
    (brought.folder / "bin--tool.part-001").write_bytes(b"other")
    with pytest.raises(NotHere, match="piece bin--tool.part-001 is damaged"):
        brought.join(tmp_path / "joined")
    (brought.folder / "bin--tool.part-001").unlink()
    with pytest.raises(NotHere, match="piece bin--tool.part-001 is missing"):
        brought.join(tmp_path / "again")
    with pytest.raises(NotHere, match="e2e/gpu/prepare makes them"):
        Pieces(tmp_path / "nowhere").join(tmp_path / "third")


def test_without_a_gpu_everything_is_skipped_with_the_reason(tmp_path):
    figures = tmp_path / "figures.json"
    environment = dict(os.environ, PATH=str(tmp_path))  # no nvidia-smi there
    command = [sys.executable, str(HERE / "run"), str(tmp_path), str(figures)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    written = json.loads(figures.read_text())
    assert written["gpus"] == []
    assert written["results"] == {name: {"skipped": "no NVIDIA GPU"} for name in checks.ALL}
    assert done.stdout.count("skipped") == len(checks.ALL)
