"""solve: shapes, layouts, dtypes, modes and what is in force around the call."""

from __future__ import annotations

import pytest
import torch
from cases import BY_NAME, DTYPES
from conformance import each_dtype, system
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import LAYOUTS, assert_solves, inv_solve, to_layout

import sparse_solver as ss

MODES = ({}, {"transpose": True}, {"adjoint": True})


def problem(n: int, dtype=torch.float64, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    D = torch.randn(n, n, generator=g, dtype=dtype)
    D = D * (torch.rand(n, n, generator=g) < 0.4)
    return D + 4 * torch.eye(n, dtype=dtype)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    n=st.integers(0, 7),
    k=st.none() | st.integers(0, 4),
    layout=st.sampled_from(LAYOUTS),
    index_dtype=st.sampled_from([torch.int32, torch.int64]),
    dtype=st.sampled_from(DTYPES),
    mode=st.sampled_from(MODES),
    seed=st.integers(0, 3),
)
def test_every_shape_layout_and_dtype(n, k, layout, index_dtype, dtype, mode, seed):
    D = problem(n, dtype, seed)
    A = to_layout(D, layout, index_dtype)
    b = torch.randn((n,) if k is None else (n, k), dtype=dtype)
    x = ss.solve(A, b, **mode)
    assert x.shape == b.shape
    assert x.dtype == dtype
    assert x.layout == torch.strided
    assert_solves(D, x, b, **mode)


@pytest.mark.parametrize("shape", [(0,), (0, 1), (0, 3)])
def test_no_unknowns(shape):
    none = torch.zeros(0, dtype=torch.int64)
    v = torch.zeros(0, dtype=torch.float64, requires_grad=True)
    b = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    x = ss.solve(ss.Pattern(none, none, (0, 0)).assemble(v), b)
    assert x.shape == shape
    x.sum().backward()
    assert v.grad.shape == (0,)
    assert b.grad.shape == shape


def test_no_right_hand_sides():
    A, _, _ = system(BY_NAME["general"], torch.float64)
    v = A.values.clone().requires_grad_()
    b = torch.zeros(40, 0, dtype=torch.float64, requires_grad=True)
    x = ss.solve(ss.SparseMatrix(A.pattern, v), b)
    assert x.shape == (40, 0)
    x.sum().backward()
    assert torch.equal(v.grad, torch.zeros_like(v))
    assert b.grad.shape == (40, 0)


def test_one_unknown():
    A = torch.tensor([[4.0]], dtype=torch.float64).to_sparse_csr()
    for shape in ((1,), (1, 1), (1, 5)):
        b = torch.full(shape, 8.0, dtype=torch.float64)
        assert torch.equal(ss.solve(A, b), b / 4)


def test_a_column_stays_a_column():
    A, D, b = system(BY_NAME["general"], torch.float64)
    x, X = ss.solve(A, b), ss.solve(A, b[:, None])
    assert x.shape == (40,)
    assert X.shape == (40, 1)
    assert torch.allclose(X[:, 0], x)


@pytest.mark.parametrize("view", ["transposed", "strided", "expanded", "flipped", "negative"])
def test_right_hand_sides_that_are_views(view):
    A, D, _ = system(BY_NAME["general"], torch.complex128)
    big = torch.randn(80, 80, dtype=torch.complex128)
    b = {
        "transposed": big[:3, :40].T,
        "strided": big[::2, ::7],
        "expanded": big[:40, :1].expand(40, 4),
        "flipped": big[:40, 0].flip(0),
        "negative": big.conj()[:40, :2].imag,
    }[view]
    for mode in MODES:
        assert_solves(D, ss.solve(A, b, **mode), b, **mode)


def test_conjugate_views():
    A, D, b = system(BY_NAME["general"], torch.complex128)
    assert_solves(D, ss.solve(A, b.conj()), b.conj().resolve_conj())
    Ac = ss.SparseMatrix(A.pattern, A.values.conj())
    assert_solves(D.conj(), ss.solve(Ac, b), b)


def test_values_that_are_views():
    rows, cols, values, n = BY_NAME["general"].triplets(torch.float64)
    P = ss.Pattern(rows, cols, (n, n))
    v = torch.stack([values, values + 1], 1)[:, 0]
    assert not v.is_contiguous()
    b = torch.randn(n, dtype=torch.float64)
    assert_solves(BY_NAME["general"].dense(torch.float64), ss.solve(P.assemble(v), b), b)


@each_dtype
def test_stored_zeros(dtype):
    A, D, b = system(BY_NAME["spd_zeros"], dtype)
    v = A.values.clone().requires_grad_()
    x = ss.solve(ss.SparseMatrix(A.pattern, v), b)
    assert_solves(D, x, b)
    (g,) = torch.autograd.grad(x.abs().sum(), v)
    assert g.shape == v.shape
    assert (g[v == 0] != 0).any()  # a stored zero is a variable like any other


def test_adjoint_and_transpose_together_is_refused():
    A, _, b = system(BY_NAME["general"], torch.float64)
    with pytest.raises(ValueError, match="(?s)adjoint.*transpose|transpose.*adjoint"):
        ss.solve(A, b, adjoint=True, transpose=True)
    with pytest.raises(ValueError):
        ss.factorize(A).solve(b, adjoint=True, transpose=True)


@pytest.mark.parametrize("wide,narrow", [("complex128", "float64"), ("complex64", "float32")])
@pytest.mark.parametrize("mode", MODES, ids=["N", "T", "H"])
def test_real_and_complex_may_meet(wide, narrow, mode):
    wide, narrow = getattr(torch, wide), getattr(torch, narrow)
    A, D, b = system(BY_NAME["general"], narrow, 2)
    C, E, c = system(BY_NAME["general"], wide, 2)
    for M, T, y in ((A, D, c), (C, E, b)):
        v = M.values.clone().requires_grad_()
        y = y.clone().requires_grad_()
        x = ss.solve(ss.SparseMatrix(M.pattern, v), y, **mode)
        assert x.dtype == wide
        assert_solves(T, x, y.detach().to(wide), **mode)
        x.abs().square().sum().backward()
        assert v.grad.dtype == v.dtype  # the gradient of a real A is real
        assert y.grad.dtype == y.dtype


@pytest.mark.parametrize("default", [torch.float32, torch.float64, torch.float16])
def test_the_default_dtype_does_not_matter(default):
    kept = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        for dtype in DTYPES:
            A, D, b = system(BY_NAME["general"], dtype)
            v = A.values.clone().requires_grad_()
            x = ss.solve(ss.SparseMatrix(A.pattern, v), b)
            assert x.dtype == dtype
            assert_solves(D, x, b)
            x.abs().sum().backward()
            assert v.grad.dtype == dtype
        assert torch.get_default_dtype() == default
    finally:
        torch.set_default_dtype(kept)


def test_the_default_device_does_not_matter():
    """A and b say where they are; "meta" stands for any device that is not theirs."""
    A, D, b = system(BY_NAME["general"], torch.float64)
    at, c = torch.tensor([3, 1]), torch.ones(2, dtype=torch.float64)
    M, half = A.to_torch(torch.sparse_csr), D.tril().to_sparse_csr()
    v = A.values.clone().requires_grad_()
    with torch.device("meta"):
        ss.clear_cache()
        ss.solve(ss.SparseMatrix(A.pattern, v), b).sum().backward()
        for x in (ss.solve(A, b), ss.solve(M, b), ss.factorize(A).solve(b), ss.solve_ex(A, b).x):
            assert_solves(D, x, b)
        assert torch.equal(ss.solve(A, b, fixed=(at, c))[at], c)
        assert torch.equal(ss.solve(A, b, fixed=([3, 1], c))[at], c)
        assert ss.factorize_ex(A)[1].device == b.device
        assert ss.analyze(A.pattern).factorize(A).solve(b).device == b.device
        assert torch.equal(A.add_diagonal(1.0).diagonal(), D.diagonal() + 1)
        assert torch.equal((A + A.T).to_dense(), D + D.T)
        assert torch.equal(ss.SparseMatrix.from_triangle(half).to_dense().tril(), D.tril())
        assert torch.equal(ss.SparseMatrix.from_scipy(A.to_scipy()).to_dense(), D)
        P = ss.Pattern([0, 1], [0, 1], (2, 2))
        assert torch.equal(ss.solve(P.assemble(c), c), c)
        H = torch.func.hessian(lambda w: ss.solve(ss.SparseMatrix(A.pattern, w), b).sum())(A.values)
    assert H.device == v.grad.device == b.device


def test_values_of_any_make():
    """Expanded, negated, a Parameter, under autocast, in deterministic mode."""
    rows, cols, values, n = BY_NAME["spd_grid"].triplets(torch.float32)
    P, b = ss.Pattern(rows, cols, (n, n)), torch.randn(n)
    D = BY_NAME["spd_grid"].dense(torch.float32)
    one = torch.tensor(2.0, requires_grad=True)
    diagonal = ss.Pattern(range(n), range(n), (n, n))
    x = ss.solve(diagonal.assemble(one.expand(n)), b)
    x.sum().backward()
    assert torch.allclose(x, b / 2)
    assert torch.allclose(one.grad, -b.sum() / 4)
    negated = torch.complex(torch.zeros_like(values), -values).conj().imag
    assert negated.is_neg()
    assert_solves(D, ss.solve(P.assemble(negated), b), b)
    p = torch.nn.Parameter(P.assemble(values).values.clone())
    torch.use_deterministic_algorithms(True)
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            x = ss.solve(ss.SparseMatrix(P, p), b)
            x.sum().backward()
            assert (ss.SparseMatrix(P, p) @ x).dtype == torch.float32
    finally:
        torch.use_deterministic_algorithms(False)
    assert_solves(D, x, b)
    assert p.grad.dtype == torch.float32


@pytest.mark.parametrize("scale", [1e-300, 1e-150, 1e150, 1e300])
def test_units_of_any_size(scale):
    A, D, b = system(BY_NAME["general"], torch.float64)
    true = inv_solve(D, b)
    assert torch.allclose(ss.solve(scale * A, scale * b), true)
    assert torch.allclose(ss.solve(A, scale * b) / scale, true)


def test_compressed_columns_in_any_order():
    """torch does not promise sorted columns, nor that each comes once."""
    b = torch.tensor([9.0, 4.0], dtype=torch.float64)
    for cols, v, D in (
        ([1, 0, 1], [5.0, 2.0, 4.0], [[2.0, 5.0], [0.0, 4.0]]),
        ([0, 0, 1], [1.0, 2.0, 4.0], [[3.0, 0.0], [0.0, 4.0]]),
    ):
        pointer, cols = torch.tensor([0, 2, 3]), torch.tensor(cols)
        v, D = (torch.tensor(t, dtype=torch.float64) for t in (v, D))
        A = torch.sparse_csr_tensor(pointer, cols, v, (2, 2), check_invariants=False)
        A.requires_grad_()
        x = ss.solve(A, b)
        assert torch.allclose(x, inv_solve(D, b))
        (G,) = torch.autograd.grad(x.sum(), A)
        lam = inv_solve(D, torch.ones_like(b), transpose=True)
        assert torch.allclose(G.values(), -lam[torch.tensor([0, 0, 1])] * x.detach()[cols])


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
def test_without_a_graph(guard):
    A, D, b = system(BY_NAME["general"], torch.float64)
    v = A.values.clone().requires_grad_()
    with guard():
        x = ss.solve(ss.SparseMatrix(A.pattern, v), b)
        y = ss.solve(2 * ss.SparseMatrix(A.pattern, v), b)  # values made inside
        F = ss.factorize(ss.SparseMatrix(A.pattern, v))
    assert not x.requires_grad
    assert_solves(D, x, b)
    assert_solves(2 * D, y, b)
    assert_solves(D, F.solve(b), b)
    x = ss.solve(ss.SparseMatrix(A.pattern, v), b)  # and then with one
    (g,) = torch.autograd.grad(x.sum(), v)
    assert torch.isfinite(g).all()


def test_a_matrix_made_in_inference_mode():
    with torch.inference_mode():
        A, D, b = system(BY_NAME["general"], torch.float64)
        assert_solves(D, ss.solve(A, b), b)
        assert_solves(3 * D, ss.solve(3 * A, b), b)
    assert_solves(D, ss.solve(A, b), b)


def test_gradient_needed_on_one_side_only():
    A, D, b = system(BY_NAME["general"], torch.float64)
    x_true = inv_solve(D, b)
    v = A.values.clone().requires_grad_()
    ss.solve(ss.SparseMatrix(A.pattern, v), b).sum().backward()
    lam = inv_solve(D, torch.ones_like(b), transpose=True)
    full = -torch.outer(lam, x_true)
    there = ss.SparseMatrix(A.pattern, v.grad).to_dense()
    assert torch.allclose(there[there != 0], full[there != 0])
    b = b.clone().requires_grad_()
    ss.solve(A, b).sum().backward()
    assert torch.allclose(b.grad, lam)


def test_the_views_of_a_matrix_solve_too():
    A, D, b = system(BY_NAME["general"], torch.complex128)
    for M, T in ((A.T, D.T), (A.mT, D.mT), (A.H, D.mH), (A.mH, D.mH)):
        assert_solves(T, ss.solve(M, b), b)
        assert_solves(T, ss.solve(M, b, adjoint=True), b, adjoint=True)
        assert_solves(T, ss.factorize(M).solve(b), b)


def test_a_few_larger_problems():
    from cases import grid

    A = ss.SparseMatrix.from_scipy(grid(40))
    b = torch.randn(1600, 3, dtype=torch.float64)
    x = ss.solve(A, b)
    assert torch.allclose(A @ x, b, atol=1e-9)
