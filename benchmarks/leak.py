"""Does the process grow? Resident memory after step 1000 less that after step 100.

python benchmarks/leak.py                # 2-D grid graph 100^2, new values at every step

Compiled code is loaded before the first step. A program that doesn't ask for it gets it when it has
done enough work to make up for the second that takes: numba's 100 MB come once, at that step.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import harness
from problems import parse

TARGET = 5.0  # MB between the two steps


def resident() -> float:
    """Memory of this process that is in RAM now, in MB."""
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def main() -> None:
    """Read the command line, run the steps, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--problem", default="2d-100")
    parser.add_argument("--first", type=int, default=100, help="the step to compare with")
    parser.add_argument("--last", type=int, default=1000)
    parser.add_argument("--layout", choices=["pattern", "coo"], default="pattern")
    parser.add_argument("--out", type=Path, default=harness.RESULTS / "leak.json")
    args = parser.parse_args()
    if not Path("/proc/self/statm").exists():
        raise SystemExit("needs /proc/self/statm, which only Linux has")

    import torch

    import sparse_solver as ss
    from sparse_solver.engines.multifrontal import ready
    from sparse_solver.planning import passes

    ready.warm_up("float64")
    passes.warm_up("float64")
    warnings.filterwarnings("ignore", message="Sparse invariant checks")
    problem = parse(args.problem)
    shape = (problem.n, problem.n)
    P = ss.Pattern(problem.rows, problem.cols, shape)
    memory = {}
    for step in range(1, args.last + 1):
        w = problem.weights()
        values = problem.values(w)
        if args.layout == "pattern":
            A = P.assemble(values)
        else:  # a new torch tensor each time, as users of the original have it
            A = torch.sparse_coo_tensor(problem.indices, values, shape)
        ss.solve(A, problem.b).square().sum().backward()
        if step % 100 == 0 or step == args.first:
            memory[step] = resident()
    memory[args.last] = resident()
    growth = memory[args.last] - memory[args.first]
    print(harness.table(["step", "resident"], [[str(k), f"{m:.1f} MB"] for k, m in memory.items()]))
    print(f"\ngrowth: {growth:.2f} MB, {harness.verdict(growth, at_most=TARGET)}")
    content = {"benchmark": "leak", "problem": args.problem, "layout": args.layout}
    harness.write_json(args.out, content | {"growth": growth, "memory": memory})


if __name__ == "__main__":
    main()
