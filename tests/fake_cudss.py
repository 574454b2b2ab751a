"""A library object that behaves as cuDSS does, with NumPy inside: reads raw pointers, keeps its rules,
and complains of every call that the real one would answer with nonsense or a crash.
"""

from __future__ import annotations

import ctypes
import itertools
import threading
import time

import numpy as np
import scipy.linalg

DTYPES = {0: np.float32, 1: np.float64, 4: np.complex64, 5: np.complex128}
ANALYSIS, FACTORIZATION, REFACTORIZATION, SOLVE = 3, 4, 8, 1008
GENERAL, SYMMETRIC, HERMITIAN, SPD, HPD = range(5)
INFO, LU_NNZ, MEMORY_ESTIMATES = 0, 1, 13


def array(pointer, count, dtype) -> np.ndarray:
    """The memory behind a raw pointer."""
    assert pointer, "a null pointer where numbers were expected"
    size = int(count) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_char * size).from_address(int(pointer)), dtype)


class Thing:
    def __init__(self, kind, **facts):
        self.kind, self.alive = kind, True
        self.__dict__.update(facts)


class FakeCudss:
    """The functions of the library as methods.

    Parameters
    ----------
    version : 1.0, or 0.8 with its faults
    no_device : cudssCreate answers as without a GPU
    """

    def __init__(self, version=(1, 0, 0), no_device=False):
        self.version, self.no_device = version, no_device
        self.things: dict[int, Thing] = {}
        self._ids = itertools.count(4096, 16)
        self.phases: list[int] = []
        self.reads: list[int] = []  # every one of them waits for the device
        self.columns: list[int] = []
        self.modes: list[int] = []
        self.matrices: list[tuple[int, int]] = []  # (type, view) of each that was described
        self.weak_refactorisation = False  # kept pivots suit no other values
        self.error = 0.0  # relative error of every solution
        self.full = 0  # how many of the next executions find no memory
        self.blind = False  # pivots are perturbed rather than reported
        self._busy = threading.Lock()
        self._stream_is_set = False

    # ---- objects ----

    def _new(self, out, kind, **facts) -> int:
        number = next(self._ids)
        self.things[number] = Thing(kind, **facts)
        out._obj.value = number
        return 0

    def _get(self, number, kind) -> Thing:
        thing = self.things[getattr(number, "value", number)]
        assert thing.kind == kind, f"a {thing.kind} where a {kind} was expected"
        assert thing.alive, f"{kind} {number} was used after it was destroyed"
        return thing

    def _destroy(self, number, kind) -> int:
        self._get(number, kind).alive = False
        return 0

    def alive(self, *kinds) -> list[str]:
        found = (t.kind for t in list(self.things.values()) if t.alive)
        return [k for k in found if not kinds or k in kinds]

    # ---- the library ----

    def cudssGetProperty(self, which, out):
        out._obj.value = self.version[which]
        return 0

    def cudssCreate(self, out):
        return 5 if self.no_device else self._new(out, "handle")

    def cudssDestroy(self, handle):
        return self._destroy(handle, "handle")

    def cudssSetStream(self, handle, stream):
        self._get(handle, "handle")
        self._stream_is_set = True
        return 0

    def cudssConfigCreate(self, out):
        return self._new(out, "config", values={})

    def cudssConfigDestroy(self, config):
        return self._destroy(config, "config")

    def cudssConfigSet(self, config, parameter, value, size):
        assert size == 4
        self._get(config, "config").values[parameter] = value._obj.value
        return 0

    def cudssDataCreate(self, handle, out):
        self._get(handle, "handle")
        return self._new(out, "data", state="new", info=0, solver=None, batch=1)

    def cudssDataDestroy(self, handle, data):
        self._get(handle, "handle")
        return self._destroy(data, "data")

    def cudssDataGet(self, handle, data, parameter, value, size, written):
        self._get(handle, "handle")
        found = self._get(data, "data")
        self.reads.append(parameter)
        if parameter == INFO:
            assert size == 4
            value._obj.value = found.info
        elif parameter == LU_NNZ:
            assert size == 8
            value._obj.value = found.n**2
        elif parameter == MEMORY_ESTIMATES:
            assert size == 128
            value._obj[0] = 8 * found.n**2
        else:
            return 3
        return 0

    def cudssDataSet(self, handle, data, parameter, value, size):
        self._get(handle, "handle")
        assert (parameter, size) == (INFO, 4)
        assert self.version[0] >= 1, "0.8 can't reset it"
        self._get(data, "data").info = value._obj.value
        return 0

    def cudssMatrixCreateDn(self, out, rows, columns, ld, values, dtype, layout):
        assert layout == 0 and ld == rows, "column-major, without gaps"
        return self._new(out, "dense", n=rows, k=columns, values=values, dtype=DTYPES[dtype])

    def cudssMatrixCreateCsr(self, out, rows, columns, nnz, start, end, index, values, *kinds):
        offset, indices, dtype, mtype, view, base = kinds
        assert (offset, indices, base, end) == (10, 10, 0, None)
        assert rows == columns
        assert (view == 0) == (mtype == GENERAL)
        self.matrices.append((mtype, view))
        facts = {"n": rows, "nnz": nnz, "start": start, "index": index, "values": values}
        return self._new(out, "csr", dtype=DTYPES[dtype], mtype=mtype, view=view, **facts)

    def cudssMatrixSetValues(self, matrix, values):
        thing = self.things[matrix]
        assert thing.alive, "values were set on a destroyed matrix"
        thing.values = values
        return 0

    def cudssMatrixDestroy(self, matrix):
        thing = self.things[matrix]
        return self._destroy(matrix, thing.kind)

    def cudssExecute(self, handle, phase, config, data, A, x, b):
        assert self._busy.acquire(blocking=False), "two threads on one handle"
        try:
            time.sleep(0)  # lets the other thread try
            self._get(handle, "handle")
            assert self._stream_is_set, "the stream is to be set before every execution"
            self._stream_is_set = False
            settings = self._get(config, "config").values
            things = self._get(data, "data"), self._get(A, "csr")
            sides = self._get(x, "dense"), self._get(b, "dense")
            self.phases.append(phase)
            if self.full:
                self.full -= 1
                return 2
            if phase == SOLVE:
                return self._solve(*things, *sides, settings)
            return self._factor(phase, *things, settings)
        finally:
            self._busy.release()

    # ---- numbers ----

    def _matrices(self, A, items) -> np.ndarray:
        """(items, n, n) dense."""
        start, index = array(A.start, A.n + 1, np.int32), array(A.index, A.nnz, np.int32)
        rows = np.repeat(np.arange(A.n), np.diff(start))
        assert (np.diff(start) >= 0).all() and start[-1] == A.nnz
        values = array(A.values, items * A.nnz, A.dtype).reshape(items, A.nnz)
        wide = np.complex128 if np.dtype(A.dtype).kind == "c" else np.float64
        D = np.zeros((items, A.n, A.n), wide)
        D[:, rows, index] = values
        if A.mtype != GENERAL:
            assert A.view == 2 and (index >= rows).all(), "the upper triangle alone"
            upper = np.triu(D, 1).transpose(0, 2, 1)
            D += upper if A.mtype in (SYMMETRIC, SPD) else upper.conj()
        return D

    def _factor(self, phase, data, A, settings) -> int:
        batch = settings.get(18, 1)
        data.n = A.n
        if phase == ANALYSIS:
            data.state, data.batch, data.structure = "analysed", batch, (A.start, A.index, A.nnz)
            return 0
        assert data.state != "new", "factored before it was analysed"
        assert data.batch == batch, "UBATCH_SIZE was changed after the analysis"
        assert data.structure == (A.start, A.index, A.nnz), "not the structure that was analysed"
        if phase == REFACTORIZATION:
            assert data.state == "factored", "refactored before it was factored"
        data.state = "factored"
        data.values = array(A.values, batch * A.nnz, A.dtype).copy()
        data.solver = []
        for D in self._matrices(A, batch):
            data.solver.append(self._one(D, A.mtype, data))
        data.weak = self.weak_refactorisation and phase == REFACTORIZATION
        return 0

    def _one(self, D, mtype, data):
        bad = not np.isfinite(D).all()
        if not bad and mtype in (SPD, HPD):
            bad = np.linalg.eigvalsh(D).min() <= 0
        if bad:
            data.info = data.info or 1  # and it stays, until it is reset
            return None
        top = np.abs(D).max(1, initial=0.0)
        r = 1 / np.where(top > 0, top, 1)
        top = (np.abs(D) * r[:, None]).max(0, initial=0.0)
        c = 1 / np.where(top > 0, top, 1)
        with np.errstate(all="ignore"):
            lu, pivots = scipy.linalg.lu_factor(D * r[:, None] * c, check_finite=False)
        small = np.abs(np.diagonal(lu)) == 0
        if small.any():
            lu[np.flatnonzero(small), np.flatnonzero(small)] = 1e-13
            data.info = data.info or (0 if self.blind else 1)
        return lu, pivots, r, c

    def _solve(self, data, A, x, b, settings) -> int:
        assert data.state == "factored", "solved before it was factored"
        now = array(A.values, len(data.values), A.dtype)
        assert now.tobytes() == data.values.tobytes(), "A's values changed or are gone"
        assert (x.n, x.k, b.n, b.k) == (A.n, b.k, A.n, b.k)
        assert x.dtype == b.dtype == A.dtype
        mode = settings.get(4, 0)
        self.modes.append(mode)
        if self.version[0] < 1:
            mode = 0  # accepts it, and does nothing
        elif A.mtype in (HERMITIAN, HPD) and mode == 1 and np.dtype(A.dtype).kind == "c":
            return 4
        self.columns.append(b.k)
        count = data.batch * b.k * A.n
        B, X = (array(side.values, count, A.dtype).reshape(data.batch, b.k, A.n) for side in (b, x))
        for i, solver in enumerate(data.solver):
            with np.errstate(all="ignore"):
                X[i] = self._answer(solver, B[i].T, mode).T
            if data.weak or self.error:
                X[i] *= 1 + (self.error or 1e-2) * np.random.default_rng(0).standard_normal(X[i].shape)
        if self.version[0] < 1 and data.batch >= 16 and b.k > 1:
            X[:, 4:] += 1
        return 0

    def _answer(self, solver, b, mode):
        if solver is None:
            return np.full(b.shape, np.nan)
        lu, pivots, r, c = solver
        if mode:
            r, c = c, r
        y = scipy.linalg.lu_solve((lu, pivots), b * r[:, None], trans=mode, check_finite=False)
        return y * c[:, None]
