"""The benchmark for GPUs: without a device it says so, and on the CPU it measures what is there."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

PROGRAM = Path(__file__).parent.parent / "benchmarks" / "gpu.py"
pytestmark = pytest.mark.skipif(not PROGRAM.exists(), reason="the benchmarks are not beside the tests")


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the program, as from its own folder, and gives what it prints."""

    def inner(*args: str) -> str:
        monkeypatch.setattr(sys, "argv", [str(PROGRAM), *args])
        monkeypatch.syspath_prepend(PROGRAM.parent)
        capsys.readouterr()
        runpy.run_path(str(PROGRAM), run_name="__main__")
        return capsys.readouterr().out

    return inner


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_without_a_device(tmp_path, run):
    assert run("--out", str(tmp_path / "gpu.json")) == "no CUDA device: nothing was measured\n"
    assert not (tmp_path / "gpu.json").exists()


@pytest.mark.slow
def test_on_the_cpu(tmp_path, run):
    out = tmp_path / "gpu.json"
    text = run("--device", "cpu", "--problems", "2d-8", "--budget", "0.001", "--out", str(out))
    engines = json.loads(out.read_text())["problems"]["2d-8"]["engines"]
    for name, facts in engines.items():
        assert name in text
        assert facts["step"]["best"] > 0
