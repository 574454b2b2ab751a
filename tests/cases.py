"""One table of small matrices. Every engine runs every row of it in every dtype.

A row is a structure (where the nonzeros are and how large) with the ``assume`` words that are
true of it. Add a row and every engine is tested on it; add an engine and it inherits the table.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import scipy.sparse as sp
import torch

REAL = (torch.float32, torch.float64)
COMPLEX = (torch.complex64, torch.complex128)
DTYPES = REAL + COMPLEX

GENERAL = ("general",)
SYMMETRIC = ("general", "symmetric")
HERMITIAN = ("general", "hermitian")
SPD = ("general", "hermitian", "spd")


@dataclass(frozen=True)
class Case:
    """``build(rng, cplx)`` gives COO triplets (stored zeros count, no duplicates)."""

    name: str
    build: Callable[[np.random.Generator, bool], sp.coo_array]
    real: tuple[str, ...] = GENERAL  # assume words that hold for the real matrix
    complex: tuple[str, ...] = GENERAL

    def words(self, dtype: torch.dtype) -> tuple[str, ...]:
        if dtype.is_complex:
            return self.complex
        return tuple(dict.fromkeys([*self.real, *(("symmetric",) if "spd" in self.real else ())]))

    def triplets(self, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
        """Rows, columns, values (in a shuffled order) and n."""
        r, c, v, n = _triplets(self.name, dtype.is_complex)
        return torch.from_numpy(r), torch.from_numpy(c), torch.from_numpy(v).to(dtype), n

    def dense(self, dtype: torch.dtype) -> torch.Tensor:
        r, c, v, n = self.triplets(dtype)
        return torch.zeros(n, n, dtype=dtype).index_put((r, c), v, accumulate=True)


@cache
def _triplets(name: str, cplx: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    rng = np.random.default_rng(zlib.crc32(name.encode()) + cplx)
    A = sp.coo_array(BY_NAME[name].build(rng, cplx))
    order = rng.permutation(A.nnz)
    rows, cols = A.coords[0][order].astype(np.int64), A.coords[1][order].astype(np.int64)
    return rows, cols, A.data[order], A.shape[0]


def random_like(rng: np.random.Generator, shape: int | tuple[int, ...], cplx: bool) -> np.ndarray:
    x = rng.standard_normal(shape)
    return x + 1j * rng.standard_normal(shape) if cplx else x


def grid(m: int, d: int = 2) -> sp.csr_array:
    """Dirichlet Laplacian of an m^d grid."""
    T = sp.diags_array([2.0 * np.ones(m), -np.ones(m - 1), -np.ones(m - 1)], offsets=[0, 1, -1])
    A = T
    for _ in range(d - 1):
        A = sp.kron(A, sp.eye_array(m)) + sp.kron(sp.eye_array(A.shape[0]), T)
    return sp.csr_array(A)


def neumann(m: int, d: int = 2) -> sp.csr_array:
    """Pure Neumann Laplacian of an m^d grid: singular, the constants are its null space."""
    A = grid(m, d)
    return sp.csr_array(A - sp.diags_array(A.sum(axis=1)))


def phases(A: sp.sparray, rng: np.random.Generator, cplx: bool) -> sp.coo_array:
    """P A P^H with unit phases P: keeps hermitian, definite and the spectrum."""
    A = sp.coo_array(A)
    if not cplx:
        return A
    p = np.exp(2j * np.pi * rng.random(A.shape[0]))
    values = A.data * (p[A.coords[0]] * p[A.coords[1]].conj())
    values[A.coords[0] == A.coords[1]] = A.data[A.coords[0] == A.coords[1]]
    return sp.coo_array((values, A.coords), shape=A.shape)


def with_pattern(A: sp.sparray, B: sp.sparray) -> sp.coo_array:
    """A with the nonzeros of B stored too, as exact zeros."""
    A, B = sp.coo_array(A), sp.coo_array(B)
    have = set(zip(*(c.tolist() for c in A.coords), strict=True))
    extra = [ij for ij in zip(*(c.tolist() for c in B.coords), strict=True) if ij not in have]
    r, c = (np.concatenate([A.coords[k], [ij[k] for ij in extra]]).astype(int) for k in (0, 1))
    return sp.coo_array((np.concatenate([A.data, np.zeros(len(extra))]), (r, c)), shape=A.shape)


def spd_grid(rng, cplx):
    return phases(grid(7) + 0.1 * sp.eye_array(49), rng, cplx)


def spd_zeros(rng, cplx):
    far = sp.random_array((36, 36), density=0.05, rng=rng)
    A = sp.coo_array(grid(6) + 0.1 * sp.eye_array(36))
    i, j = A.coords
    cut = ((i == 3) & (j == 4)) | ((i == 4) & (j == 3))
    A.data[cut] = 0.0  # a stored coupling of exactly zero
    return phases(with_pattern(A, far + far.T), rng, cplx)


def spd_badly_scaled(rng, cplx):
    d = sp.diags_array(10.0 ** rng.uniform(-4, 4, 36))
    return phases(d @ (grid(6) + 0.1 * sp.eye_array(36)) @ d, rng, cplx)


def symmetric_indefinite(rng, cplx):
    return sp.coo_array(grid(6) - (3.3 + (0.4j if cplx else 0)) * sp.eye_array(36))


def hermitian_indefinite(rng, cplx):
    return phases(grid(6) - 3.3 * sp.eye_array(36), rng, cplx)


def kkt(rng, cplx):
    K, m = grid(5) + 0.5 * sp.eye_array(25), 8
    C = sp.coo_array(sp.random_array((m, 25), density=0.15, rng=rng))
    C = sp.csr_array(C + sp.coo_array((np.ones(m), (np.arange(m), 3 * np.arange(m))), (m, 25)))
    return phases(sp.block_array([[K, C.T], [C, None]]), rng, cplx)


def swap(rng, cplx):
    one = np.exp(0.3j) if cplx else 1.0
    return sp.coo_array(([one, np.conj(one)], ([0, 1], [1, 0])), shape=(2, 2))


def zero_diagonal(rng, cplx):
    m = 8
    E = sp.csr_array(sp.random_array((m, m), density=0.2, rng=rng) + 2 * sp.eye_array(m))
    A = sp.coo_array(sp.block_array([[None, E], [E.T, None]]))
    return phases(with_pattern(A, sp.eye_array(2 * m)), rng, cplx)  # zeros stored


def general(rng, cplx):
    A = sp.coo_array(sp.random_array((40, 40), density=0.1, rng=rng) + sp.eye_array(40))
    A.data = random_like(rng, A.nnz, cplx) + 2.0 * (A.coords[0] == A.coords[1])
    return A


def unsymmetric_pattern(rng, cplx):
    A = sp.csr_array(general(rng, cplx))
    return sp.coo_array(A[rng.permutation(40)])  # the large entries are nowhere near the diagonal


def unsymmetric_values(rng, cplx):
    wind = sp.diags_array([0.8 * np.ones(35), -0.8 * np.ones(35)], offsets=[1, -1])
    A = sp.coo_array(grid(6) + wind.multiply(grid(6) != 0))
    A.data = A.data * np.exp(1j * rng.random(A.nnz)) if cplx else A.data
    return A


def complex_symmetric(rng, cplx):
    A = grid(6).astype(complex if cplx else float)
    k = 2.5 + rng.random(36) + (0.3j if cplx else 0)  # Helmholtz with absorption
    return sp.coo_array(A - sp.diags_array(k))


def diagonal(rng, cplx):
    sign = rng.choice([-1.0, 1.0], 20) * (np.exp(1j * rng.random(20)) if cplx else 1)
    return sp.coo_array(sp.diags_array(sign * 10.0 ** rng.uniform(-6, 6, 20)))


def permutation(rng, cplx):
    v = np.exp(2j * np.pi * rng.random(15)) if cplx else rng.choice([-1.0, 1.0], 15)
    return sp.coo_array((v, (np.arange(15), rng.permutation(15))), shape=(15, 15))


def one(rng, cplx):
    return sp.coo_array(([3.0 - (1j if cplx else 0)], ([0], [0])), shape=(1, 1))


def bad_rows(rng, cplx):
    d = sp.diags_array(10.0 ** rng.uniform(-8, 8, 40))
    return sp.coo_array(d @ general(rng, cplx))


def arrow(rng, cplx):
    n = 30
    A = sp.lil_array((n, n))
    A.setdiag(np.r_[float(n), 2.0 + rng.random(n - 1)])
    A[0, 1:] = A[1:, 0] = 0.7
    return phases(A, rng, cplx)


def many_blocks(rng, cplx):
    blocks = [random_like(rng, (k, k), cplx) + 3 * np.eye(k) for k in (1, 3, 2, 4, 1, 2, 1, 3)]
    A = sp.csr_array(sp.block_diag(blocks))
    p = rng.permutation(A.shape[0])
    return sp.coo_array(A[p][:, p])


def triangular(rng, cplx):
    A = sp.coo_array(sp.tril(general(rng, cplx)))
    A.data = np.where(A.coords[0] == A.coords[1], 2.0 + np.abs(A.data), A.data)
    return A


def circuit(rng, cplx):
    """Modified nodal analysis: conductances, voltage sources (zero diagonal), a controlled one."""
    n, m = 24, 4
    i = np.arange(n)
    j = (i + 1 + rng.integers(0, 5, n)) % n
    g = 10.0 ** rng.uniform(-3, 1, n) * (1 + (0.5j if cplx else 0))
    L = sp.coo_array((np.r_[g, g, -g, -g], (np.r_[i, j, i, j], np.r_[i, j, j, i])), shape=(n, n))
    G = L + 1e-3 * sp.eye_array(n)
    S = sp.coo_array((np.ones(m), (6 * np.arange(m), np.arange(m))), shape=(n, m)).tolil()
    C = S.T.tolil()
    C[1, 3] = -5.0  # gain of a controlled source: unsymmetric
    return sp.coo_array(sp.block_array([[G, S], [C, None]]))


def full(rng, cplx):
    return sp.coo_array(random_like(rng, (8, 8), cplx) + 2 * np.eye(8))


CASES = (
    Case("spd_grid", spd_grid, SPD, SPD),
    Case("spd_zeros", spd_zeros, SPD, SPD),
    Case("spd_badly_scaled", spd_badly_scaled, SPD, SPD),
    Case("arrow", arrow, SPD, SPD),
    Case("symmetric_indefinite", symmetric_indefinite, SYMMETRIC, SYMMETRIC),
    Case("hermitian_indefinite", hermitian_indefinite, SYMMETRIC, HERMITIAN),
    Case("complex_symmetric", complex_symmetric, SYMMETRIC, SYMMETRIC),
    Case("kkt", kkt, SYMMETRIC, HERMITIAN),
    Case("swap", swap, SYMMETRIC, HERMITIAN),
    Case("zero_diagonal", zero_diagonal, SYMMETRIC, HERMITIAN),
    Case("diagonal", diagonal, SYMMETRIC, SYMMETRIC),
    Case("permutation", permutation),
    Case("one", one, SPD, SYMMETRIC),
    Case("general", general),
    Case("unsymmetric_pattern", unsymmetric_pattern),
    Case("unsymmetric_values", unsymmetric_values),
    Case("bad_rows", bad_rows),
    Case("many_blocks", many_blocks),
    Case("triangular", triangular),
    Case("circuit", circuit),
    Case("full", full),
)
BY_NAME = {case.name: case for case in CASES}


def case_params() -> Iterator[tuple[Case, torch.dtype]]:
    return ((case, dtype) for case in CASES for dtype in DTYPES)
