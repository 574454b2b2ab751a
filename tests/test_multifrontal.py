"""The multifrontal engine by itself: against dense references, and what it promises beyond the laws."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from cases import grid, neumann
from definite import (
    EPS,
    METHOD,
    SMALL,
    analysed,
    backward_error,
    close,
    each_dtype,
    everything,
    factored,
    laplacian,
    matrix,
    needs_engine,
    rescaled,
    rhs,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

import sparse_solver as ss
from sparse_solver.engines import Declined

pytestmark = needs_engine
f64 = torch.float64


# ---- dense references ----


@each_dtype
@pytest.mark.parametrize("name", SMALL)
def test_every_ability_against_dense_numpy(name, dtype):
    A = matrix(name, dtype)
    wide = np.complex128 if dtype.is_complex else np.float64
    D = A.to_dense().numpy().astype(wide)
    inverse = np.linalg.inv(D)
    condition = np.linalg.norm(D, 1) * np.linalg.norm(inverse, 1)
    eps = EPS[dtype] * condition
    F = factored(A, 2)
    for k in ((), (1,), (3,), (16,), (33,), (70,), (0,)):
        b = rhs(A, *k)
        for transposed, M in ((False, inverse), (True, inverse.T)):
            x = F.solve(b, transposed)
            assert x.shape == b.shape
            assert x.dtype == b.dtype
            assert x.size == 0 or close(x, M @ b, eps, 100)
        once, twice = F.half_solve(b), F.half_solve(F.half_solve(b), adjoint=True)
        assert once.dtype == b.dtype
        assert b.size == 0 or close(twice, inverse @ b, eps, 100)
        if b.size:  # |W b|^2 = b^H A^-1 b
            size = np.einsum("i...,i...", b.conj(), inverse @ b).real
            assert np.allclose((np.abs(once.astype(wide)) ** 2).sum(0), size, rtol=1e3 * eps)
    W = F.half_solve(np.eye(len(D), dtype=A.values.numpy().dtype))
    assert close(W.conj().T.astype(wide) @ W.astype(wide), inverse, eps, 100)
    sign, logabs = F.slogdet()
    assert sign == 1
    assert abs(logabs - np.linalg.slogdet(D)[1]) <= 100 * eps * len(D)
    Z = F.selected_inverse()
    assert Z.dtype == F.dtype
    assert close(Z, inverse[A.pattern.rows.numpy(), A.pattern.cols.numpy()], eps, 100)
    assert F.inertia == (len(D), 0, 0)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 70),
    density=st.floats(0, 0.5),
    seed=st.integers(0, 2**31),
    threads=st.integers(1, 3),
    cplx=st.booleans(),
    columns=st.integers(0, 5),
)
def test_random_definite_matrices(n, density, seed, threads, cplx, columns):
    rng = np.random.default_rng(seed)
    B = sp.random_array((n, n), density=density, rng=rng, data_sampler=rng.standard_normal)
    if cplx:
        B = B * np.exp(2j * np.pi * rng.random())
        B.data *= np.exp(2j * np.pi * rng.random(B.nnz))
    B = sp.coo_array(B + B.conj().T)
    B.setdiag(0)  # also zeros that are stored
    d = np.abs(B).sum(axis=1) + 0.1 + rng.random(n)
    rows = np.r_[B.coords[0], np.arange(n), np.arange(n)]
    cols = np.r_[B.coords[1], np.arange(n), np.arange(n)]
    v = np.r_[B.data, 0.25 * d, 0.75 * d]
    p = rng.permutation(len(v))
    A = ss.Pattern(rows[p], cols[p], (n, n)).assemble(torch.from_numpy(v[p]))
    D = np.zeros((n, n), v.dtype)
    np.add.at(D, (rows, cols), v)
    F = factored(A, threads)
    b = rng.standard_normal((n, columns)).astype(v.dtype)
    inverse, eps = np.linalg.inv(D), 1e-14 * np.linalg.cond(D)
    assert b.size == 0 or close(F.solve(b), inverse @ b, eps)
    assert abs(F.slogdet()[1] - np.linalg.slogdet(D)[1]) <= 1e3 * eps * n
    at = A.pattern.rows.numpy(), A.pattern.cols.numpy()
    assert close(F.selected_inverse(), inverse[at], eps)


@pytest.mark.parametrize("name", ["grid_16_3d", "grid_22_3d", "full_400"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64], ids=["float64", "complex64"])
def test_columns_of_a_block_are_those_solved_alone(name, dtype):
    A = matrix(name, dtype)
    F, b = factored(A, 2), rhs(A, 70)
    M = sp.csr_array(
        (A.values.numpy(), (A.pattern.rows.numpy(), A.pattern.cols.numpy())), shape=A.shape
    )
    alone = np.stack([F.solve(b[:, c].copy()) for c in range(b.shape[1])], axis=1)
    for k in (2, 5, 8, 9, 24, 70):
        given = b[:, :k].copy()
        x = F.solve(given)
        assert close(x, alone[:, :k], EPS[dtype], 1e4), k
        assert np.abs(M @ x - given).max() <= 1e3 * EPS[dtype] * np.abs(x).max() * abs(M).max()
        adjoint = F.half_solve(F.half_solve(given), adjoint=True)
        assert close(adjoint, x, EPS[dtype], 1e4), k


# ---- what is not definite ----


@pytest.mark.parametrize("name", ["hub", "forest", "full_400", "grid_30", "chain", "grid_16_3d"])
def test_the_pivot_that_failed_is_named_in_the_users_numbering(name):
    A = matrix(name)
    rows, cols, n = A.pattern.rows, A.pattern.cols, A.shape[0]
    for k in (0, n // 3, n - 1):
        v = torch.where((rows == k) | (cols == k), 0.0, A.values)  # coupled to nobody, so that
        v[(rows == k) & (cols == k)] = -1.0  # no other pivot can fail
        B = ss.SparseMatrix(A.pattern, v)
        for threads in (1, 3):
            with pytest.raises(Declined) as info:
                factored(B, threads)
            assert info.value.index == k
    shifted = A.add_diagonal(-0.9 * A.diagonal().mean().item())
    symbolic, found = analysed(shifted), set()
    for threads in (1, 1, 2, 3, 4):
        with pytest.raises(Declined) as info:
            factored(shifted, threads, symbolic)
        found.add(info.value.index)
    assert len(found) == 1
    # A factorisation that failed leaves nothing behind.
    F, b = factored(A, 2, symbolic), rhs(A, 2)
    assert everything(F, b) == everything(factored(A), b)


@pytest.mark.parametrize("n", [200, 21_000])
def test_indefinite_and_unsymmetric_matrices_are_refused(n):
    A = laplacian(n, 1).tolil()
    k = 2 * n // 3
    A[k, :], A[:, k] = 0, 0
    A[k, k] = -2.0
    A = ss.SparseMatrix.from_scipy(A.tocsr())
    b = torch.ones(n, dtype=f64)
    for assume in ("auto", "symmetric", "spd"):
        with pytest.raises(ss.NotPositiveDefiniteError) as info:
            ss.solve(A, b, assume=assume, method=METHOD)
        assert info.value.index == k
        _, code = ss.solve_ex(A, b, assume=assume, method=METHOD)
        assert code.item() == k + 1
    with pytest.raises(ValueError) as info:
        ss.solve(A, b, assume="general", method=METHOD)
    for word in ("multifrontal", "A = A^H", "general", f"({n}, {n})", "method=Direct()"):
        assert word in str(info.value)
    skew = ss.SparseMatrix(A.pattern, A.values * (1 + 0.1 * (A.pattern.rows < A.pattern.cols)))
    symmetric = A.to(torch.complex128) * (1 + 0.1j)
    for M in (skew, symmetric):
        with pytest.raises(ValueError, match="multifrontal"):
            ss.factorize(M, method=METHOD)
    assert ss.engines()[0].kinds == ("hermitian", "spd")


@pytest.mark.parametrize("assume", ["auto", "spd"])
@pytest.mark.parametrize("missing", [False, True], ids=["zero", "absent"])
def test_a_zero_on_the_diagonal(assume, missing):
    D = torch.tensor([[2.0, 1, 0], [1, 0, 1], [0, 1, 2]], dtype=f64)
    at = (D != 0 if missing else (D != 0) | torch.eye(3, dtype=torch.bool)).nonzero().T
    A = ss.SparseMatrix(ss.Pattern(*at, (3, 3)), D[at[0], at[1]])
    with pytest.raises(ss.NotPositiveDefiniteError) as info:
        ss.solve(A, torch.ones(3, dtype=f64), assume=assume, method=METHOD)
    assert info.value.index == 1


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("m", [4, 9, 14])
def test_a_semidefinite_matrix_is_refused(d, m):
    A = ss.SparseMatrix.from_scipy(neumann(m, d))
    b = torch.randn(m**d, dtype=f64)
    for assume in ("auto", "spd"):
        with pytest.raises((ss.SingularMatrixError, ss.NotPositiveDefiniteError)):
            ss.solve(A, b, assume=assume, method=METHOD)
        assert ss.solve_ex(A, b, assume=assume, method=METHOD)[1].item() > 0


def test_nothing_to_factor():
    none = torch.zeros(0, dtype=torch.int64)
    A = ss.Pattern(none, none, (0, 0)).assemble(torch.zeros(0, dtype=f64))
    assert ss.solve(A, torch.zeros(0, 3, dtype=f64), method=METHOD).shape == (0, 3)


# ---- several at once ----


@pytest.mark.parametrize("threads", [1, 2])
def test_one_plan_used_from_several_threads_at_once(threads):
    A = matrix("grid_16_3d")
    symbolic, b = analysed(A), rhs(A, 3)
    each = [rescaled(A, seed) for seed in range(4)]
    alone = [everything(factored(M, threads, symbolic), b) for M in each]
    shared = factored(A, threads, symbolic)
    truth = everything(shared, b)
    start = threading.Barrier(4)

    def work(i: int) -> bool:
        start.wait()
        for _ in range(4):
            if everything(factored(each[i], threads, symbolic), b) != alone[i]:
                return False
            if everything(shared, b) != truth:
                return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4), timeout=120))


@pytest.mark.parametrize("threads", [1, 2])
def test_blas_has_its_threads_back(threads):
    from threadpoolctl import threadpool_info, threadpool_limits

    def now() -> list[int]:
        return [lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"]

    A = matrix("full_400")
    with threadpool_limits(2, user_api="blas"):
        before = now()
        F = factored(A, threads)
        F.solve(rhs(A, 3))
        F.selected_inverse()
        with pytest.raises(Declined):
            factored(-1.0 * A, threads)
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda _: factored(A, threads).solve(rhs(A)), range(12)))
        assert now() == before


# ---- derivatives ----


@pytest.mark.parametrize("dtype", [f64, torch.complex128], ids=["float64", "complex128"])
def test_derivatives(dtype):
    from small import small

    S = small("spd", dtype)

    def solve(w, b):
        return S.solve(w, b, method=METHOD)

    inputs = S.param(), S.rhs(2)
    assert gradcheck(solve, inputs, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(solve, (S.param(), S.rhs()), check_fwd_over_rev=True)


def test_a_gradient_through_fronts_that_call_blas():
    A = matrix("grid_16_3d")
    v, b = A.values.clone().requires_grad_(), torch.randn(A.shape[0], dtype=f64, requires_grad=True)
    g = torch.randn(A.shape[0], dtype=f64)
    results = []
    for engine in ("multifrontal", "superlu"):
        x = ss.solve(ss.SparseMatrix(A.pattern, v), b, method=ss.Direct(engine=engine))
        results.append(torch.autograd.grad(x, (v, b), g))
    for got, true in zip(*results, strict=True):
        assert torch.allclose(got, true, rtol=1e-9, atol=1e-12)


@each_dtype
@pytest.mark.parametrize("size", [70, 78])
def test_shared_fronts_of_few_rows_and_several_blocks(size, dtype):
    """A chain of dense blocks: fronts above the subtrees that are wide, but too small for BLAS."""
    chain = np.eye(24) + np.eye(24, k=1) + np.eye(24, k=-1)
    B = sp.csr_array(np.kron(chain, np.ones((size, size))))
    B.data = np.random.default_rng(0).uniform(-1, 1, B.nnz)
    B = B + B.T
    A = ss.SparseMatrix.from_scipy(sp.csr_array(B + sp.diags_array(abs(B).sum(axis=1) + 1))).to(dtype)
    symbolic = analysed(A)
    F = symbolic.handle[0].fronts
    w, r = np.diff(F.column)[F.top :], np.diff(F.start)[F.top :]
    assert ((w > 64) & (r > 0) & (w + r <= 160)).any()
    b = rhs(A)
    for threads in (1, 2):
        x = factored(A, threads, symbolic).solve(b)
        assert backward_error(A, x, b) <= 10 * EPS[dtype]


@each_dtype
def test_fronts_of_every_shape(dtype):
    """Two dense blocks of w columns above one of r: every remainder that vectors and strips leave."""
    rng = np.random.default_rng(0)
    shapes = [(w, r) for w in (1, 3, 4, 6, 9) for r in (1, 2, 5, 7, 8, 12, 15, 23)]
    shapes += [(8 + r % 7, r) for r in range(60, 86)] + [(70, 310), (37, 333), (5, 481)]
    for w, r in shapes:
        L = np.zeros((2 * w + r, 2 * w + r))
        for first in (0, w):
            block = np.r_[first : first + w, 2 * w : 2 * w + r]
            L[np.ix_(block, block)] += rng.uniform(-1, 1, (w + r, w + r))
        D = L + L.T
        np.fill_diagonal(D, np.abs(D).sum(1) + 1)
        A = ss.SparseMatrix.from_scipy(sp.csr_array(D)).to(dtype)
        b = rhs(A)
        x = factored(A, 1).solve(b)
        assert backward_error(A, x, b) <= 10 * EPS[dtype], (w, r)


def test_a_thin_grid_solved_by_its_definition():
    """No reference at all: A x = b with an integer x."""
    A = ss.SparseMatrix.from_scipy(sp.csr_array(grid(30)))
    x = torch.arange(900, dtype=f64)
    assert torch.allclose(ss.solve(A, A @ x, method=METHOD), x, rtol=1e-12)
