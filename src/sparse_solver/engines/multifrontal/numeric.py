"""`Cholesky`: a numeric factorisation, and what can be done with it."""

from __future__ import annotations

import math

import numpy as np

from .analysis import Analysis
from .blas import addresses, yield_address
from .factor import factorize
from .solve import CHUNK, backward, forward
from .team import Scratch, run
from .tile import tile_rows

__all__ = ["Cholesky"]

_ALONE = 3e5  # flops up to which starting other threads costs more than they bring


class Cholesky:
    """P A P^T = L L^H.

    Parameters
    ----------
    analysis : Analysis
    values : array (nnz,)
        On the structure that was analysed; not kept.
    threads : int
    scratch : Scratch
        Shared by all factorisations of one analysis.
    storage : array, optional
        The panels of a factorisation that nobody needs any more.

    Attributes
    ----------
    bad : int or None
        The unknown whose pivot was not positive; then nothing else is valid.
    """

    def __init__(
        self,
        analysis: Analysis,
        values: np.ndarray,
        threads: int,
        scratch: Scratch,
        storage: np.ndarray | None = None,
    ) -> None:
        self.analysis, self.threads, self.scratch = analysis, threads, scratch
        a, dtype = analysis, values.dtype
        self.panels = np.empty(a.size, dtype) if storage is None else storage
        self._machine = addresses(dtype.name), tile_rows(dtype.itemsize), yield_address()
        blas, step, yielding = self._machine
        team = self._team(a.flops, a.factor_tasks)
        arena = scratch.take("arena", a.kept + team * a.lane, dtype)
        what, _, begin, after = a.factor_tasks

        def work(lane: int, before: np.ndarray, state: np.ndarray) -> None:
            graph = what, before, begin, after
            sizes = a.kept, a.lane, lane
            factorize(a.fronts, *graph, values, self.panels, arena, *sizes, blas, step, yielding, state)

        column = run(a.factor_tasks, work, team, a.flops)
        scratch.give("arena", arena)
        self.bad = None if column is None else int(a.order[column])

    def _team(self, flops: float, graph: tuple) -> int:
        return 1 if flops < _ALONE else min(self.threads, max(1, len(graph[0]) // 3))

    def solve(self, b: np.ndarray) -> np.ndarray:
        """A^-1 b for b (n,) or (n, k)."""
        return self._substitute(b, True, True)

    def half_solve(self, b: np.ndarray, adjoint: bool = False) -> np.ndarray:
        """L^-1 P b, or P^T L^-H b if `adjoint`."""
        return self._substitute(b, not adjoint, adjoint)

    def _substitute(self, b: np.ndarray, down: bool, up: bool) -> np.ndarray:
        a, dtype = self.analysis, self.panels.dtype
        k = 1 if b.ndim == 1 else b.shape[1]
        out = np.empty(b.shape, dtype)
        if out.size == 0:
            return out
        given, result = b.reshape(-1), out.reshape(-1)
        flops = 2.0 * a.nnz_factor * k
        team = self._team(flops, a.forward_tasks)
        X = self.scratch.take("X", a.extended * k, dtype)
        height = a.tallest * k
        flat = self.scratch.take("buffers", team * height, dtype)
        buffers = flat[: team * height].reshape(team, height)
        blas, step, yielding = self._machine
        end = k, blas, step, yielding
        if down:
            what, _, begin, after = a.forward_tasks

            def sweep(lane: int, before: np.ndarray, state: np.ndarray) -> None:
                graph = what, before, begin, after
                forward(a.fronts, a.order, *graph, self.panels, given, X, buffers, lane, *end, state)

            run(a.forward_tasks, sweep, team, flops)
            given = X
        if up:
            partial = self.scratch.take("partial", a.widest * k * (a.tallest // CHUNK + 1), dtype)
            what_, _, begin_, after_ = a.backward_tasks
            given_ = given

            def sweep_back(lane: int, before: np.ndarray, state: np.ndarray) -> None:
                graph = what_, before, begin_, after_
                vectors = given_, X, result, buffers, partial
                backward(a.fronts, a.order, *graph, self.panels, *vectors, lane, *end, state)

            run(a.backward_tasks, sweep_back, team, flops)
            self.scratch.give("partial", partial)
        else:
            result[:] = X[: out.size]
        self.scratch.give("X", X)
        self.scratch.give("buffers", flat)
        return out

    def logdet(self) -> float:
        """log det A."""
        return 2.0 * float(np.log(self.diagonal()).sum())

    def diagonal(self) -> np.ndarray:
        """That of L, in the order of elimination; real."""
        return self.panels[self.analysis.diagonal].real.astype(np.float64)
