"""Derivatives against a dense reference that is built by ``index_put`` and inverted."""

from __future__ import annotations

import pytest
import torch
from reference import inv_solve
from small import EXACT, KINDS, small
from torch.autograd import gradcheck, gradgradcheck

import sparse_solver as ss

MODES = ({}, {"transpose": True}, {"adjoint": True})
each_kind = pytest.mark.parametrize("kind", KINDS)
each_dtype = pytest.mark.parametrize("dtype", EXACT, ids=["float64", "complex128"])
each_mode = pytest.mark.parametrize("mode", MODES, ids=["N", "T", "H"])
each_rhs = pytest.mark.parametrize("shape", [(), (1,), (3,)], ids=["b", "b1", "b3"])


@each_kind
@each_dtype
@each_mode
@each_rhs
def test_first_order(kind, dtype, mode, shape):
    S = small(kind, dtype)
    w, b = S.param(), S.rhs(*shape)
    x, y = S.solve(w, b, **mode), S.truth(w, b, **mode)
    assert torch.allclose(x, y)
    g = torch.randn_like(y)
    for got, true in zip(
        torch.autograd.grad(x, (w, b), g), torch.autograd.grad(y, (w, b), g), strict=True
    ):
        assert got.dtype == true.dtype
        assert torch.allclose(got, true)


def _checks():
    """The rule is the same for every kind: all modes of complex ones for the general one alone."""
    for mode, name in zip(MODES, ("N", "T", "H"), strict=True):
        for dtype in EXACT:
            for kind in KINDS:
                slow = dtype.is_complex and kind != "general" and mode
                marks = [pytest.mark.slow] if slow else []
                yield pytest.param(kind, dtype, mode, id=f"{name}-{dtype}-{kind}", marks=marks)


@pytest.mark.parametrize(("kind", "dtype", "mode"), list(_checks()))
def test_gradcheck_in_both_directions_and_batched(kind, dtype, mode):
    S = small(kind, dtype)
    inputs = S.param(), S.rhs(2)
    checks = {
        "check_forward_ad": True,
        "check_batched_grad": True,
        "check_batched_forward_grad": True,
    }
    assert gradcheck(lambda w, b: S.solve(w, b, **mode), inputs, **checks)


@each_kind
@each_dtype
def test_gradgradcheck(kind, dtype):
    S = small(kind, dtype, n=3)
    inputs = S.param(), S.rhs()
    assert gradgradcheck(S.solve, inputs, check_fwd_over_rev=True, check_batched_grad=True)


@each_dtype
@each_mode
def test_gradgradcheck_of_every_mode(dtype, mode):
    S = small("general", dtype, n=3)
    inputs = S.param(), S.rhs(2)
    assert gradgradcheck(lambda w, b: S.solve(w, b, **mode), inputs, check_fwd_over_rev=True)


@each_kind
@each_dtype
def test_second_order_is_the_dense_one(kind, dtype):
    """Not only consistent with itself: the Hessian of a real function of (w, b)."""
    S = small(kind, dtype)
    w, b = S.param(), S.rhs(2)
    rows = []
    for solve in (S.solve, S.truth):
        f = solve(w, b).abs().pow(4).sum()
        g_w, g_b = torch.autograd.grad(f, (w, b), create_graph=True)
        h = g_w.abs().square().sum() + g_b.abs().square().sum()
        rows.append(torch.autograd.grad(h, (w, b), create_graph=True))
    for got, true in zip(*rows, strict=True):
        assert torch.allclose(got, true)
    third = [torch.autograd.grad(r[0].abs().square().sum(), w)[0] for r in rows]
    assert torch.allclose(*third)


@pytest.mark.parametrize("A_dtype,b_dtype", [EXACT, EXACT[::-1]], ids=["Ab=rc", "Ab=cr"])
@each_mode
def test_real_with_complex(A_dtype, b_dtype, mode):
    S = small("general", A_dtype)
    w, b = S.param(), S.rhs(2, dtype=b_dtype)

    def f(w, b):
        return S.solve(w, b, **mode)

    x, y = f(w, b), S.truth(w, b, **mode)
    g = torch.randn_like(y)
    got = torch.autograd.grad(x, (w, b), g)
    true = torch.autograd.grad(y, (w, b), g)
    assert [t.dtype for t in got] == [A_dtype, b_dtype]
    assert torch.allclose(got[0], true[0])
    assert torch.allclose(got[1], true[1])
    assert gradcheck(f, (w, b), check_forward_ad=True)


@each_dtype
def test_real_with_complex_to_second_order(dtype):
    S = small("general", torch.float64, n=3)
    assert gradgradcheck(S.solve, (S.param(), S.rhs(dtype=torch.complex128)))


@pytest.mark.parametrize("assume", ["auto", "general", "symmetric", "spd"])
@each_dtype
def test_the_gradient_is_that_of_an_unstructured_matrix(assume, dtype):
    """On the nonzeros: -lambda_i conj(x_j), whatever was assumed."""
    kind = "hermitian" if assume == "spd" and dtype.is_complex else assume
    S = small({"auto": "hermitian", "general": "hermitian"}.get(kind, kind), dtype)
    if assume == "spd":
        S = small("spd", dtype)
    v = S.matrix(S.w).values.clone().requires_grad_()
    b, g = S.rhs(2, grad=False), torch.randn(S.n, 2, dtype=dtype)
    x = ss.solve(ss.SparseMatrix(S.pattern, v), b, assume=assume)
    D = S.dense(S.w)
    full = -inv_solve(D, g, adjoint=True) @ inv_solve(D, b).mH
    (got,) = torch.autograd.grad(x, v, g)
    assert torch.allclose(got, full[S.pattern.rows, S.pattern.cols])


@each_dtype
@each_mode
def test_a_factor_differentiates_as_solve_does(dtype, mode):
    S = small("general", dtype, n=3)
    inputs = S.param(), S.rhs()

    def f(w, b):
        F = ss.factorize(S.matrix(w))
        return F.solve(F.solve(b, **mode))

    def true(w, b):
        return S.truth(w, S.truth(w, b, **mode))

    assert torch.allclose(f(*inputs), true(*inputs))
    assert gradcheck(f, inputs, check_forward_ad=True)
    assert gradgradcheck(f, inputs)


@each_dtype
def test_a_planned_factor_differentiates(dtype):
    S = small("general", dtype, n=3)
    plan = ss.analyze(S.matrix(S.w))
    assert gradcheck(lambda w, b: plan.factorize(S.matrix(w)).solve(b), (S.param(), S.rhs()))


@each_dtype
def test_solve_ex_differentiates(dtype):
    S = small("general", dtype, n=3)
    inputs = S.param(), S.rhs(2)
    assert gradcheck(lambda w, b: ss.solve_ex(S.matrix(w), b)[0], inputs)
    assert gradgradcheck(lambda w, b: ss.solve_ex(S.matrix(w), b)[0], inputs)


@each_dtype
@pytest.mark.parametrize("view", ["T", "mT", "H", "mH"])
def test_views_differentiate(dtype, view):
    S = small("general", dtype, n=3)
    inputs = S.param(), S.rhs()
    assert gradcheck(lambda w, b: ss.solve(getattr(S.matrix(w), view), b), inputs)
    assert gradgradcheck(lambda w, b: ss.solve(getattr(S.matrix(w), view), b), inputs)


def test_through_products_and_sums():
    S = small("general", n=3)
    d = torch.rand(3, dtype=torch.float64, requires_grad=True)

    def f(w, b, d):
        A = 2.0 * S.matrix(w) + S.matrix(w * w).T
        A = A.add_diagonal(d)
        x = ss.solve(A, b)
        return S.matrix(w) @ x

    assert gradcheck(f, (S.param(), S.rhs(), d), check_forward_ad=True)
    assert gradgradcheck(f, (S.param(), S.rhs(), d))


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr, torch.sparse_csc])
def test_gradcheck_through_torch_layouts(layout):
    """First derivatives flow through torch's own constructors too."""
    S = small("general")

    def f(w, b):
        return ss.solve(S.matrix(w).to_torch(layout), b)

    assert gradcheck(f, (S.param(), S.rhs(2)))


def test_float32_stays_float32():
    for kind in KINDS:
        for dtype in (torch.float32, torch.complex64):
            S = small(kind, dtype)
            w, b = S.param(), S.rhs()
            x = S.solve(w, b)
            g_w, g_b = torch.autograd.grad(x.abs().sum(), (w, b), create_graph=True)
            (h,) = torch.autograd.grad(g_w.abs().sum() + g_b.abs().sum(), w)
            assert x.dtype == g_w.dtype == g_b.dtype == h.dtype == dtype


def test_no_dense_matrix_is_made():
    """n = 60000: a dense n x n would be 29 GB."""
    n = 60000
    i = torch.arange(n)
    rows, cols = torch.cat([i, i[1:], i[:-1]]), torch.cat([i, i[:-1], i[1:]])
    P = ss.Pattern(rows, cols, (n, n))
    v = torch.cat([torch.full((n,), 4.0), -torch.ones(2 * n - 2)]).double().requires_grad_()
    b = torch.randn(n, dtype=torch.float64, requires_grad=True)
    x = ss.solve(P.assemble(v), b)
    g_v, g_b = torch.autograd.grad(x.square().sum(), (v, b), create_graph=True)
    (h,) = torch.autograd.grad(g_v.square().sum(), v)
    lam = g_b.detach()
    assert torch.allclose(g_v, -lam[rows] * x.detach()[cols])
    assert h.shape == (3 * n - 2,)
    A = torch.sparse_coo_tensor(torch.stack([rows, cols]), v.detach(), (n, n)).coalesce()
    A.requires_grad_()
    ss.solve(A, b).square().sum().backward()
    assert A.grad._nnz() == 3 * n - 2
