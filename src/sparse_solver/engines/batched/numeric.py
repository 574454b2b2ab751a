"""A batch of factorisations in the memory of the compiled kernel."""

from __future__ import annotations

import importlib
import math
import time
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from types import ModuleType

import numpy as np

from ...matrix.threads import share
from .elimination import Elimination
from .layout import BAD, DOMINANT, WIDTH

__all__ = ["BatchNumeric", "load_kernels"]

_CHUNKS = 4  # pieces of work per thread
_SPAN = 1e7  # operations, some 2 ms, for which another thread is worth starting: for as long torch's
# own threads look out for work at full speed after each of its loops, on the cores that ours want
_LINE = 64  # bytes
_SPARE = 1 << 29  # bytes of a finished batch kept for the next, at most


@lru_cache(maxsize=1)
def load_kernels() -> ModuleType | None:
    """The compiled loops, or None where numba can't be used."""
    try:
        return importlib.import_module(".kernels", __package__)
    except (ImportError, RuntimeError):  # no numba, or nowhere to keep what it compiles
        return None


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    length = math.prod(shape) * dtype.itemsize
    raw = np.empty(length + _LINE, np.uint8)
    start = -raw.ctypes.data % _LINE
    return raw[start : start + length].view(dtype).reshape(shape)


class BatchNumeric:
    """Matrices on one pattern, each factored in its lane.

    Parameters
    ----------
    plan : Elimination
    values : array, shape (items, nnz)
        May repeat one item with stride 0.
    mirrored : {0, 1, 2}
        Whether to test A = A^T (1) or A = A^H (2).
    definite : bool
        Whether to test that all pivots are positive.
    threads : int
    spare : deque
        Memory of an earlier batch, used if it fits; this one's goes there in the end.

    Attributes
    ----------
    verdicts : int64 array, shape (items,)
        Sums of DOMINANT, UNSYMMETRIC, INDEFINITE and BAD.
    norms : float64 array, shape (items, 2)
        The largest row sum and column sum of absolute values.
    """

    def __init__(
        self,
        plan: Elimination,
        values: np.ndarray,
        mirrored: int,
        definite: bool,
        threads: int,
        spare: deque[np.ndarray],
    ) -> None:
        began = time.perf_counter()
        self.plan, self.dtype, self.threads = plan, values.dtype, threads
        self.items, self.definite = len(values), definite
        self._spare = spare
        shape = -(-self.items // WIDTH), plan.height, WIDTH
        self.blocks = _take(spare, shape, values.dtype)
        self.norms = np.empty((self.items, 2))
        self.verdicts = np.zeros(self.items, np.int64)
        self._real = np.empty(0, np.empty(0, values.dtype).real.dtype)
        self.eps = float(np.finfo(values.dtype).eps)
        flat, stride = _flat(values)
        kernel = _kernels().factor
        structure = plan.factor_arguments()

        def work(first: int, last: int) -> None:
            kernel(
                flat, stride, self.blocks, self.norms, self.verdicts, self._real, first, last,
                self.eps, MARGIN, mirrored, definite, *structure,
            )  # fmt: skip

        self._share(work, plan.flops + 10.0 * plan.nnz)
        self.seconds = time.perf_counter() - began

    def __del__(self) -> None:
        blocks = getattr(self, "blocks", None)
        if blocks is not None and blocks.nbytes <= _SPARE:
            self._spare.append(blocks)

    @property
    def memory(self) -> int:
        """Bytes."""
        return self.blocks.nbytes

    def values_of(self, item: int) -> np.ndarray:
        """The values (nnz,) of an item, as they were when it was factored."""
        rows = self.blocks[item // WIDTH, : self.plan.nnz]
        lane = item % WIDTH
        if self.dtype.kind != "c":
            return rows[:, lane].copy()
        planes = rows.view(self._real.dtype).reshape(self.plan.nnz, 2, WIDTH)
        return (planes[:, 0, lane] + 1j * planes[:, 1, lane]).astype(self.dtype)

    def suspect(self, z: np.ndarray, limit: float, normwise: float) -> None:
        """Solve for a random vector where the diagonal does not dominate; huge answers are BAD."""
        if (self.verdicts & DOMINANT).all():
            return
        kernel, p = _kernels().suspect, self.plan

        def work(first: int, last: int) -> None:
            kernel(
                self.blocks, self.norms, self._real, z, self.verdicts, first, last,
                0 if p.symmetric else 1, limit, normwise * self.eps, *p.solve_arguments(),
            )  # fmt: skip

        self._share(work, 8.0 * p.nnz_factor + 30.0 * p.nnz)

    def solve(
        self, b: np.ndarray, transposed: bool, normwise: float, componentwise: float
    ) -> tuple[np.ndarray, np.ndarray, float, np.ndarray]:
        """(x, which are not accurate, largest backward error, steps of refinement (items,)) for b of
        shape (items, n) or (items, n, k), of this dtype.
        """
        p = self.plan
        columns = 1 if b.ndim == 2 else b.shape[2]
        flat, stride = _flat(b)
        x = np.empty(b.shape, self.dtype)
        verdicts = np.zeros(self.items, np.int64)
        errors, steps = np.zeros(self.items), np.zeros(self.items, np.int64)
        mode = 0 if p.symmetric else 2 if transposed else 1
        kernel, out = _kernels().solve, x.reshape(-1)
        # Sizes |Re| + |Im| may make the errors of complex numbers look half as large.
        slack = self.eps * (0.5 if self.dtype.kind == "c" else 1.0)
        normwise, componentwise = normwise * slack, componentwise * slack

        def work(first: int, last: int) -> None:
            kernel(
                self.blocks, self.norms, self._real, flat, stride, columns, 1, out, columns, verdicts,
                errors, steps, first, last, mode, normwise, componentwise, *p.solve_arguments(),
            )  # fmt: skip

        self._share(work, columns * (4.0 * p.nnz_factor + 10.0 * p.nnz))
        bad = np.flatnonzero(verdicts & BAD)
        return x, bad, float(errors.max(initial=0.0)), steps

    def outer(self, y: np.ndarray, x: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """-y_i conj(x_j) at the nonzeros (i, j), summed over columns: (items, nnz)."""
        p, kernel = self.plan, _kernels().outer
        columns = 1 if y.ndim == 2 else y.shape[2]
        out = np.empty((self.items, p.nnz), self.dtype)
        flat = [np.ascontiguousarray(a).reshape(-1) for a in (y, x, out)]

        def work(first: int, last: int) -> None:
            kernel(*flat, i, j, first, last, self.items, p.n, columns)

        self._share(work, 8.0 * p.nnz * columns)
        return out

    def inverse(self, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
        """((A^-1)_ji at the nonzeros (i, j), (items, nnz); which are not accurate to `tolerance`, in
        units of eps, as rows and columns of A and its inverse tell).
        """
        p, kernel = self.plan, _kernels().inverse
        out = np.empty((self.items, p.nnz), self.dtype)
        verdicts, flat = np.zeros(self.items, np.int64), out.reshape(-1)

        def work(first: int, last: int) -> None:
            kernel(
                self.blocks, verdicts, self._real, flat, first, last, tolerance * self.eps,
                *p.inverse_arguments(),
            )  # fmt: skip

        self._share(work, 2.0 * p.flops + 10.0 * p.nnz)
        return out, np.flatnonzero(verdicts & BAD)

    def _pivots(self) -> np.ndarray:
        """(items, n), in double precision."""
        p = self.plan
        at = p.height - 2 * p.n
        planes = 2 if self.dtype.kind == "c" else 1
        rows = self.blocks.view(self._real.dtype).reshape(len(self.blocks), p.height, planes, WIDTH)
        pivots = rows[:, at : at + p.n].astype(np.float64).transpose(0, 3, 2, 1)
        pivots = pivots.reshape(-1, planes, p.n)[: self.items]
        return pivots[:, 0] + 1j * pivots[:, 1] if planes == 2 else pivots[:, 0]

    def is_stable(self) -> np.ndarray:
        """For which items elimination without pivoting was surely stable, (items,): for dominant
        diagonals, if the pivots were taken from there, and for definite matrices.
        """
        p = self.plan
        on_diagonal = np.array_equal(p.row_order, p.col_order)
        stable = ((self.verdicts & DOMINANT) != 0) & on_diagonal
        if self.definite or p.symmetric and self.dtype.kind != "c":
            stable |= (self._pivots().real > 0).all(1)
        return stable

    def slogdet(self) -> tuple[np.ndarray, np.ndarray]:
        """(sign, log|det|) of each item, (items,) both, from the pivots; of items that were judged
        BAD they mean nothing.
        """
        p, pivots = self.plan, self._pivots()
        size = np.abs(pivots)
        with np.errstate(all="ignore"):
            sign = (pivots / size).prod(1) * (_parity(p.row_order) * _parity(p.col_order))
            return sign.astype(self.dtype), np.log(size).sum(1).astype(self._real.dtype)

    def _share(self, work: Callable[[int, int], None], operations: float) -> None:
        """``work(first, last)`` over all blocks; `operations` is what one item takes."""
        blocks = len(self.blocks)
        threads = min(self.threads, 1 + int(operations * self.items / _SPAN))
        pieces = min(blocks, _CHUNKS * threads if threads > 1 else 1)
        bounds = [blocks * k // pieces for k in range(pieces + 1)]
        share(lambda k: work(bounds[k], bounds[k + 1]), pieces, threads)


MARGIN = 1e4  # units of eps by which a diagonal must dominate, over rounding


def _parity(order: np.ndarray) -> int:
    """The sign of a permutation: minus one for each cycle of even length."""
    left, sign = np.ones(len(order), bool), 1
    for start in range(len(order)):
        at, length = start, 0
        while left[at]:
            left[at] = False
            at, length = order[at], length + 1
        sign = -sign if length and length % 2 == 0 else sign
    return sign


def _kernels() -> ModuleType:
    module = load_kernels()
    assert module is not None
    return module


def _take(spare: deque[np.ndarray], shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    try:
        kept = spare.pop()
    except IndexError:
        kept = None
    if kept is not None and kept.shape == shape and kept.dtype == dtype:
        return kept
    del kept  # before the new one is made
    return _aligned(shape, dtype)


def _flat(a: np.ndarray) -> tuple[np.ndarray, int]:
    """(numbers in a row, stride from item to item): one kind of array, so that one kernel serves."""
    if a.shape[0] > 1 and a.strides[0] == 0:
        a, stride = a[0], 0
    else:
        stride = math.prod(a.shape[1:])
    flat = (a if a.flags.c_contiguous else np.ascontiguousarray(a)).reshape(-1)
    return flat if flat.flags.writeable else flat.copy(), stride
