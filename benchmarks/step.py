"""One optimisation step: new values on a fixed pattern, assemble + solve + backward, against peers.

    python benchmarks/step.py                          # all problems, about 20 minutes
    python benchmarks/step.py --only 2d-3 2d-500       # some of them
    python benchmarks/step.py --no-peers --breakdown   # where our own time goes

Every solver's gradient is checked before anything is timed. Figures to compare are ratios of one
run on one machine; results go to benchmarks/results/step.json. The library's own kernels are compiled
first, once per installation, unless `--cold` leaves them to be compiled when that pays.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import breakdown
import harness
import numpy as np
import torch
from peers import PEERS, Solve, dense_gradient
from problems import GridProblem, parse

PROBLEMS = ("2d-3", "2d-10", "2d-30", "2d-100", "2d-500", "3d-30", "3d-60")
TARGETS = {  # a step of ours is to be faster than the peer's by at least this factor
    "original": {"2d-3": 1.7, "2d-10": 2.5, "2d-30": 8, "2d-500": 9, "3d-30": 10, "3d-60": 40},
    "torch-sla": {"2d-3": 2, "2d-10": 2, "2d-30": 2, "2d-500": 12, "3d-30": 45},
}
DEFAULT_PEERS = ("original", "torch-sla")
NOT_RUN = {"3d-60": ("torch-sla", "splu")}  # SuperLU needs an hour and tens of GB there
SLOW = ("3d-60",)  # peers take minutes: one run each, in a process that can be stopped
AGREE = 1e-8  # relative difference allowed between two gradients
SMALL = 1000  # up to this n all run on one thread: more gain nothing, and wait for a busy core
DENSE = 1000  # up to this n the gradient is also checked against torch.linalg.solve


def gradient(problem: GridProblem, solve: Solve, w: torch.Tensor) -> torch.Tensor:
    """Return the gradient of |x|^2 at w."""
    w = w.detach().clone().requires_grad_()
    solve(problem.values(w)).square().sum().backward()
    return w.grad


def stepper(problem: GridProblem, solve: Solve) -> Callable[[], float]:
    """Return a function that times one step, with the release of everything the step made."""

    def step() -> float:
        w = problem.weights()
        start = time.perf_counter()
        x = solve(problem.values(w))
        loss = x.square().sum()
        loss.backward()
        del x, loss
        return time.perf_counter() - start

    return step


def difference(g: torch.Tensor, reference: torch.Tensor) -> float:
    """Relative difference of two gradients in the 2-norm."""
    return float((g - reference).norm() / reference.norm())


def measure(name: str, names: list[str], args: argparse.Namespace) -> dict[str, Any]:
    """Check and time all solvers on one problem."""
    problem = parse(name)
    threads = args.threads or (1 if problem.n <= SMALL else args.all_threads)
    torch.set_num_threads(threads)
    w = problem.weights()
    apart = [p for p in names if name in SLOW and p != "ours"]
    solvers = {p: PEERS[p](problem) for p in names if p not in apart}
    gradients = {p: gradient(problem, solve, w) for p, solve in solvers.items()}
    result: dict[str, Any] = {"n": problem.n, "threads": threads}
    result |= {"times": {}, "differences": {}, "skipped": {}}

    for peer in apart:
        answer = run_apart(name, peer, threads, args.peer_timeout)
        if isinstance(answer, str):
            result["skipped"][peer] = answer
        else:
            gradients[peer] = torch.from_numpy(answer["gradient"])
            result["times"][peer] = harness.Timing([float(answer["seconds"])]).to_dict()

    if problem.n <= DENSE:
        gradients["dense"] = dense_gradient(problem, w)
    reference = next((p for p in ("dense", "original", "ours") if p in gradients), None)
    for peer, g in gradients.items():
        if reference is not None and peer != reference:
            result["differences"][f"{peer} - {reference}"] = difference(g, gradients[reference])
    wrong = {k: d for k, d in result["differences"].items() if not d <= AGREE}
    if wrong:
        raise SystemExit(f"{name}: gradients differ by more than {AGREE:g}: {wrong}")

    steps = {p: stepper(problem, solve) for p, solve in solvers.items()}
    timings = harness.interleave(steps, budget=args.budget)
    result["times"] |= {p: t.to_dict() for p, t in timings.items()}
    if args.breakdown and "ours" in names:
        result["breakdown"] = breakdown.measure(problem, args.budget)
    return result


def run_apart(name: str, peer: str, threads: int, limit: float) -> dict[str, np.ndarray] | str:
    """Run one step of a slow peer in its own process; a string tells why there is no answer."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "answer.npz"
        command = [sys.executable, __file__, "--child", peer, "--only", name, "--out", str(out)]
        command += ["--threads", str(threads)]
        try:
            done = subprocess.run(command, timeout=limit, check=False)
        except subprocess.TimeoutExpired:
            return f"stopped after {limit:g} s"
        if done.returncode:
            return f"failed with exit status {done.returncode}"
        with np.load(out) as answer:
            return dict(answer)


def child(name: str, peer: str, out: Path) -> None:
    """The other side of run_apart: the same w as there, by the same seed."""
    problem = parse(name)
    w = problem.weights()
    solve = PEERS[peer](problem)
    start = time.perf_counter()
    g = gradient(problem, solve, w)
    np.savez(out, seconds=time.perf_counter() - start, gradient=g.numpy())


def report(results: dict[str, dict[str, Any]], peers: list[str]) -> None:
    """Print times, ratios and targets."""
    rows = []
    for name, result in results.items():
        times = result["times"]
        row = [f"{name}, n = {result['n']}"]
        row.append(harness.seconds(times["ours"]["best"]) if "ours" in times else "-")
        for peer in peers:
            if peer not in times:
                row += [result["skipped"].get(peer, "not run"), "-", "-"]
                continue
            row.append(harness.seconds(times[peer]["best"]))
            if "ours" not in times:
                row += ["-", "-"]
                continue
            ratio = times[peer]["best"] / times["ours"]["best"]
            target = TARGETS.get(peer, {}).get(name)
            row += [f"{ratio:.1f}x", harness.verdict(ratio, at_least=target)]
        rows.append(row)
    head = ["problem", "ours", *(c for p in peers for c in (p, "ratio", "target"))]
    print("\n" + harness.table(head, rows))
    worst = max((d for r in results.values() for d in r["differences"].values()), default=None)
    if worst is not None:
        print(f"\nlargest relative difference between two gradients: {worst:.1e}")


def main() -> None:
    """Read the command line, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--only", nargs="+", metavar="PROBLEM", help="such as 2d-500 or 3d-30")
    parser.add_argument("--peers", nargs="*", choices=[p for p in PEERS if p != "ours"])
    parser.add_argument("--no-peers", action="store_true", help="measure only this library")
    parser.add_argument("--no-ours", action="store_true", help="measure only the peers")
    parser.add_argument("--breakdown", action="store_true", help="user code / library / engine")
    parser.add_argument("--cold", action="store_true", help="compile nothing ahead")
    parser.add_argument("--threads", type=int, help="for every problem; see SMALL in this file")
    parser.add_argument("--budget", type=float, default=10.0, help="seconds for each solver")
    parser.add_argument("--peer-timeout", type=float, default=1800.0, help="for one slow step")
    parser.add_argument("--smoke", action="store_true", help="two tiny problems, a second in all")
    parser.add_argument("--out", type=Path, default=harness.RESULTS / "step.json")
    parser.add_argument("--child", choices=list(PEERS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.all_threads = torch.get_num_threads()
    warnings.filterwarnings("ignore", message="Sparse (invariant checks|CSR tensor support)")

    names = args.only or list(PROBLEMS)
    if args.child:
        torch.set_num_threads(args.threads)
        child(names[0], args.child, args.out)
        return
    if args.smoke:
        names, args.budget, args.breakdown = ["2d-3", "2d-10"], 0.1, True
    peers = [] if args.no_peers else list(args.peers if args.peers is not None else DEFAULT_PEERS)

    print(harness.describe(harness.environment()))
    if not (args.cold or args.smoke or args.no_ours):
        harness.compile_ahead()
    results = {}
    for name in names:
        solvers = ([] if args.no_ours else ["ours"]) + [
            p for p in peers if p not in NOT_RUN.get(name, ())
        ]
        results[name] = measure(name, solvers, args)
        print(f"{name} done", file=sys.stderr, flush=True)
    report(results, peers)
    breakdown.report({k: r["breakdown"] for k, r in results.items() if "breakdown" in r})
    torch.set_num_threads(args.all_threads)
    harness.write_json(args.out, {"benchmark": "step", "results": results})


if __name__ == "__main__":
    main()
