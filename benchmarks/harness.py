"""What every benchmark here shares: timing in turns, tables, and a record of the machine."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    *("sparse_solver", "torch", "numpy", "scipy", "numba", "llvmlite", "pymetis"),
    *("rslab", "mkl", "cholespy", "torch-sla", "pyamg", "nvidia-cudss-cu12", "nvidia-cudss-cu13"),
)
SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENBLAS_CORETYPE")

BLOCK = 0.02  # s: a fast step runs this long before another's turn, so that caches are its own
WARM = 1.0  # s: a first run longer than this counts, a shorter one only warms up


def compile_ahead() -> None:
    """Compile the library's own kernels as a user does, in a process that says what is there."""
    command = [sys.executable, "-m", "sparse_solver", "warmup"]
    subprocess.run(command, check=False, stdout=sys.stderr)  # without numba it says so, and is done


@dataclass
class Timing:
    """Seconds of each run of one step."""

    runs: list[float] = field(default_factory=list)

    @property
    def best(self) -> float:
        """The fastest run: the one least disturbed."""
        return min(self.runs)

    @property
    def median(self) -> float:
        """The run in the middle."""
        return sorted(self.runs)[len(self.runs) // 2]

    def to_dict(self) -> dict[str, Any]:
        """What goes into the results."""
        return {"best": self.best, "median": self.median, "runs": len(self.runs)}


def interleave(
    steps: Mapping[str, Callable[[], float]],
    budget: float,
    most: int = 2000,
    least: int = 1,
    rest: Mapping[str, float] | None = None,
    turn: float = BLOCK,
) -> dict[str, Timing]:
    """Time each step in turns, so that a change of the machine's speed meets all of them.

    A step is a function that runs once and returns the seconds of the part that counts. Each gets
    about `budget` seconds in all, at least `least` counted runs and `most` at most, in turns of `turn`
    seconds. `rest`: seconds to pause after a turn of those whose threads spin for a while after their
    work. Compare minima: what other processes do can only add time.
    """
    timings = {name: Timing() for name in steps}
    spent = dict.fromkeys(steps, 0.0)
    block = {}
    for name, step in steps.items():
        first, spent[name] = _timed(step)
        if first > WARM:
            timings[name].runs.append(first)
        else:
            _timed(step)
            again, _ = _timed(step)
            block[name] = max(1, int(turn / max(again, 1e-6)))
        time.sleep((rest or {}).get(name, 0.0))
    waiting = [n for n in steps if len(timings[n].runs) < least or spent[n] < budget]
    while waiting:
        for name in waiting:
            for _ in range(block.get(name, 1)):
                seconds, wall = _timed(steps[name])
                timings[name].runs.append(seconds)
                spent[name] += wall
            time.sleep((rest or {}).get(name, 0.0))
        waiting = [
            n
            for n in waiting
            if len(timings[n].runs) < least or (spent[n] < budget and len(timings[n].runs) < most)
        ]
    return timings


def _timed(step: Callable[[], float]) -> tuple[float, float]:
    start = time.perf_counter()
    seconds = step()
    return seconds, time.perf_counter() - start


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a GitHub-flavoured table whose columns also line up in a terminal."""
    width = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = [cells[0].ljust(width[0])]
        padded += [cell.rjust(w) for cell, w in zip(cells[1:], width[1:], strict=True)]
        return "| " + " | ".join(padded) + " |"

    rule = "|" + "|".join("-" * (w + 2) for w in width) + "|"
    return "\n".join([line(head), rule, *(line(row) for row in rows)])


def seconds(t: float) -> str:
    """Write a time with the unit that suits it."""
    for scale, unit in ((1.0, "s"), (1e-3, "ms")):
        if t >= scale:
            return f"{t / scale:.3g} {unit}"
    return f"{t / 1e-6:.1f} us"


def verdict(value: float, at_least: float | None = None, at_most: float | None = None) -> str:
    """Say whether a figure meets its target."""
    if at_least is not None:
        return f"{'pass' if value >= at_least else 'FAIL'} (>= {at_least:g})"
    if at_most is not None:
        return f"{'pass' if value <= at_most else 'FAIL'} (<= {at_most:g})"
    return "-"


def environment() -> dict[str, Any]:
    """Everything about this machine and its software that a figure depends on."""
    import torch

    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions,
        "settings": {name: os.environ.get(name) for name in SETTINGS},
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def describe(env: Mapping[str, Any]) -> str:
    """One line about the machine for the top of a printed report."""
    versions = ", ".join(f"{name} {v}" for name, v in env["versions"].items() if v)
    load = "" if env["load"] is None else f", load {env['load']:.1f} before this run"
    return f"{env['cpu']}, {env['threads']} threads{load}, Python {env['python']}, {versions}"


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a result with the machine it was measured on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"environment": environment(), **content}
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"\nwritten: {path}", file=sys.stderr)
