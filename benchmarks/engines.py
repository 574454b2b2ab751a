"""The library's own Cholesky against rslab and MKL PARDISO: analysis, factorisation, solve, memory.

    python benchmarks/engines.py                                         # all, about 10 minutes
    python benchmarks/engines.py --problems 2d-500,3d-40 --only factor,solve
    python benchmarks/engines.py --only start --add                      # compilation; the rest is kept

All figures of a matrix come from one plan with default options, and every factorisation has new
values. Answers are checked before anything is timed. After every
problem the results so far go to benchmarks/results/engines.json.
"""

from __future__ import annotations

import argparse
import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import apart
import harness
import numpy as np
import pardiso
import targets
import torch
from candidates import CANDIDATES, Matrix

PROBLEMS = ("2d-100", "2d-300", "2d-500", "2d-700")
PROBLEMS += ("3d-20", "3d-30", "3d-40", "3d-60", "elasticity-20")
SECTIONS = ("analysis", "factor", "solve", "inverse", "memory", "start")
SMOKE = ("2d-10", "3d-5", "elasticity-3")
RESIDUAL = 1e-9  # relative; of the selected inverse: the difference
TURN = 0.1  # s: long turns, since after PARDISO's there is a rest


def check(M: Matrix, solvers: dict[str, Any], inverse: bool) -> dict[str, float]:
    """Residuals of every solver, and the selected inverse against solves with unit vectors."""
    rows, cols = M.pattern.rows.numpy(), M.pattern.cols.numpy()
    found = {}
    for name, solver in solvers.items():
        solver.analyse()
        solver.factor()
        for columns in (1, 16):
            solver.solve(columns)
            b = M.right(columns).reshape(M.n, -1)
            x, values = solver.x.reshape(M.n, -1), M.values[solver.turn]
            worst = 0.0
            for j in range(b.shape[1]):
                r = np.bincount(rows, values * x[cols, j], M.n) - b[:, j]
                worst = max(worst, float(np.linalg.norm(r) / np.linalg.norm(b[:, j])))
            found[f"{name}, {columns} rhs"] = worst
    if "own" in solvers and inverse:
        judge = next((solvers[name] for name in solvers if name.startswith("rslab")), None)
        own = solvers["own"]
        own.inverse()
        while judge is not None and judge.turn != own.turn:
            judge.factor()
        solve = own.numeric.solve if judge is None else judge.numeric.solve
        worst = 0.0
        for j in (0, M.n // 3, M.n - 1):
            unit = np.zeros(M.n)
            unit[j] = 1
            column, there = solve(unit), cols == j
            error = np.abs(own.selected[there] - column[rows[there]]).max() / np.abs(column).max()
            worst = max(worst, float(error))
        found["own, selected inverse"] = worst
    wrong = {name: error for name, error in found.items() if not error <= RESIDUAL}
    if wrong:
        raise SystemExit(f"{M.name}: answers differ by more than {RESIDUAL:g}: {wrong}")
    return found


def measure(
    name: str, names: list[str], sections: list[str], args: argparse.Namespace
) -> dict[str, Any]:
    """Check and time all solvers on one problem."""
    result: dict[str, Any] = {}
    if set(sections) - {"memory", "start"}:
        M = Matrix(name)
        result["n"], result["nnz"] = M.n, M.pattern.nnz
        solvers = {c: CANDIDATES[c](M, args.threads) for c in names}
        try:
            result["differences"] = check(M, solvers, "inverse" in sections)
            result["factor_bytes"] = {c: s.memory for c, s in solvers.items()}
            result |= timings(solvers, sections, args)
        finally:
            for solver in solvers.values():
                solver.close()
    if "memory" in sections:
        result["memory"] = {}
        for case in names:
            if case != "PARDISO":  # its memory is another process's
                found = apart.memory(case, name, args.threads)
                if not found["residual"] <= RESIDUAL:
                    raise SystemExit(f"{name}: {case} has residual {found['residual']:.1e}")
                result["memory"][case] = found
    return result


def timings(solvers: dict[str, Any], sections: list[str], args: argparse.Namespace) -> dict[str, Any]:
    """Time the sections asked for, all solvers in turns."""
    rests = {name: solver.rest for name, solver in solvers.items()}
    result = {}

    def time(section: str, steps: dict[str, Any]) -> None:
        found = harness.interleave(steps, args.budget, least=args.least, rest=rests, turn=args.turn)
        result[section] = {name: timing.to_dict() for name, timing in found.items()}

    own = solvers.get("own")
    if "analysis" in sections:
        steps = {name: solver.analyse for name, solver in solvers.items()}
        if own:
            steps["own, new pattern"] = partial(own.analyse, fresh=True)
        time("analysis", steps)
        for solver in solvers.values():
            solver.factor()  # PARDISO's analysis has replaced its factor
    if "factor" in sections:
        steps = {name: solver.factor for name, solver in solvers.items()}
        if own:
            steps["own, not recycled"] = partial(own.factor, recycle=False)
        time("factor", steps)
    if "solve" in sections:
        for columns in (1, 16):
            steps = {name: partial(solver.solve, columns) for name, solver in solvers.items()}
            time(f"solve {columns}", steps)
        if own:
            time("columns", {str(k): partial(own.solve, k) for k in (1, 128)})
    if "inverse" in sections and own:
        time("inverse", {"factor": own.factor, "inverse": own.inverse})
    return result


def choices(text: str, allowed: tuple[str, ...] | None = None) -> list[str]:
    """Split "a,b"; every part must be allowed."""
    parts = text.split(",")
    wrong = [part for part in parts if allowed and part not in allowed]
    if wrong:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(wrong)}; there are {', '.join(allowed)}")
    return parts


def main() -> None:
    """Read the command line, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--problems", type=choices, default=list(PROBLEMS), metavar="2d-500,3d-40,...")
    sections = partial(choices, allowed=SECTIONS)
    parser.add_argument("--only", type=sections, default=list(SECTIONS), metavar=",".join(SECTIONS))
    solvers = partial(choices, allowed=tuple(CANDIDATES))
    parser.add_argument("--solvers", type=solvers, default=list(CANDIDATES), metavar="own,rslab,...")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--budget", type=float, default=1.0, help="seconds for each solver and section")
    parser.add_argument("--least", type=int, default=3, help="runs at least")
    parser.add_argument("--smoke", action="store_true", help="tiny problems, nothing compiled anew")
    parser.add_argument("--out", type=Path, default=harness.RESULTS / "engines.json")
    parser.add_argument("--add", action="store_true", help="keep what the file has of other problems")
    args = parser.parse_args()
    args.turn = TURN
    if args.smoke:
        args.problems, args.budget, args.turn, args.least = list(SMOKE), 0.02, 0.02, 1

    coretype = os.environ.get("OPENBLAS_CORETYPE")
    print(harness.describe(harness.environment()))
    print(f"OPENBLAS_CORETYPE: {coretype or 'not set'}; {args.threads} threads")
    names = list(args.solvers)
    if "PARDISO" in names and pardiso.why_not():
        names.remove("PARDISO")
        print(f"PARDISO is skipped: {pardiso.why_not()}")
    results: dict[str, Any] = {}
    if args.add and args.out.exists():
        results = json.loads(args.out.read_text())["results"]
    if set(args.only) - {"start"}:
        for name in args.problems:
            only = args.only
            if args.smoke and name != SMOKE[0]:  # a process each: once is enough
                only = [section for section in only if section != "memory"]
            results[name] = results.get(name, {}) | measure(name, names, only, args)
            harness.write_json(args.out, {"benchmark": "engines", "results": results})
    if "start" in args.only:
        results["start"] = apart.startup(cold=not args.smoke, runs=1 if args.smoke else 3)
    missed = targets.report(results)
    print(f"\n{missed} targets missed" if missed else "\nno target missed")
    harness.write_json(args.out, {"benchmark": "engines", "results": results})


if __name__ == "__main__":
    main()
