"""log det A with its gradient, new values at every call, against sparsax; and the selected inverse
against the factorisation it needs.

    python -m venv jax && jax/bin/pip install sparsax==0.9      # the peer, in its own environment
    python benchmarks/logdet.py --peer-python jax/bin/python    # about 10 minutes
    python benchmarks/logdet.py --smoke                         # seconds

Gradients are checked against each other, and for small problems against torch.logdet, before
anything is timed. sparsax factors with CHOLMOD and runs Takahashi's recursion, exact as ours. Without
it a line says so. Results go to benchmarks/results/logdet.json.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import numpy as np
import torch
from problems import GridProblem, grid_edges, parse

import sparse_solver as ss

PROBLEMS = ("2d-30", "2d-100", "2d-300", "3d-20", "3d-40")
INVERSES = ("2d-500", "3d-40")
TARGETS = {"2d-300": 50, "3d-40": 150}  # times faster than sparsax
INVERSE_TARGET = 2.2  # times the factorisation, at most
AGREE = 1e-8  # relative difference allowed between two gradients
DENSE = 1000  # unknowns up to which torch.logdet checks as well


class Sparsax:
    """The peer's process: one problem, served until closed."""

    def __init__(self, python: str, problem: GridProblem, folder: Path) -> None:
        side, dimension = problem.name.split("d-")[1], problem.name.split("d-")[0]
        i, j = grid_edges(int(side), int(dimension))
        self.file = folder / "w.npz"
        np.savez(folder / "problem.npz", i=i, j=j, n=problem.n)
        server = Path(__file__).with_name("sparsax_server.py")
        command = [python, str(server), str(folder / "problem.npz")]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        answer = self._read()
        if not answer.startswith("ready"):
            assert self.process.stderr is not None
            lines = self.process.stderr.read().strip().splitlines()
            raise RuntimeError(lines[-1] if lines else "it ended without a word")
        self.version = "sparsax {}, jax {}".format(*answer.split()[1:])

    def _read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def _say(self, line: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self._read()

    def gradient(self, w: torch.Tensor) -> tuple[float, torch.Tensor]:
        """log det A(w) and its gradient."""
        np.savez(self.file, w=w.detach().numpy())
        self._say(f"gradient {self.file}")
        with np.load(self.file) as answer:
            return float(answer["value"]), torch.from_numpy(answer["gradient"])

    def step(self) -> float:
        """Seconds for one value and gradient at a new w."""
        return float(self._say("step"))

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)


class Ours:
    """This library, the pattern built once."""

    def __init__(self, problem: GridProblem, method: ss.Direct) -> None:
        self.problem, self.method = problem, method
        self.pattern = ss.Pattern(problem.rows, problem.cols, (problem.n, problem.n))

    def log_det(self, w: torch.Tensor) -> torch.Tensor:
        """log det A(w)."""
        A = self.pattern.assemble(self.problem.values(w))
        return ss.logdet(A, assume="spd", method=self.method)

    def gradient(self, w: torch.Tensor) -> tuple[float, torch.Tensor]:
        """log det A(w) and its gradient."""
        w = w.detach().clone().requires_grad_()
        log = self.log_det(w)
        log.backward()
        return log.item(), w.grad

    def step(self) -> float:
        """Seconds for one value and gradient at a new w."""
        w = self.problem.weights()
        start = time.perf_counter()
        log = self.log_det(w)
        log.backward()
        del log
        return time.perf_counter() - start


def dense(problem: GridProblem, w: torch.Tensor) -> tuple[float, torch.Tensor]:
    """The same by torch.logdet."""
    w = w.detach().clone().requires_grad_()
    A = torch.zeros(problem.n, problem.n, dtype=torch.float64)
    log = torch.logdet(A.index_put((problem.rows, problem.cols), problem.values(w), accumulate=True))
    log.backward()
    return log.item(), w.grad


def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Check and time one problem."""
    problem = parse(name)
    w = problem.weights()
    ours = Ours(problem, ss.Direct(engine=args.engine))
    result: dict[str, Any] = {"n": problem.n, "differences": {}}
    with tempfile.TemporaryDirectory() as folder:
        answers: dict[str, tuple[float, torch.Tensor]] = {"ours": ours.gradient(w)}
        steps: dict[str, Callable[[], float]] = {"ours": ours.step}
        peer = None
        try:
            if not args.no_peer:
                peer = Sparsax(args.peer_python, problem, Path(folder))
                result["peer"] = peer.version
                answers["sparsax"] = peer.gradient(w)
                steps["sparsax"] = peer.step
        except (OSError, RuntimeError) as error:
            result["skipped"] = str(error)
        if problem.n <= DENSE:
            answers["dense"] = dense(problem, w)
        value, gradient = answers["ours"]
        for other, (v, g) in answers.items():
            if other != "ours":
                apart = max(abs(v - value) / abs(v), float((g - gradient).norm() / g.norm()))
                result["differences"][f"ours - {other}"] = apart
                if not apart <= AGREE:
                    raise SystemExit(f"{name}: ours and {other} differ by {apart:.1e}")
        timings = harness.interleave(steps, budget=args.budget)
        if peer is not None:
            peer.close()
    result["times"] = {k: t.to_dict() for k, t in timings.items()}
    A = ours.pattern.assemble(problem.values(w.detach()))
    result["solver"] = _who(A, ours.method)
    return result


def _who(A: ss.SparseMatrix, method: ss.Direct) -> str:
    """The engine that gives determinants here, as the cache has it after `logdet`."""
    ss.logdet(A, assume="spd", method=method)
    b = torch.ones(A.shape[0], dtype=A.dtype)
    details = ss.solve_ex(A, b, assume="spd", method=method).details
    return "unknown" if details is None else f"{details.engine} {details.path}"


def measure_inverse(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Time the factorisation alone, and with all of the selected inverse, new values each time."""
    problem = parse(name)
    ours = Ours(problem, ss.Direct(engine=args.engine))

    def factor() -> float:
        with torch.no_grad():
            A = ours.pattern.assemble(problem.values(problem.weights()))
            start = time.perf_counter()
            ss.logdet(A, assume="spd", method=ours.method)
            return time.perf_counter() - start

    def both() -> float:
        w = problem.weights()
        A = ours.pattern.assemble(problem.values(w))
        start = time.perf_counter()
        log = ss.logdet(A, assume="spd", method=ours.method)
        torch.autograd.grad(log, A.values)  # the selected inverse and nothing else
        return time.perf_counter() - start

    both()  # analysis, compilation and memory are not what is compared
    both()
    timings = harness.interleave({"factor": factor, "both": both}, budget=args.budget)
    times = {k: t.to_dict() for k, t in timings.items()}
    ratio = (times["both"]["best"] - times["factor"]["best"]) / times["factor"]["best"]
    return {"n": problem.n, "times": times, "inverse_over_factor": ratio}


def report(results: dict[str, Any], inverses: dict[str, Any]) -> None:
    """Print times, ratios and targets."""
    rows = []
    for name, r in results.items():
        t, row = r["times"], [f"{name}, n = {r['n']}", r["solver"]]
        row.append(harness.seconds(t["ours"]["best"]))
        if "sparsax" in t:
            ratio = t["sparsax"]["best"] / t["ours"]["best"]
            row += [harness.seconds(t["sparsax"]["best"]), f"{ratio:.1f}x"]
            row.append(harness.verdict(ratio, at_least=TARGETS.get(name)))
        else:
            row += ["not run", "-", "-"]
        rows.append(row)
    if rows:
        head = ["log det and gradient", "engine", "ours", "sparsax", "ratio", "target"]
        print("\n" + harness.table(head, rows))
    worst = max((d for r in results.values() for d in r["differences"].values()), default=None)
    if worst is not None:
        print(f"\nlargest relative difference between two answers: {worst:.1e}")
    for why in {r["skipped"] for r in results.values() if "skipped" in r}:
        print(f"\nsparsax was not run: {why}. See --peer-python in this file's first lines")
    if inverses:
        rows = [
            [
                f"{name}, n = {r['n']}",
                harness.seconds(r["times"]["factor"]["best"]),
                harness.seconds(r["times"]["both"]["best"] - r["times"]["factor"]["best"]),
                f"{r['inverse_over_factor']:.2f}",
                harness.verdict(r["inverse_over_factor"], at_most=INVERSE_TARGET),
            ]
            for name, r in inverses.items()
        ]
        head = ["selected inverse", "factor", "inverse", "ratio", "target"]
        print("\n" + harness.table(head, rows))


def main() -> None:
    """Read the command line, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", 1)[0])
    parser.add_argument("--only", nargs="*", metavar="PROBLEM", help="such as 2d-300 or 3d-40")
    parser.add_argument("--inverse", nargs="*", metavar="PROBLEM", help="for the selected inverse")
    parser.add_argument("--engine", default="auto", help="a name from sparse_solver.engines()")
    parser.add_argument("--peer-python", default=sys.executable, help="a Python that has sparsax")
    parser.add_argument("--no-peer", action="store_true", help="measure only this library")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--budget", type=float, default=10.0, help="seconds for each of two")
    parser.add_argument("--smoke", action="store_true", help="tiny problems")
    parser.add_argument("--out", type=Path, default=harness.RESULTS / "logdet.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    names = list(PROBLEMS) if args.only is None else args.only
    inverse_names = list(INVERSES) if args.inverse is None else args.inverse
    if args.smoke:
        names, inverse_names, args.budget = ["2d-10", "3d-5"], ["2d-10"], 0.1
    print(harness.describe(harness.environment()))
    results, inverses = {}, {}
    for name in names:
        results[name] = measure(name, args)
        print(f"{name} done", file=sys.stderr, flush=True)
    for name in inverse_names:
        inverses[name] = measure_inverse(name, args)
        print(f"selected inverse of {name} done", file=sys.stderr, flush=True)
    report(results, inverses)
    content = {"benchmark": "logdet", "results": results, "selected_inverse": inverses}
    harness.write_json(args.out, content)


if __name__ == "__main__":
    main()
