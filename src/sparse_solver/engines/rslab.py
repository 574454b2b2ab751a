"""rslab: a supernodal LDL^T and LU, and a KLU for matrices with little fill.

Notes
-----
The LDL^T path reads one triangle and knows "symmetric" as A = A^T, complex too; there is no
Hermitian path, so Hermitian matrices go to LU. KLU alone can overwrite a factorisation with new
values, keeping its pivots; whoever calls must judge the result.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ..matrix import Pattern
from ..matrix.threads import share
from .base import Declined, Engine, Numeric, Symbolic
from .triangles import Triangles, determinant, inverse_of

__all__ = ["Rslab"]

_WEAK_DIAGONAL = 0.1  # of its column's largest entry
_HEAVY, _HEAVY_PER_UNKNOWN = 1e9, 1e5  # flops from which a second ordering is tried (3-D meshes)
_COLUMN_WORK = 1 << 18  # factor entries times columns from which columns are shared by threads
_ROWS = 256  # that are transposed at a time
_FEWEST, _MOST = 16, 32  # columns in a block: to be worth another thread, and to stay near the cache


_FORKED = "made before this process was forked, and its threads did not survive"


class _RslabNumeric(Numeric):
    def __init__(self, handle: Any, symbolic: Symbolic, seconds: float, threads: int) -> None:
        self.handle, self.path, self.threads = handle, symbolic.path, threads
        self.symbolic, self.seconds = symbolic, seconds
        self.dtype = np.dtype(handle.dtype)
        self.process = os.getpid()
        self.recyclable = symbolic.path == "klu"

    @property
    def nnz_factor(self) -> int:  # type: ignore[override]
        return int(self.handle.factor_nnz)

    @property
    def memory(self) -> int:  # type: ignore[override]
        return int(self.handle.heap_bytes)

    @property
    def inertia(self) -> tuple[int, int, int] | None:  # type: ignore[override]
        if self.path != "ldlt" or self.dtype.kind == "c":
            return None
        return self.handle.inertia

    def solve(self, b: np.ndarray, transposed: bool = False) -> np.ndarray:
        if self.process != os.getpid():
            raise Declined(_FORKED)
        if self.path == "ldlt":
            transposed = False
        if b.ndim == 1:
            return self.handle.solve_transpose(b) if transposed else self.handle.solve(b)
        k = b.shape[1]
        threads = self.threads if self.nnz_factor * k > _COLUMN_WORK else 1
        if not transposed:
            return self._solve_blocks(b, threads)
        # No block solve with A^T in this library; it releases the GIL, so columns run side by side.
        x = np.empty((k, b.shape[0]), b.dtype)
        columns = _transposed(b)

        def column(j: int) -> None:
            x[j] = self.handle.solve_transpose(columns[j])

        share(column, k, threads)
        return _transposed(x)

    def _solve_blocks(self, b: np.ndarray, threads: int) -> np.ndarray:
        """By blocks of columns, whose memory is used again: fresh pages for all would take longer than
        a block's solve, and solves in columns laid out one after the other are the quickest.
        """
        n, k = b.shape
        pieces = max(min(threads, k // _FEWEST), -(-k // _MOST))
        if pieces <= 1 or self.nnz_factor * k <= _COLUMN_WORK:
            return self.handle.solve_many(b)
        x = np.empty_like(b)
        bounds = [k * piece // pieces for piece in range(pieces + 1)]
        rooms: list[np.ndarray] = []

        def block(piece: int) -> None:
            columns = slice(bounds[piece], bounds[piece + 1])
            try:
                room = rooms.pop()
            except IndexError:
                room = np.empty((-(-k // pieces), n), b.dtype)
            rhs = room[: columns.stop - columns.start]
            for row in range(0, n, _ROWS):
                rhs[:, row : row + _ROWS] = b[row : row + _ROWS, columns].T
            x[:, columns] = self.handle.solve_many(rhs.T)
            rooms.append(room)

        share(block, pieces, threads)
        return x

    @property
    def columns(self) -> str | None:  # type: ignore[override]
        if self.path == "ldlt":
            return None
        return (
            f"A^T x = b column by column, over {self.threads} threads: rslab has no block solve for it"
        )

    def slogdet(self) -> tuple[complex, float]:
        h = self._klu()
        places = inverse_of(h.perm_r), inverse_of(h.perm_c)
        return determinant(h.U.diagonal(), *places, np.asarray(h.row_scale))

    def factors(self) -> Triangles:
        h = self._klu()
        ends = np.asarray(h.block_ptr)
        block = np.repeat(np.arange(len(ends) - 1), np.diff(ends)) if len(ends) > 2 else None
        places = {"row_place": inverse_of(h.perm_r), "col_place": inverse_of(h.perm_c)}
        scales = {"r": np.array(h.row_scale, np.float64), "c": np.ones(len(h.perm_r))}
        return Triangles.from_csc(h.L, h.U, **places, **scales, block=block)

    def _klu(self) -> Any:
        if self.path != "klu":
            raise Declined(f"rslab's {self.path} path does not hand out its factors")
        if self.process != os.getpid():
            raise Declined(_FORKED)
        return self.handle


def _transposed(a: np.ndarray) -> np.ndarray:
    """A copy in transposed order; torch moves it in blocks, NumPy number by number."""
    return torch.from_numpy(a if a.flags.writeable else a.copy()).t().contiguous().numpy()


class Rslab(Engine):
    """Adapter of https://pypi.org/project/rslab (MIT)."""

    name = "rslab"
    paths = {
        "ldlt": "supernodal LDL^T with Bunch-Kaufman pivoting, for A = A^T",
        "lu": "supernodal LU with threshold pivoting",
        "klu": "block triangular form and Gilbert-Peierls LU, for little fill; refactors in place",
    }
    opaque = frozenset({"ldlt", "lu"})

    def __init__(self) -> None:
        self._why_not: str | None = None
        self._process = os.getpid()  # the one whose threads the module may use
        try:
            self._module: Any = _on_lasting_thread(lambda: importlib.import_module("rslab._rslab"))
        except ImportError as error:
            self._why_not = f"pip install rslab ({error})"

    def why_not(self) -> str | None:
        return self._why_not

    def _load(self) -> Any:
        """The compiled module: a copy of its own in a forked process.

        The library keeps thread pools in static variables. A child inherits them without their
        threads and would wait for ever; a second copy of the file has statics of its own.
        """
        if self._process != os.getpid():
            self._module = _on_lasting_thread(lambda: _second_copy(self._module))
            self._process = os.getpid()
        return self._module

    def analyze(self, pattern: Pattern, path: str, values: np.ndarray, threads: int) -> Symbolic:
        """By minimum fill; provisional where nested dissection may leave less work. That takes twice as
        long again, and as much memory: in vain, should another engine factor.
        """
        ordering = {} if path == "klu" else {"ordering": "amf", "nemin": 8}
        symbolic = self._analysis(pattern, path, values, threads, ordering)
        assert symbolic.flops is not None
        heavy = symbolic.flops > max(_HEAVY, _HEAVY_PER_UNKNOWN * pattern.shape[0])
        return replace(symbolic, provisional=heavy and path != "klu")

    def improved(self, symbolic: Symbolic, values: np.ndarray, threads: int) -> Symbolic:
        """The better of it and of nested dissection. Half the time of the library's own race of
        orderings, which tries all of them, for the same fill.
        """
        if symbolic.process != os.getpid():
            raise Declined(_FORKED)
        pattern, path = symbolic.pattern, symbolic.path
        other = self._analysis(pattern, path, values, threads, {"ordering": "metis"})
        better = min(symbolic, other, key=lambda s: s.flops or 0.0)
        return replace(better, seconds=symbolic.seconds + other.seconds, provisional=False)

    def _analysis(
        self, pattern: Pattern, path: str, values: np.ndarray, threads: int, options: dict[str, Any]
    ) -> Symbolic:
        _rslab = self._load()
        start = time.perf_counter()
        if path == "ldlt":
            # Row i of the upper triangle is, by symmetry, column i of the lower one.
            take = pattern.triangles[0]
            rows = pattern.rows.numpy()[take]
            indptr = np.zeros(pattern.shape[0] + 1, dtype=np.int64)
            np.cumsum(np.bincount(rows, minlength=pattern.shape[0]), out=indptr[1:])
            indices = pattern.cols.numpy()[take]
            analyze = _rslab.analyze_ldlt
        else:
            take = pattern.transposed_order
            indptr, indices = pattern.T.indptr, pattern.T.cols.numpy()
            analyze = _rslab.analyze_klu if path == "klu" else _rslab.analyze_lu
        data = np.ascontiguousarray(values[take])
        # KLU's threads spin while they wait, which costs more than they gain on fronts this small.
        options |= {"parallel": False} if path == "klu" else {"threads": threads}
        if path == "lu":
            # Pivoting stays inside a front, so the analysis must bring large entries to the diagonal
            # wherever it is weak, not only where it is zero as by default.
            options["matching_negligible_diagonal"] = _WEAK_DIAGONAL
        try:
            handle = analyze(pattern.shape[0], indptr, indices, data, **options)
        except RuntimeError as error:
            raise Declined(f"rslab {path}: {error}") from error
        flops = float(handle.estimate_memory()["factor_flops"])
        nnz, seconds = int(handle.factor_nnz), time.perf_counter() - start
        return Symbolic(pattern, path, handle, take, nnz, flops, seconds)

    def factorize(
        self, symbolic: Symbolic, values: np.ndarray, threads: int, recycle: Numeric | None = None
    ) -> Numeric:
        if symbolic.process != os.getpid():
            raise Declined(_FORKED)
        start = time.perf_counter()
        assert symbolic.take is not None
        data = values.take(symbolic.take)
        try:
            if isinstance(recycle, _RslabNumeric) and symbolic.path == "klu":
                handle = recycle.handle
                handle.refactor(data)
            elif symbolic.path == "klu":
                handle = symbolic.handle.factor(data)
            else:
                handle = symbolic.handle.factor(data, threads=threads)
        except RuntimeError as error:
            raise Declined(f"rslab {symbolic.path}: {error}") from error
        return _RslabNumeric(handle, symbolic, time.perf_counter() - start, threads)


def _on_lasting_thread(load: Callable[[], Any]) -> Any:
    """Load the module on the main thread, or on one that never ends.

    Its allocator belongs to the thread that loads it and does not survive that thread's end.
    """
    if threading.current_thread() is threading.main_thread():
        return load()
    outcome: list[Any] = []
    done = threading.Event()

    def work() -> None:
        try:
            outcome.append(load())
        except BaseException as error:  # handed to the caller below
            outcome.append(error)
        done.set()
        threading.Event().wait()

    threading.Thread(target=work, name="sparse_solver: keeps rslab", daemon=True).start()
    done.wait()
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def _second_copy(module: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = shutil.copy(module.__file__, folder)
        spec = importlib.util.spec_from_file_location(module.__name__, path)
        assert spec is not None and spec.loader is not None
        copy = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(copy)
    return copy
