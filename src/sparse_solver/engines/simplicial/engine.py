"""The adapter, and `Kernel`: the compiled loops on one structure."""

from __future__ import annotations

import time

import numpy as np

from ...matrix import Pattern
from ..base import Declined, Engine, Numeric, Symbolic, is_installed
from ..batched.elimination import Elimination, eliminate
from ..triangles import Triangles
from . import layout
from .ready import functions

__all__ = ["Kernel", "Simplicial"]


class Kernel:
    """The structure as the compiled loops read it, and the loops.

    Parameters
    ----------
    pattern : Pattern
        Symmetric, with a full diagonal.
    plan : Elimination
    """

    def __init__(self, pattern: Pattern, plan: Elimination) -> None:
        self.plan = plan
        A = *(np.ascontiguousarray(a, np.int32) for a in pattern.csr), plan.diagonal, plan.mate
        L = plan.pointer, plan.index, plan.row_pointer, plan.row_col, plan.row_place
        low = plan.low_pointer, plan.low_value, plan.low_at, plan.col_order
        self._held = *A, *L, *low
        assert all(a.dtype == np.int32 and a.flags.c_contiguous for a in self._held)
        sizes = plan.n, plan.nnz, plan.nnz_factor
        self.places = np.array([*sizes, *(a.ctypes.data for a in self._held)], np.int64)
        self.table = self.places.ctypes.data
        self.kept = plan.nnz + plan.nnz_factor + 2 * plan.n  # numbers of a factorisation
        self.size = self.kept + layout.ROOM * plan.n  # and those used while it is made


class _SimplicialNumeric(Numeric):
    """A view of a factorisation: `store` is all there is, see `layout`."""

    def __init__(self, kernel: Kernel, store: np.ndarray, seconds: float) -> None:
        self.kernel, self.store, self.seconds = kernel, store, seconds
        self.dtype = store.dtype
        self.nnz_factor = kernel.plan.nnz_factor + kernel.plan.n
        self.memory = int(store.nbytes)
        self.inertia = kernel.plan.n, 0, 0

    @property
    def values(self) -> np.ndarray:
        """Of which it is the factorisation, (nnz,)."""
        return self.store[: self.kernel.plan.nnz]

    def solve(self, b: np.ndarray, transposed: bool = False) -> np.ndarray:
        x, n = np.empty_like(b), self.kernel.plan.n
        room = np.empty(layout.BLOCK * n, self.dtype)
        stride = 1 if b.ndim == 1 else b.shape[1]
        arrays = (self.store.ctypes.data, b.ctypes.data, x.ctypes.data)
        functions(self.dtype.name).solve(self.kernel.table, *arrays, stride, room.ctypes.data)
        return x

    def _factors(self) -> tuple[np.ndarray, np.ndarray]:
        """L below its diagonal, and D."""
        p = self.kernel.plan
        middle = p.nnz + p.nnz_factor
        return self.store[p.nnz : middle], self.store[middle : middle + p.n]

    def slogdet(self) -> tuple[complex, float]:
        return 1.0, float(np.log(self._factors()[1].astype(np.float64)).sum())

    def factors(self) -> Triangles:
        p, (L, D) = self.kernel.plan, self._factors()
        d, lx = D.astype(np.float64), L.astype(np.float64)
        lp, li = p.pointer.astype(np.int64), p.index.astype(np.int64)
        place, ones = np.empty(p.n, np.int64), np.ones(p.n)
        place[p.col_order] = np.arange(p.n)
        upper = lp, li, lx * np.repeat(d, np.diff(lp))  # row k of U = D L^T is column k of L
        return Triangles(d, lp, li, lx, *upper, place, place, ones, ones)


class Simplicial(Engine):
    """L D L^T without blocks, for small definite matrices."""

    name = "simplicial"
    paths = {"ldlt": "L D L^T of small definite real matrices, a whole step in one compiled call"}
    dtypes = ("float32", "float64")
    kinds = ("hermitian", "spd")
    looks_at_values = False

    def why_not(self) -> str | None:
        return None if is_installed("numba") else "pip install numba"

    def analyze(self, pattern: Pattern, path: str, values: np.ndarray, threads: int) -> Symbolic:
        start = time.perf_counter()
        if not pattern.is_symmetric or not pattern.has_full_diagonal:
            raise Declined("simplicial: the pattern is not symmetric, or a diagonal entry is missing")
        plan = eliminate(pattern, True)
        assert plan is not None  # the diagonal is full
        functions(values.dtype.name)
        facts = plan.nnz_factor + plan.n, plan.flops, time.perf_counter() - start
        return Symbolic(pattern, path, Kernel(pattern, plan), None, *facts)

    def factorize(
        self, symbolic: Symbolic, values: np.ndarray, threads: int, recycle: Numeric | None = None
    ) -> Numeric:
        start = time.perf_counter()
        kernel: Kernel = symbolic.handle
        store, values = np.empty(kernel.size, values.dtype), np.ascontiguousarray(values)
        factor = functions(values.dtype.name).factor
        bad = factor(kernel.table, values.ctypes.data, store.ctypes.data)
        if bad >= 0:
            index = int(kernel.plan.col_order[bad])
            raise Declined(f"simplicial: the pivot of unknown {index} is not positive", index=index)
        return _SimplicialNumeric(kernel, store, time.perf_counter() - start)

    def view(self, symbolic: Symbolic, store: np.ndarray) -> Numeric:
        """The factorisation that lies in `store`."""
        return _SimplicialNumeric(symbolic.handle, store, 0.0)
