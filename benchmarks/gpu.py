"""Engines on a GPU: cuDSS, cholespy's substitution, and the CPU behind two copies.

    python benchmarks/gpu.py                              # needs a CUDA device; says so without one
    python benchmarks/gpu.py --problems 2d-1000,3d-60
    python benchmarks/gpu.py --device cpu --problems 2d-30     # the program itself, without a GPU

Answers first: every engine's x and gradient are compared with those of the CPU's engine, on the CPU.
Then absolute times, and what they are of the floor: the time in which the memory of the device could
read the factor, once per triangular solve, or write it, once per factorisation.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import torch
from problems import GridProblem, parse

import sparse_solver as ss

AGREE = 1e-8  # relative difference of answers
COLUMNS = 32
COPIED = 1 << 28  # bytes copied to measure the memory's bandwidth
UNITS = {"factor": 1, "solve": 2, "solve_columns": 2, "step": 5}  # passes over the factor


class Case:
    """One engine on one problem, with its numbers on the device."""

    def __init__(self, engine: str, problem: GridProblem, device: torch.device) -> None:
        self.problem, self.device = problem, device
        self.P = ss.Pattern(problem.rows, problem.cols, (problem.n, problem.n))
        self.options: dict[str, Any] = {"assume": "spd", "method": ss.Direct(engine=engine)}
        self.b = problem.b.to(device)
        self.B = torch.rand(problem.n, COLUMNS, dtype=self.b.dtype, device=device)
        self.ones = problem.ones.to(device)
        self.plan = ss.analyze(self.matrix(self.weights()), **self.options)
        self.F = self.plan.factorize(self.matrix(self.weights()))

    def weights(self) -> torch.Tensor:
        """Return new weights, on the device."""
        return self.problem.weights().detach().to(self.device)

    def matrix(self, w: torch.Tensor) -> ss.SparseMatrix:
        """Assemble on the device."""
        return self.P.assemble(torch.cat([self.ones, -w, -w, w, w]))

    def answer(self, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return x and the gradient of |x|^2 in w, on the CPU."""
        w = w.to(self.device).requires_grad_()
        x = ss.solve(self.matrix(w), self.b, **self.options)
        (g,) = torch.autograd.grad(x.square().sum(), w)
        return x.detach().cpu(), g.cpu()

    def steps(self) -> dict[str, Callable[[], float]]:
        """Return what is timed, each a function that returns its seconds."""

        def timed(work: Callable[[], Any], prepare: Callable[[], Any] = lambda: None) -> float:
            given = prepare()
            wait(self.device)
            start = time.perf_counter()
            work() if given is None else work(given)  # type: ignore[call-arg]
            wait(self.device)
            return time.perf_counter() - start

        def factor(A: ss.SparseMatrix) -> None:
            self.F = self.plan.factorize(A)

        def step(w: torch.Tensor) -> None:
            x = ss.solve(self.matrix(w), self.b, **self.options)
            x.square().sum().backward()

        return {
            "factor": lambda: timed(factor, lambda: self.matrix(self.weights())),
            "solve": lambda: timed(lambda: self.F.solve(self.b)),
            "solve_columns": lambda: timed(lambda: self.F.solve(self.B)),
            "step": lambda: timed(step, lambda: self.weights().requires_grad_()),
        }


def wait(device: torch.device) -> None:
    """Wait for all work on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def bandwidth(device: torch.device) -> float:
    """Bytes per second that a large copy reads and writes."""
    source = torch.zeros(COPIED // 8, dtype=torch.float64, device=device)
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(10):
        wait(device)
        start = time.perf_counter()
        target.copy_(source)
        wait(device)
        best = min(best, time.perf_counter() - start)
    return 2 * COPIED / best


def candidates(device: torch.device) -> list[str]:
    """Engines to compare: those that work there, and one behind copies."""
    there = [e.name for e in ss.engines() if e.available and device.type in e.devices]
    wanted = [name for name in ("cudss", "cholespy") if name in there]
    host = next(e.name for e in ss.engines() if e.available and e.name in ("rslab", "superlu"))
    return [*wanted, host]


def check(cases: dict[str, Case], reference: Case) -> None:
    """End the run unless all give the same answers."""
    w = reference.problem.weights().detach()
    x, g = reference.answer(w)
    for name, case in cases.items():
        y, h = case.answer(w)
        for what, found, true in (("x", y, x), ("gradient", h, g)):
            error = float((found - true).abs().max() / true.abs().max())
            if not error <= AGREE:
                raise SystemExit(f"{case.problem.name}, {name}: {what} differs by {error:.1e}")


def measure(name: str, device: torch.device, budget: float, speed: float) -> dict[str, Any]:
    """All engines on one problem."""
    problem = parse(name)
    cases = {engine: Case(engine, problem, device) for engine in candidates(device)}
    check(cases, Case("superlu" if problem.n <= 40_000 else "rslab", problem, torch.device("cpu")))
    found: dict[str, Any] = {"n": problem.n, "engines": {}}
    factor_bytes = None
    for engine, case in cases.items():
        case.F.solve(case.b)
        info = case.F.info
        if info.nnz_factor and (factor_bytes is None or engine == "cudss"):
            factor_bytes = info.nnz_factor * case.b.element_size()
        facts = {"analyze": info.analyze_seconds, "transfer": info.transfer, "path": info.path}
        found["engines"][engine] = {"info": facts}
    for what in UNITS:
        steps = {engine: case.steps()[what] for engine, case in cases.items()}
        for engine, timing in harness.interleave(steps, budget).items():
            found["engines"][engine][what] = timing.to_dict()
    found["factor_bytes"] = factor_bytes
    floor = (factor_bytes or 0) / speed
    rows = []
    for engine, facts in found["engines"].items():
        cells = [engine]
        for what, passes in UNITS.items():
            best = facts[what]["best"]
            over = f" ({best / (passes * floor):.0f}x)" if floor else ""
            cells.append(harness.seconds(best) + over)
        rows.append(cells)
    head = [f"{name} (x floor)", "factor", "solve", f"solve, {COLUMNS} columns", "step"]
    print(harness.table(head, rows))
    return found


def main() -> None:
    """Read the command line, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--problems", default="2d-100,2d-500,3d-40")
    parser.add_argument("--device", default="cuda", help='"cuda", "cuda:1", ... or "cpu"')
    parser.add_argument("--budget", type=float, default=2.0, help="seconds for each figure")
    parser.add_argument("--out", type=Path, default=harness.RESULTS / "gpu.json")
    args = parser.parse_args()
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("no CUDA device: nothing was measured")
        return
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
    speed = bandwidth(device)
    print(f"{name}, {speed / 1e9:.0f} GB/s; {', '.join(candidates(device))}\n")
    results = {}
    for problem in args.problems.split(","):
        results[problem] = measure(problem, device, args.budget, speed)
        print()
    content = {"benchmark": "gpu", "device": name, "bandwidth": speed, "problems": results}
    harness.write_json(args.out, content)


if __name__ == "__main__":
    main()
