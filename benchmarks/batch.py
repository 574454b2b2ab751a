"""Many small systems at once: forward + backward, new values on one pattern, against peers.

    python benchmarks/batch.py                    # all sizes and peers, a few minutes
    python benchmarks/batch.py --only 10x1000     # grids of 10 x 10, 1000 of them
    python benchmarks/batch.py --columns          # 128 right-hand sides on one held factor, n = 250,000
    python benchmarks/batch.py --columns --engine rslab multifrontal      # by these engines

Gradients are checked against dense ones before anything is timed. Figures to compare are ratios of
one run on one machine; results go to benchmarks/results/batch.json.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import torch
from batch_peers import PEERS, Step
from problems import GridProblem

import sparse_solver as ss

SIZES = ("3x1000", "10x1000", "30x100", "50x64")
TARGETS = {  # how many times faster than the peer
    "10x1000": {"loop": 20.0, "pool": 3.0, "torch-sla": 20.0, "torch-sla-cg": 20.0},
    "30x100": {"loop": 2.0},
}
AGREE = {"torch-sla-cg": 1e-5}  # relative; it stops where it likes, which flatters it
DIRECT = 1e-8  # all others
CHECKED = 4  # items compared with dense gradients
SLOW = {"torch-sla": 200_000, "torch-sla-cg": 500_000}  # unknowns in all above which it isn't run
COLUMNS, SIDE, COLUMNS_TARGET = 128, 500, {"rslab": 40.0, "multifrontal": 30.0}


def values_of(problem: GridProblem, P: ss.Pattern, items: int) -> torch.Tensor:
    """New values for each item, in canonical order: (items, nnz)."""
    each = [P.assemble(problem.values(problem.weights().detach())).values for _ in range(items)]
    return torch.stack(each)


def dense_gradient(P: ss.Pattern, values: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Of a few items, by torch.linalg.solve."""
    v = values[:CHECKED].clone().requires_grad_()
    D = torch.zeros(len(v), *P.shape, dtype=v.dtype)
    D = D.index_put((torch.arange(len(v))[:, None], P.rows, P.cols), v)
    torch.linalg.solve(D, b[:CHECKED]).square().sum().backward()
    return v.grad


def measure(size: str, names: list[str], budget: float) -> dict[str, Any]:
    """Check and time all ways for one size."""
    side, items = map(int, size.split("x"))
    problem = GridProblem(side, 2)
    P = ss.Pattern(problem.rows, problem.cols, (problem.n, problem.n))
    b = torch.rand(items, problem.n, dtype=torch.float64, generator=problem.generator)
    result: dict[str, Any] = {"n": problem.n, "items": items, "differences": {}}
    names = [p for p in names if problem.n * items <= SLOW.get(p, 1 << 62)]
    steps = {name: PEERS[name](P) for name in names}
    values = values_of(problem, P, items)
    reference = dense_gradient(P, values, b)
    for name, step in steps.items():
        for _ in range(30 if name == "batch" else 1):  # until its kernels are compiled
            g = step(values, b)[:CHECKED]
        difference = float((g - reference).norm() / reference.norm())
        result["differences"][name] = difference
        if not difference <= AGREE.get(name, DIRECT):
            raise SystemExit(f"{size}: the gradient of {name} is off by {difference:.1e}")
    result["engine"] = str(ss.factorize(ss.SparseMatrix(P, values)).info.engine)
    timings = harness.interleave({n: stepper(values, b, s) for n, s in steps.items()}, budget, most=300)
    result["times"] = {name: t.to_dict() for name, t in timings.items()}
    return result


def stepper(values: torch.Tensor, b: torch.Tensor, step: Step) -> Callable[[], float]:
    """One timed step on values not seen before."""

    def run() -> float:
        new = values * (1 + 0.1 * torch.rand(()).item())
        start = time.perf_counter()
        step(new, b)
        return time.perf_counter() - start

    return run


def columns(engine: str, budget: float) -> dict[str, Any]:
    """128 columns against one, on a factor held, forward."""
    problem = GridProblem(SIDE, 2)
    P = ss.Pattern(problem.rows, problem.cols, (problem.n, problem.n))
    A = P.assemble(problem.values(problem.weights().detach()))
    F = ss.factorize(A, method=ss.Direct(engine=engine))
    block = torch.rand(problem.n, COLUMNS, dtype=torch.float64)

    def timed(b: torch.Tensor) -> Callable[[], float]:
        def run() -> float:
            start = time.perf_counter()
            F.solve(b)
            return time.perf_counter() - start

        return run

    one = block[:, 0].contiguous()
    difference = float((F.solve(block)[:, 0] - F.solve(one)).norm() / F.solve(one).norm())
    if not difference <= DIRECT:
        raise SystemExit(f"{engine}: a column among {COLUMNS} is off by {difference:.1e}")
    timings = harness.interleave({"one": timed(one), "block": timed(block)}, budget)
    times = {name: t.to_dict() for name, t in timings.items()}
    ratio = times["block"]["best"] / times["one"]["best"]
    found = F.info.engine
    best = [harness.seconds(times[name]["best"]) for name in ("block", "one")]
    print(
        f"{COLUMNS} columns at {SIDE}^2 by {found} {F.info.path} (engine={engine!r}): {best[0]}, "
        f"{ratio:.1f} x one column's {best[1]}, "
        + harness.verdict(ratio, at_most=COLUMNS_TARGET.get(found))
    )
    return {"n": problem.n, "engine": found, "columns": COLUMNS, "ratio": ratio, "times": times}


def report(results: dict[str, dict[str, Any]], peers: list[str]) -> None:
    """Print times, ratios and targets."""
    rows = []
    for size, result in results.items():
        ours = result["times"]["batch"]["best"]
        row = [f"n = {result['n']}, {result['items']} items", harness.seconds(ours)]
        for peer in peers:
            if peer not in result["times"]:
                row += ["-", "-", "-"]
                continue
            best = result["times"][peer]["best"]
            target = TARGETS.get(size, {}).get(peer)
            row += [harness.seconds(best), f"{best / ours:.1f}x", harness.verdict(best / ours, target)]
        rows.append(row)
    print(harness.table(["batch", "ours", *(c for p in peers for c in (p, "ratio", "target"))], rows))


def main() -> None:
    """Read the command line, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--only", nargs="+", metavar="SIDExITEMS", default=list(SIZES))
    parser.add_argument("--peers", nargs="*", choices=[p for p in PEERS if p != "batch"])
    parser.add_argument("--threads", type=int, help="torch.get_num_threads() if not given")
    parser.add_argument("--budget", type=float, default=5.0, help="seconds for each way")
    parser.add_argument("--columns", action="store_true", help="only many right-hand sides")
    parser.add_argument(
        "--engine",
        nargs="+",
        default=["auto"],
        help="for --columns: Direct(engine=...); several in turn",
    )
    parser.add_argument("--smoke", action="store_true", help="two tiny batches, seconds in all")
    parser.add_argument("--out", type=Path, default=harness.RESULTS / "batch.json")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    if args.engine != ["auto"] and not args.columns:
        parser.error("--engine goes with --columns; batches choose by themselves")
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.smoke:
        args.only, args.budget = ["3x8", "4x12"], 0.05
    peers = args.peers if args.peers is not None else [p for p in PEERS if p != "batch"]
    print(harness.describe(harness.environment()))
    results = {}
    for size in [] if args.columns else args.only:
        results[size] = measure(size, ["batch", *peers], args.budget)
        print(f"{size} done", file=sys.stderr, flush=True)
    if results:
        report(results, peers)
    record: dict[str, Any] = {"benchmark": "batch", "results": results}
    if args.columns:
        record["columns"] = {engine: columns(engine, args.budget) for engine in args.engine}
    harness.write_json(args.out, record)


if __name__ == "__main__":
    main()
