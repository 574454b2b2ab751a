"""Fill-reducing orderings: the library's own choice, METIS and minimum fill.

python benchmarks/orderings.py [--problems 3d-40,points-3d] [--out FILE]

How much work and fill a Cholesky factorisation has under each, and what the ordering takes. Work and
fill are counted by the same code for all; the tests compare it with eliminating in sets.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import numpy as np
import scipy.sparse as sp
import torch
from problems import parse_matrix

import sparse_solver as ss
from sparse_solver.engines.multifrontal.elimination import eliminate
from sparse_solver.engines.multifrontal.minimum_fill import minimum_fill
from sparse_solver.engines.multifrontal.ordering import fill_reducing

GRIDS = ("2d-100", "2d-300", "2d-500", "2d-700", "3d-20", "3d-30", "3d-40", "3d-60", "elasticity-20")


def stencil(side: int) -> sp.csr_array:
    """A grid in space in which each node is joined to the 26 around it."""
    line = sp.diags_array([np.ones(side - 1), np.ones(side), np.ones(side - 1)], offsets=(-1, 0, 1))
    return sp.csr_array(sp.kron(sp.kron(line, line), line))


def points(n: int, dimension: int) -> sp.csr_array:
    """Delaunay's triangles or tetrahedra of random points."""
    from scipy.spatial import Delaunay

    cells = Delaunay(np.random.default_rng(0).random((n, dimension))).simplices
    k = np.arange(dimension + 1)
    i, j = cells[:, np.repeat(k, len(k))].ravel(), cells[:, np.tile(k, len(k))].ravel()
    return sp.csr_array((np.ones(len(i)), (i, j)), shape=(n, n))


def nearest(n: int, dimension: int) -> sp.csr_array:
    """Random points, each joined to the nine nearest."""
    from scipy.spatial import cKDTree

    where = np.random.default_rng(0).random((n, dimension))
    _, j = cKDTree(where).query(where, 10)
    A = sp.csr_array((np.ones(j.size), (np.repeat(np.arange(n), 10), j.ravel())), shape=(n, n))
    return A + A.T


def links(n: int, each: int) -> sp.csr_array:
    """Random links: a graph that nothing small separates."""
    i, j = np.random.default_rng(0).integers(0, n, (2, n * each))
    A = sp.coo_array((np.ones(len(i)), (i, j)), shape=(n, n))
    return sp.csr_array(A + A.T + sp.eye_array(n))


GRAPHS: dict[str, Callable[[], sp.csr_array]] = {
    "26-around-30": lambda: stencil(30),
    "points-2d": lambda: points(100_000, 2),
    "points-3d": lambda: points(50_000, 3),
    "nearest-3d": lambda: nearest(40_000, 3),
    "nearest-6d": lambda: nearest(8_000, 6),
    "links": lambda: links(3_000, 2),
}


def pattern_of(name: str) -> ss.Pattern:
    """The pattern of a problem, by its name."""
    if name not in GRAPHS:
        problem = parse_matrix(name)
        return ss.Pattern(problem.rows, problem.cols, (problem.n, problem.n))
    A = sp.coo_array(GRAPHS[name]())
    return ss.Pattern(A.row.astype(np.int64), A.col.astype(np.int64), A.shape)


def by_metis(starts: np.ndarray, neighbours: np.ndarray) -> np.ndarray:
    """METIS's nested dissection with its defaults."""
    import pymetis

    graph = pymetis.CSRAdjacency(starts.astype(np.int32), neighbours.astype(np.int32))
    return np.asarray(pymetis.nested_dissection(graph)[0], np.int64)


def measure(name: str, budget: float) -> dict[str, Any]:
    """Work, fill and seconds of each ordering of one problem."""
    pattern, threads = pattern_of(name), torch.get_num_threads()
    indptr, cols, n = pattern.indptr, pattern.cols.numpy(), pattern.shape[0]
    rows = np.repeat(np.arange(n), np.diff(indptr))
    apart = rows != cols
    graph = np.concatenate([[0], np.cumsum(apart)])[indptr].astype(np.int64), cols[apart]
    orders = {
        "own": lambda: fill_reducing(pattern, threads).order,
        "METIS": lambda: by_metis(*graph),
        "minimum fill": lambda: minimum_fill(*graph)[0],
    }
    found: dict[str, Any] = {"n": n, "nnz": pattern.nnz}
    for method, order in orders.items():
        forest = eliminate(indptr, cols, order())
        assert (np.sort(forest.order) == np.arange(n)).all(), f"{method} is no permutation of {name}"
        found[method] = {"flops": forest.flops, "fill": int(forest.counts.sum())}

    def timed(order: Callable[[], Any]) -> Callable[[], float]:
        def run() -> float:
            start = time.perf_counter()
            order()
            return time.perf_counter() - start

        return run

    timings = harness.interleave({m: timed(order) for m, order in orders.items()}, budget)
    for method, timing in timings.items():
        found[method] |= timing.to_dict()
    return found


def main() -> None:
    """Read the command line, order, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", default=",".join((*GRIDS, *GRAPHS)))
    parser.add_argument("--budget", type=float, default=2.0, help="seconds for each ordering")
    parser.add_argument("--out", type=Path, default=harness.RESULTS / "orderings.json")
    args = parser.parse_args()
    print(harness.describe(harness.environment()))
    results, lines = {}, []
    for name in args.problems.split(","):
        found = results[name] = measure(name, args.budget)
        own, metis, fill = (found[m] for m in ("own", "METIS", "minimum fill"))
        lines.append([
            name,
            f"{own['flops']:.3g}",
            *(f"{own['flops'] / other['flops']:.2f}" for other in (metis, fill)),
            *(f"{own['fill'] / other['fill']:.2f}" for other in (metis, fill)),
            *(harness.seconds(m["best"]) for m in (own, metis, fill)),
        ])  # fmt: skip
    head = ["problem", "flops", "/ METIS's", "/ min. fill's", "fill / METIS's", "/ min. fill's"]
    print("\n" + harness.table([*head, "own", "METIS", "min. fill"], lines))
    harness.write_json(args.out, {"benchmark": "orderings", "results": results})


if __name__ == "__main__":
    main()
