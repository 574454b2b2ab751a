"""`Cholesky`: a numeric factorisation, and what can be done with it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from .analysis import Analysis
from .factor import factorize
from .machine import machine
from .rows import row_width
from .run import Graph
from .selected import selected_inverse
from .solve import substitute
from .strips import ROOM
from .team import Scratch, aligned, run

__all__ = ["Cholesky"]

_COLUMNS = 64  # right-hand sides at a time: fewer rows of the factor to read, and more of X to keep
_ALONE = 1e6  # flops up to which starting other threads costs more than they bring


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
        self._machine = machine(dtype.name)
        team = self._team(a.flops, a.factor_tasks)
        arena = scratch.take("arena", a.kept + team * a.lane, dtype)
        room = scratch.take("room", team * ROOM, dtype)

        def given(graph: np.ndarray, state: np.ndarray) -> tuple[Any, ...]:
            places = arena, a.kept, a.lane, 0, room
            return a.table, graph, values, self.panels, *places, self._machine, state

        column = run(a.factor_tasks, factorize.by_lanes(dtype), given, team, a.flops)
        scratch.give("arena", arena)
        scratch.give("room", room)
        self.bad = None if column is None else int(a.fronts.order[column])

    def _team(self, flops: float, graph: Graph) -> int:
        return 1 if flops < _ALONE else min(self.threads, max(1, len(graph.before) // 3))

    def solve(self, b: np.ndarray) -> np.ndarray:
        """A^-1 b for b (n,) or (n, k)."""
        return self._substitute(b, True, True)

    def solve_at(self, x: int, b: int) -> None:
        """A^-1 b for the vector at address b, put to where x is."""
        self._columns(b, x, 1, 1, True, True)

    def half_solve(self, b: np.ndarray, adjoint: bool = False) -> np.ndarray:
        """L^-1 P b, or P^T L^-H b if `adjoint`."""
        return self._substitute(b, not adjoint, adjoint)

    def _substitute(self, b: np.ndarray, down: bool, up: bool) -> np.ndarray:
        out = aligned(b.size, self.panels.dtype).reshape(b.shape)
        stride = 1 if b.ndim == 1 else b.shape[1]
        given, result = b.reshape(-1), out.reshape(-1)
        for first in range(0, stride if out.size else 0, _COLUMNS):
            k = min(_COLUMNS, stride - first)
            self._columns(given[first:], result[first:], stride, k, down, up)
        return out

    def _columns(self, b: Any, out: Any, stride: int, k: int, down: bool, up: bool) -> None:
        """The sweeps for k columns of b, whose rows are `stride` numbers apart, as are those of out:
        arrays or, for solves that go down and up, addresses.
        """
        a, dtype, scratch = self.analysis, self.panels.dtype, self.scratch
        flops = 2.0 * a.nnz_factor * k
        width = row_width(k, dtype.itemsize)
        graph = a.solve_tasks if down and up else a.forward_tasks if down else a.backward_tasks
        team, height = self._team(flops, graph), a.tallest * width
        X = scratch.take("X", a.extended * width, dtype)
        buffers = scratch.take("buffers", team * height, dtype)

        def given(table: np.ndarray, state: np.ndarray) -> tuple[Any, ...]:
            vectors = b, stride, int(down), X, out, stride, buffers, height, k, width
            return a.table, table, self.panels, *vectors, 0, self._machine, state

        run(graph, substitute.by_lanes(dtype), given, team, flops, k > 1)  # a column needs no BLAS
        if not up:
            n = a.fronts.n
            rows = X[: n * width].reshape(n, width)
            as_strided(out, (n, k), (stride * out.itemsize, out.itemsize))[:] = rows[:, :k]
        scratch.give("X", X)
        scratch.give("buffers", buffers)

    def selected_inverse(self, mirror: np.ndarray) -> np.ndarray:
        """(A^-1)_ij at the structure's nonzeros (i, j), (nnz,); nonzero mirror[p] is p transposed."""
        a, dtype, scratch = self.analysis, self.panels.dtype, self.scratch
        team = self._team(2 * a.flops, a.inverse_tasks)
        out = np.empty(len(mirror), dtype)  # each is some front's
        Z = scratch.take("inverse", a.size_above, dtype)
        arena = scratch.take("arena", a.kept + team * a.lane, dtype)
        own = scratch.take("own", 2 * team * a.roomiest, dtype)
        shared = scratch.take("shared", a.y_room, dtype)
        rooms = scratch.take("room", team * ROOM, dtype)

        def given(graph: np.ndarray, state: np.ndarray) -> tuple[Any, ...]:
            room = Z, own, a.roomiest, a.y_place, shared, arena, a.kept, a.lane, mirror, out
            return a.table, graph, self.panels, *room, 0, rooms, self._machine, state

        run(a.inverse_tasks, selected_inverse.by_lanes(dtype), given, team, 2 * a.flops)
        names = ("inverse", "arena", "own", "shared", "room")
        for name, array in zip(names, (Z, arena, own, shared, rooms), strict=True):
            scratch.give(name, array)
        return out

    def logdet(self) -> float:
        """log det A."""
        diagonal = self.panels.take(self.analysis.diagonal).real.astype(np.float64, copy=False)
        return 2.0 * float(np.log(diagonal, out=diagonal).sum())
