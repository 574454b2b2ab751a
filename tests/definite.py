"""Definite matrices by structure, and the multifrontal engine asked directly."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from cases import DTYPES, grid, phases

import sparse_solver as ss
from sparse_solver.engines import REGISTRY, Numeric

ENGINE = REGISTRY["multifrontal"]
needs_engine = pytest.mark.skipif(ENGINE.why_not() is not None, reason=str(ENGINE.why_not()))
METHOD = ss.Direct(engine="multifrontal")
EPS = {d: torch.finfo(d).eps for d in DTYPES}
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).split(".")[1])


def dominant(pairs: np.ndarray, n: int, seed: int = 0) -> sp.csr_array:
    """Random weights on the edges, and diagonals somewhat larger than what they add up to."""
    rng = np.random.default_rng(seed)
    i, j = pairs
    W = sp.coo_array((rng.uniform(-1, 1, len(i)), (i, j)), shape=(n, n))
    W = sp.csr_array(W + W.T)
    return sp.csr_array(W + sp.diags_array(np.abs(W).sum(axis=1) + 0.1 + rng.random(n)))


def edges(*lists: tuple) -> np.ndarray:
    return np.concatenate([np.broadcast_arrays(*pair) for pair in lists], axis=1)


def forest() -> sp.csr_array:
    """Components of every size from 1 on, in a mixed order, and a grid."""
    chains = [dominant(edges((np.arange(k - 1), np.arange(1, k))), k, k) for k in range(1, 20)]
    A = sp.csr_array(sp.block_diag([*chains, grid(12) + 0.1 * sp.eye_array(144), *chains]))
    p = np.random.default_rng(0).permutation(A.shape[0])
    return sp.csr_array(A[p][:, p])


def hub() -> sp.csr_array:
    """A random tree, some of whose nodes are all joined to one."""
    rng, n = np.random.default_rng(1), 500
    i = np.arange(1, n)
    parent = (i * rng.random(n - 1)).astype(int)
    return dominant(edges((i, parent), (rng.choice(np.arange(2, n), 200, False), 1)), n)


def arrow() -> sp.csr_array:
    n = 400  # towards three tips, one of them last
    i = np.arange(3, n - 1)
    return dominant(edges((i, 0), (i, 2), (i, n - 1)), n)


def scattered() -> sp.csr_array:
    rng = np.random.default_rng(2)
    i, j = rng.integers(0, 400, (2, 700))
    return dominant(np.array([i, j])[:, i != j], 400)


def full(n: int) -> sp.csr_array:
    B = np.random.default_rng(n).standard_normal((n, n + 20))
    return sp.csr_array(B @ B.T / n + 0.1 * np.eye(n))


def laplacian(m: int, d: int) -> sp.csr_array:
    return sp.csr_array(grid(m, d) + 0.05 * sp.eye_array(m**d))


STRUCTURES: dict[str, Callable[[], sp.csr_array]] = {
    "one": lambda: sp.csr_array([[3.0]]),
    "two": lambda: sp.csr_array([[3.0, 1.0], [1.0, 2.0]]),
    "diagonal": lambda: sp.csr_array(sp.diags_array(10.0 ** np.linspace(-6, 6, 50)[::-1])),
    "chain": lambda: laplacian(10_000, 1),
    "arrow": arrow,
    "hub": hub,
    "forest": forest,
    "scattered": scattered,
    "full_40": lambda: full(40),
    "full_400": lambda: full(400),  # one front, above the size at which BLAS is called
    "grid_30": lambda: laplacian(30, 2),
    "grid_100": lambda: laplacian(100, 2),
    "grid_9_3d": lambda: laplacian(9, 3),
    "grid_16_3d": lambda: laplacian(16, 3),
    "grid_22_3d": lambda: laplacian(22, 3),
}
SMALL = ("one", "two", "diagonal", "arrow", "hub", "forest", "scattered", "full_40", "full_400")
SMALL = (*SMALL, "grid_30", "grid_9_3d")  # those that a dense reference is made for


@cache
def matrix(name: str, dtype: torch.dtype = torch.float64) -> ss.SparseMatrix:
    """Definite, Hermitian with phases where complex; from shuffled triplets, some given in parts."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    A = phases(STRUCTURES[name](), rng, dtype.is_complex)
    rows, cols, v = A.coords[0].astype(np.int64), A.coords[1].astype(np.int64), A.data
    again = np.flatnonzero(rng.random(A.nnz) < 0.1)
    rows, cols = np.r_[rows, rows[again]], np.r_[cols, cols[again]]
    v = np.r_[v, 0.5 * v[again]]
    v[again] = v[again] * 0.5
    p = rng.permutation(len(v))
    P = ss.Pattern(rows[p], cols[p], A.shape)
    return P.assemble(torch.from_numpy(v[p]).to(dtype))


def rescaled(A: ss.SparseMatrix, seed: int) -> ss.SparseMatrix:
    """D A D with a diagonal D over eight orders: as definite as A."""
    g = torch.Generator().manual_seed(seed)
    d = 10.0 ** (8 * torch.rand(A.shape[0], generator=g, dtype=torch.float64) - 4)
    rows, cols = A.pattern.rows, A.pattern.cols
    return ss.SparseMatrix(A.pattern, (A.values * (d[rows] * d[cols])).to(A.dtype))


def analysed(A: ss.SparseMatrix):
    return ENGINE.analyze(A.pattern, "cholesky", A.values.numpy(), 1)


def factored(A: ss.SparseMatrix, threads: int = 1, symbolic=None, recycle=None):
    """A Numeric of the engine itself: no planner, no refinement in between."""
    symbolic = symbolic or analysed(A)
    return ENGINE.factorize(symbolic, A.values.numpy(), threads, recycle)


def backward_error(A: ss.SparseMatrix, x, b) -> float:
    """Normwise, in double precision, without a dense matrix."""
    wide = np.complex128 if A.dtype.is_complex else np.float64
    S = A.to_scipy().astype(wide)
    x, b = np.asarray(x, wide).reshape(len(x), -1), np.asarray(b, wide).reshape(len(b), -1)
    r = np.abs(b - S @ x).max(0)
    norm = np.abs(S).sum(axis=1).max()
    return float((r / (norm * np.abs(x).max(0) + np.abs(b).max(0))).max())


def close(got, true, eps: float, factor: float = 1e3) -> bool:
    """Whether the error is at most factor x eps of the largest entry."""
    return bool(np.abs(got - true).max() <= factor * eps * np.abs(true).max())


def rhs(A: ss.SparseMatrix, *shape: int) -> np.ndarray:
    """A random right-hand side."""
    return torch.randn(A.shape[0], *shape, dtype=A.dtype).numpy()


def everything(F: Numeric, b: np.ndarray) -> list[bytes]:
    """The bits of all that a factor answers."""
    found = F.solve(b), F.solve(b[:, 0].copy(), True), F.half_solve(b), F.half_solve(b, True)
    return [a.tobytes() for a in (*found, F.selected_inverse(), np.array(F.slogdet()))]
