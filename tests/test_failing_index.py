"""Law 6: a failing index is the user's row or column, whatever the engine permuted."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from cases import grid
from conformance import GENERAL, each_dtype, each_engine, each_engine_for_definite, factors
from reference import assert_says

import sparse_solver as ss


def from_scipy(A, dtype=torch.float64) -> ss.SparseMatrix:
    A = sp.coo_array(A)
    rows, cols = (torch.from_numpy(c.astype(np.int64)) for c in A.coords)
    return ss.Pattern(rows, cols, A.shape).assemble(torch.from_numpy(A.data).to(dtype))


def grid_with_block(block: np.ndarray, at: tuple[int, int], m: int = 5) -> sp.csr_array:
    """A definite grid whose unknowns ``at`` are cut out and coupled by ``block`` only."""
    A = (grid(m) + 0.1 * sp.eye_array(m * m)).tolil()
    for i in at:
        A[i, :] = 0
        A[:, i] = 0
    for p, i in enumerate(at):
        for q, j in enumerate(at):
            A[i, j] = block[p, q]
    return sp.csr_array(A)


def caught(call, error=ss.SingularMatrixError):
    with pytest.raises(error) as info:
        call()
    return info.value


@each_engine
@each_dtype
@pytest.mark.parametrize("at", [(3, 17), (0, 24), (11, 12)])
def test_singular_block_is_found(engine, dtype, at):
    A = from_scipy(grid_with_block(np.ones((2, 2)), at), dtype)
    b = torch.ones(25, dtype=dtype)
    error = caught(lambda: ss.solve(A, b, method=ss.Direct(engine=engine)))
    assert error.index in at
    assert error.item is None
    x, info = ss.solve_ex(A, b, method=ss.Direct(engine=engine))
    assert info.item() - 1 in at
    assert x.isnan().all()


@each_engine
@each_dtype
@pytest.mark.parametrize("k", [0, 7, 19])
def test_zero_row_stored_as_zeros_is_found(engine, dtype, k):
    """Structurally regular, numerically a row of zeros."""
    rng = np.random.default_rng(k)
    D = rng.standard_normal((20, 20)) * (rng.random((20, 20)) < 0.2) + 3 * np.eye(20)
    i, j = np.nonzero(D)
    v = np.where(i == k, 0.0, D[i, j])
    A = from_scipy(sp.coo_array((v, (i, j)), shape=(20, 20)), dtype)
    error = caught(lambda: ss.factorize(A, method=ss.Direct(engine=engine)))
    assert error.index == k
    assert_says(error, f"row {k}")


@each_engine
@pytest.mark.parametrize("k", [0, 4, 9])
def test_zero_on_a_diagonal_matrix_is_found(engine, k):
    d = torch.linspace(1, 2, 10, dtype=torch.float64)
    d[k] = 0.0
    A = ss.Pattern(torch.arange(10), torch.arange(10), (10, 10)).assemble(d)
    error = caught(lambda: ss.solve(A, torch.ones_like(d), method=ss.Direct(engine=engine)))
    assert error.index == k


@each_engine
@pytest.mark.parametrize("what", ["row", "column"])
def test_empty_row_or_column(engine, what):
    D = torch.eye(5, dtype=torch.float64) * 2 + torch.diag(torch.ones(4, dtype=torch.float64), 1)
    if what == "row":
        D[1] = 0
    else:
        D[:, 1] = 0
    A = ss.SparseMatrix.from_torch(D.to_sparse_coo())
    error = caught(lambda: ss.solve(A, torch.ones(5).double(), method=ss.Direct(engine=engine)))
    assert error.index == 1
    assert_says(error, f"{what} 1 is empty")


def test_nothing_stored_and_a_stored_zero():
    none = torch.zeros(0, dtype=torch.int64)
    empty = ss.Pattern(none, none, (3, 3)).assemble(torch.zeros(0, dtype=torch.float64))
    error = caught(lambda: ss.solve(empty, torch.ones(3).double()))
    assert error.index == 0
    assert_says(error, "row 0 is empty")
    zero = torch.zeros(1, 1).to_sparse_csr()
    assert caught(lambda: ss.solve(zero, torch.ones(1))).index == 0
    zero = ss.Pattern([0], [0], (1, 1)).assemble(torch.zeros(1))
    assert caught(lambda: ss.solve(zero, torch.ones(1))).index == 0


@each_engine
def test_structurally_singular_without_an_empty_row(engine):
    """Three rows share two columns: no perfect matching."""
    rows = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3, 3, 3])
    cols = torch.tensor([0, 1, 0, 1, 0, 1, 0, 1, 2, 3])
    values = torch.rand(10, dtype=torch.float64)
    A = ss.Pattern(rows, cols, (4, 4)).assemble(values)
    error = caught(lambda: ss.solve(A, torch.ones(4).double(), method=ss.Direct(engine=engine)))
    assert error.index in range(4)
    assert_says(error, "structurally singular")


@each_engine_for_definite
@each_dtype
@pytest.mark.parametrize("k", [0, 5, 13, 24])
def test_first_leading_block_that_is_not_definite(engine, dtype, k):
    """The index of torch.linalg.cholesky_ex, counted from 0."""
    if not factors(engine, dtype):
        pytest.skip(f"{engine} does not factor {dtype}")
    A = (grid(5) + 0.1 * sp.eye_array(25)).tolil()
    A[k, k] = -0.5
    if k < 20:
        A[k + 3, k + 3] = -7.0  # a later, larger offence
    A = from_scipy(A, dtype)
    expected = torch.linalg.cholesky_ex(A.to_dense()).info.item() - 1
    method = ss.Direct(engine=engine)
    b = torch.ones(25, dtype=dtype)
    error = caught(lambda: ss.solve(A, b, assume="spd", method=method), ss.NotPositiveDefiniteError)
    assert error.index == expected == k
    assert_says(error, "positive definite")
    x, info = ss.solve_ex(A, b, assume="spd", method=method)
    assert info.item() == k + 1
    assert x.isnan().all()
    if engine in GENERAL:
        assert torch.isfinite(ss.solve(A, b, method=method).abs()).all()  # without the assumption
    else:
        error = caught(lambda: ss.solve(A, b, method=method), ss.NotPositiveDefiniteError)
        assert error.index == expected


@each_engine_for_definite
def test_not_definite_though_every_diagonal_entry_is_positive(engine):
    A = (grid(5) - 1.2 * sp.eye_array(25)).tocsr()
    A = from_scipy(A)
    expected = torch.linalg.cholesky_ex(A.to_dense()).info.item() - 1
    assert expected > 0
    error = caught(
        lambda: ss.factorize(A, assume="spd", method=ss.Direct(engine=engine)),
        ss.NotPositiveDefiniteError,
    )
    assert error.index == expected
