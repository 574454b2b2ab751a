"""The engines compared by `engines.py`, each with one plan: analyse, factor, solve, as it is fastest.

Every method returns the seconds of the engine's own work; what has to be prepared for it (a triangle
of the values, the layout of b) is prepared before. The result of the last solve is in `x`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pardiso
import torch
from problems import parse_matrix

import sparse_solver as ss
from sparse_solver.engines import REGISTRY

SETS = 3  # of values, which take turns


class Matrix:
    """A problem's pattern, a few sets of values, and right-hand sides."""

    def __init__(self, name: str) -> None:
        problem = parse_matrix(name)
        self.name, self.n = name, problem.n
        self.pattern = ss.Pattern(problem.rows, problem.cols, (self.n, self.n))
        self.values = []
        for _ in range(SETS):
            A = self.pattern.assemble(problem.values(problem.weights()).detach())
            self.values.append(np.ascontiguousarray(A.values.numpy()))
        random = torch.rand(self.n, 128, dtype=torch.float64, generator=problem.generator)
        self.many = random.numpy()
        self.b = np.ascontiguousarray(self.many[:, 0])
        # Row i of the upper triangle is, by symmetry, column i of the lower one.
        self.take = self.pattern.triangles[0]
        rows = self.pattern.rows.numpy()[self.take]
        self.indptr = np.zeros(self.n + 1, np.int64)
        np.cumsum(np.bincount(rows, minlength=self.n), out=self.indptr[1:])
        self.indices = self.pattern.cols.numpy()[self.take]
        self.halves = [np.ascontiguousarray(values[self.take]) for values in self.values]
        _ = self.pattern.is_symmetric  # known before the library chooses an engine

    def right(self, columns: int) -> np.ndarray:
        """(n,) for one column, else (n, columns)."""
        return self.b if columns == 1 else np.ascontiguousarray(self.many[:, :columns])


def _timed(work: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work(*arguments, **options)
    return time.perf_counter() - start, result


class Own:
    """The library's engine, in the calls that the library makes."""

    rest = 0.0

    def __init__(self, matrix: Matrix, threads: int) -> None:
        self.matrix, self.threads = matrix, threads
        self.engine = REGISTRY["multifrontal"]
        self.symbolic: Any = None
        self.numeric: Any = None
        self.x: np.ndarray | None = None
        self.turn = 0

    def analyse(self, fresh: bool = False) -> float:
        """Analyse; `fresh`: on a new pattern, of which not even the symmetry is known."""
        P = self.matrix.pattern
        P = ss.Pattern(P.rows, P.cols, P.shape) if fresh else P
        arguments = P, "cholesky", self.matrix.values[0], self.threads
        seconds, symbolic = _timed(self.engine.analyze, *arguments)
        self.symbolic = self.symbolic or symbolic  # the one plan: the first
        return seconds

    def factor(self, recycle: bool = True) -> float:
        """Factor other values than the last time."""
        self.turn = (self.turn + 1) % SETS
        previous = self.numeric if recycle else None
        self.numeric = None
        values = self.matrix.values[self.turn]
        arguments = self.symbolic, values, self.threads
        seconds, self.numeric = _timed(self.engine.factorize, *arguments, recycle=previous)
        return seconds

    def solve(self, columns: int) -> float:
        """Solve with the factor held."""
        seconds, self.x = _timed(self.numeric.solve, self.matrix.right(columns))
        return seconds

    def inverse(self) -> float:
        """The selected inverse, into `selected`."""
        seconds, self.selected = _timed(self.numeric.selected_inverse)
        return seconds

    @property
    def memory(self) -> int:
        """Bytes of the factor."""
        return int(self.numeric.memory)

    def close(self) -> None:
        """Nothing to do."""


class Rslab:
    """rslab's LDL^T, with its own defaults or with the settings of this library's adapter."""

    rest = 0.0

    def __init__(self, matrix: Matrix, threads: int, adapter: bool = False) -> None:
        self.matrix, self.threads, self.adapter = matrix, threads, adapter
        self.symbolic: Any = None
        self.numeric: Any = None
        self.x: np.ndarray | None = None
        self.turn = 0

    def analyse(self) -> float:
        """Order and plan."""
        M = self.matrix
        if self.adapter:
            engine, values = REGISTRY["rslab"], M.values[0]
            before, symbolic = _timed(engine.analyze, M.pattern, "ldlt", values, self.threads)
            after = 0.0
            if symbolic.provisional:
                after, symbolic = _timed(engine.improved, symbolic, values, self.threads)
            seconds, handle = before + after, symbolic.handle
        else:
            from rslab import _rslab

            structure = M.n, M.indptr, M.indices, M.halves[0]
            seconds, handle = _timed(_rslab.analyze_ldlt, *structure, threads=self.threads)
        self.symbolic = self.symbolic or handle
        return seconds

    def factor(self) -> float:
        """Factor other values than the last time."""
        self.turn = (self.turn + 1) % SETS
        self.numeric = None  # the storage of the last one can be had again
        data = self.matrix.halves[self.turn]
        seconds, self.numeric = _timed(self.symbolic.factor, data, threads=self.threads)
        return seconds

    def solve(self, columns: int) -> float:
        """Solve with the factor held."""
        solve = self.numeric.solve if columns == 1 else self.numeric.solve_many
        seconds, self.x = _timed(solve, self.matrix.right(columns))
        return seconds

    @property
    def memory(self) -> int:
        """Bytes of the factor."""
        return int(self.numeric.heap_bytes)

    def close(self) -> None:
        """Nothing to do."""


class Pardiso:
    """MKL's PARDISO, in its own process; it recycles its storage by itself."""

    rest = pardiso.REST

    def __init__(self, matrix: Matrix, threads: int) -> None:
        self.matrix, self.turn = matrix, 0
        self.remote = pardiso.Apart(matrix.indptr, matrix.indices, threads)
        self.x: np.ndarray | None = None

    def analyse(self) -> float:
        """Order and plan anew: what was there is replaced, and the same again."""
        return self.remote.call("analyse")[0]

    def factor(self) -> float:
        """Factor other values than the last time."""
        self.turn = (self.turn + 1) % SETS
        return self.remote.call("factor", self.matrix.halves[self.turn])[0]

    def solve(self, columns: int) -> float:
        """Solve with the factor held."""
        seconds, self.x = self.remote.call("solve", np.asfortranarray(self.matrix.right(columns)))
        return seconds

    @property
    def memory(self) -> int:
        """Bytes of analysis and factor, as MKL says."""
        return self.remote.call("memory")[1]

    def close(self) -> None:
        """End its process."""
        self.remote.close()


CANDIDATES: dict[str, Callable[[Matrix, int], Any]] = {
    "own": Own,
    "rslab": Rslab,
    "rslab, adapter": lambda matrix, threads: Rslab(matrix, threads, adapter=True),
    "PARDISO": Pardiso,
}
