"""Peak memory of one step, against the engine alone: is anything held or copied needlessly?

    python benchmarks/memory.py                  # 3-D grid graph 60^3, about a minute
    python benchmarks/memory.py --problem 3d-30

A process of its own for each: its largest resident set (ru_maxrss) less that after the imports.
This parent imports no torch, because a child's ru_maxrss begins at what its parent had.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import harness

TARGET = 1.3  # times the memory of analyse + factor + solve by the engine alone


def ours(name: str) -> Callable[[], float]:
    """One step of this library: assemble, solve, backward."""
    import rslab  # noqa: F401  (an import, so not part of the step)
    import torch  # noqa: F401
    from problems import parse

    import sparse_solver as ss

    def run() -> float:
        problem = parse(name)
        P = ss.Pattern(problem.rows, problem.cols, (problem.n, problem.n))
        w = problem.weights()
        x = ss.solve(P.assemble(problem.values(w)), problem.b)
        x.square().sum().backward()
        A = P.assemble(problem.values(w.detach()))
        return float((A @ x.detach() - problem.b).norm() / problem.b.norm())

    return run


def engine(name: str) -> Callable[[], float]:
    """The engine alone on the same matrix: analyse, factor, solve."""
    import numpy as np
    import rslab
    import scipy.sparse as sp
    import torch
    from problems import grid_edges

    def run() -> float:
        dimension, side = (int(part) for part in name.split("d-"))
        i, j = grid_edges(side, dimension)
        n = side**dimension
        rng = np.random.default_rng(0)
        w = rng.random(len(i)) + 0.5
        W = sp.coo_array((w, (i, j)), shape=(n, n)).tocsc()
        W = W + W.T
        A = sp.csc_array(sp.diags_array(W.sum(axis=0) + 1) - W)
        b = rng.random(n)
        del i, j, w, W
        symbolic = rslab.analyze(A, path="ldlt", threads=torch.get_num_threads())
        x = symbolic.factor(sp.csc_array(sp.tril(A)).data).solve(b)
        return float(np.linalg.norm(A @ x - b) / np.linalg.norm(b))

    return run


CASES = {"ours": ours, "engine": engine}


def peak() -> int:
    """Return the largest resident set of this process so far, in bytes."""
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def child(case: str, name: str) -> None:
    """Run one case in this process and print its figures."""
    run = CASES[case](name)
    before = peak()
    residual = run()
    print(json.dumps({"imports": before, "step": peak() - before, "residual": residual}))


def main() -> None:
    """Read the command line, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--problem", default="3d-60")
    parser.add_argument("--only", choices=list(CASES), help="one of the two")
    parser.add_argument("--out", type=Path, default=harness.RESULTS / "memory.json")
    parser.add_argument("--child", choices=list(CASES), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child, args.problem)
        return

    results = {}
    for case in [args.only] if args.only else CASES:
        command = [sys.executable, __file__, "--child", case, "--problem", args.problem]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        results[case] = json.loads(done.stdout)
        if not results[case]["residual"] < 1e-10:
            raise SystemExit(f"{case}: residual {results[case]['residual']:.1e}")
    rows = [
        [case, f"{r['imports'] / 2**20:.0f} MB", f"{r['step'] / 2**20:.0f} MB"]
        for case, r in results.items()
    ]
    print(harness.table([args.problem, "imports", "step"], rows))
    if len(results) == len(CASES):
        ratio = results["ours"]["step"] / results["engine"]["step"]
        print(f"\nours / engine: {ratio:.2f}, {harness.verdict(ratio, at_most=TARGET)}")
    harness.write_json(args.out, {"benchmark": "memory", "problem": args.problem, **results})


if __name__ == "__main__":
    main()
