"""torch.func, forward mode and nesting: one rule must serve them all (points 1-5 of ten)."""

from __future__ import annotations

import pytest
import torch
from small import EXACT, small
from torch.autograd import forward_ad
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import sparse_solver as ss

each_dtype = pytest.mark.parametrize("dtype", EXACT, ids=["float64", "complex128"])
MODES = pytest.mark.parametrize(
    "mode", [{}, {"transpose": True}, {"adjoint": True}], ids=["N", "T", "H"]
)


def directions(S, *shape):
    draw = [torch.randn_like(S.w) for _ in range(2)]
    return draw + [torch.randn(S.n, *shape, dtype=S.w.dtype) for _ in range(2)]


@each_dtype
@MODES
@pytest.mark.parametrize("shape", [(), (2,)], ids=["b", "b2"])
def test_1_jvp_of_jvp(dtype, mode, shape):
    S = small("general", dtype)
    w, b = S.w, S.rhs(*shape, grad=False)
    w1, w2, b1, b2 = directions(S, *shape)

    def nested(solve):
        def f(w, b):
            return solve(w, b, **mode)

        def d_w(w, b):
            return jvp(lambda w: f(w, b), (w,), (w1,))[1]

        def d_b(w, b):
            return jvp(lambda b: f(w, b), (b,), (b1,))[1]

        return (
            jvp(lambda w: d_w(w, b), (w,), (w2,))[1],
            jvp(lambda b: d_w(w, b), (b,), (b2,))[1],
            jvp(lambda w: d_b(w, b), (w,), (w2,))[1],
            jvp(f, (w, b), (w1, b1))[1],
            jvp(lambda w, b: jvp(f, (w, b), (w1, b1))[1], (w, b), (w2, b2))[1],
        )

    for got, true in zip(nested(S.solve), nested(S.truth), strict=True):
        assert true.abs().max() > 1e-4
        assert torch.allclose(got, true)


def test_1_mixed_nests_of_forward_and_reverse():
    S = small("general")
    w, b = S.w, S.rhs(grad=False)
    w1, _, b1, _ = directions(S)

    def nested(solve):
        def f(w, b):
            return solve(w, b)

        def slope(w, b):
            return jvp(f, (w, b), (w1, b1))[1].square().sum()

        return (
            *grad(slope, argnums=(0, 1))(w, b),
            jacfwd(jacfwd(f))(w, b),
            jacrev(jacfwd(f))(w, b),
            jacfwd(jacrev(f))(w, b),
            jacrev(jacrev(f))(w, b),
            jacfwd(jacrev(f, argnums=1), argnums=0)(w, b),
            jacfwd(jacfwd(f, argnums=1), argnums=0)(w, b),
            hessian(lambda w: f(w, b).square().sum())(w),
            jvp(lambda w: grad(lambda w: f(w, b).square().sum())(w), (w,), (w1,))[1],
        )

    for got, true in zip(nested(S.solve), nested(S.truth), strict=True):
        assert true.abs().max() > 1e-4
        assert torch.allclose(got, true)


def test_1_against_a_finite_difference():
    """In case both the library and inv() were wrong."""
    S = small("general")
    b = S.rhs(grad=False)
    w1, w2, _, _ = directions(S)

    def first(w):
        return jvp(lambda w: S.solve(w, b), (w,), (w1,))[1]

    second = jvp(first, (S.w,), (w2,))[1]
    h = 1e-5
    difference = (first(S.w + h * w2) - first(S.w - h * w2)) / (2 * h)
    assert torch.allclose(second, difference, rtol=1e-6, atol=1e-8)


@each_dtype
def test_2_a_bare_dual_number(dtype):
    S = small("general", dtype)
    b = S.rhs(grad=False)
    w1, _, b1, _ = directions(S)
    for duals in ((w1, None), (None, b1), (w1, b1)):
        with forward_ad.dual_level():
            w_dual = S.w if duals[0] is None else forward_ad.make_dual(S.w, duals[0])
            b_dual = b if duals[1] is None else forward_ad.make_dual(b, duals[1])
            tangent = forward_ad.unpack_dual(S.solve(w_dual, b_dual)).tangent
            true = forward_ad.unpack_dual(S.truth(w_dual, b_dual)).tangent
            assert tangent is not None
            assert true.abs().max() > 1e-4
            assert torch.allclose(tangent, true)


@each_dtype
def test_2_a_dual_number_without_grad_mode(dtype):
    S = small("general", dtype)
    w1 = torch.randn_like(S.w)
    b = S.rhs(grad=False)
    with torch.no_grad(), forward_ad.dual_level():
        dual = forward_ad.make_dual(S.w, w1)
        tangent = forward_ad.unpack_dual(S.solve(dual, b)).tangent
        assert torch.allclose(tangent, forward_ad.unpack_dual(S.truth(dual, b)).tangent)


@each_dtype
def test_3_gradcheck_of_the_tangent(dtype):
    S = small("general", dtype, n=3)
    w1, _, b1, _ = directions(S)

    def tangent(w, b):
        return jvp(S.solve, (w, b), (w1, b1))[1]

    assert torch.autograd.gradcheck(tangent, (S.param(), S.rhs()))


def test_3_real_values_have_real_derivatives():
    S = small("general")
    b = S.rhs(dtype=torch.complex128, grad=False)
    g = grad(lambda w: S.solve(w, b).abs().square().sum())(S.w)
    assert g.dtype == torch.float64
    assert torch.allclose(g, grad(lambda w: S.truth(w, b).abs().square().sum())(S.w))
    H = hessian(lambda w: S.solve(w, b).abs().square().sum())(S.w)
    assert H.dtype == torch.float64
    assert torch.allclose(H, hessian(lambda w: S.truth(w, b).abs().square().sum())(S.w))


def loss_of(solve):
    return lambda w, b: solve(w, b).pow(3).sum()


def test_4_factorisations_under_transforms(counts):
    """One for everything that has one matrix; one block solve for a vmap over b."""
    S = small("general", n=6)
    b, B = S.rhs(grad=False), torch.randn(5, 6, dtype=torch.float64)
    f, true = loss_of(S.solve), loss_of(S.truth)
    for transform in (
        lambda f: grad(lambda w: grad(f)(w, b).square().sum())(S.w),
        lambda f: hessian(f)(S.w, b),
        lambda f: jacrev(f)(S.w, b),
        lambda f: jacfwd(f)(S.w, b),
        lambda f: jacrev(f, argnums=1)(S.w, b),
        lambda f: grad(lambda w: vmap(f, in_dims=(None, 0))(w, B).sum())(S.w),
        lambda f: vmap(grad(f), in_dims=(None, 0))(S.w, B),
        lambda f: vjp(f, S.w, b)[1](torch.tensor(1.0, dtype=torch.float64))[0],
    ):
        ss.clear_cache()
        counts.reset()
        got = transform(f)
        assert counts.factorisations == 1, counts
        assert torch.allclose(got, transform(true))


def test_4_vmap_over_b_is_one_block_solve(counts):
    S = small("general", n=6)
    A = S.matrix(S.w)
    B = torch.randn(7, 6, dtype=torch.float64)
    ss.solve(A, B[0])
    counts.reset()
    X = vmap(lambda b: ss.solve(A, b))(B)
    assert (counts.factorisations, counts.solves, counts.columns) == (0, 1, 7)
    assert torch.allclose(X, S.truth(S.w, B.T).T)
    blocks = torch.randn(3, 6, 2, dtype=torch.float64)
    counts.reset()
    X = vmap(lambda b: ss.solve(A, b))(blocks)
    assert (counts.solves, counts.columns) == (1, 6)
    assert torch.allclose(X, torch.stack([S.truth(S.w, b) for b in blocks]))


def test_4_vmap_over_values(counts):
    S = small("general", n=6)
    W = S.w + 0.1 * torch.randn(5, len(S.w), dtype=torch.float64)
    B = torch.randn(5, 6, dtype=torch.float64)
    for in_dims, call in (
        ((0, None), lambda f: vmap(f, in_dims=(0, None))(W, B[0])),
        ((0, 0), lambda f: vmap(f)(W, B)),
        ((1, 0), lambda f: vmap(f, in_dims=(1, 0))(W.T, B)),
        ((0, None), lambda f: vmap(grad(loss_of(f)), in_dims=(0, None))(W, B[0])),
        ((0, 0), lambda f: vmap(jacrev(f))(W, B)),
        ((0, 0), lambda f: vmap(jacfwd(f))(W, B)),
    ):
        ss.clear_cache()
        counts.reset()
        got = call(S.solve)
        assert counts.factorisations == 5, (in_dims, counts)
        assert counts.analyses <= 1
        assert torch.allclose(got, call(S.truth))


def test_4_nested_vmap():
    S = small("general")
    W = S.w + 0.1 * torch.randn(3, len(S.w), dtype=torch.float64)
    B = torch.randn(2, 4, dtype=torch.float64)

    def every_pair(solve):
        return vmap(lambda w: vmap(lambda b: solve(w, b))(B))(W)

    assert torch.allclose(every_pair(S.solve), every_pair(S.truth))
    swapped = vmap(lambda b: vmap(lambda w: S.solve(w, b))(W))(B)
    assert torch.allclose(swapped.transpose(0, 1), every_pair(S.truth))


@each_dtype
@MODES
def test_4_vmap_of_every_mode(dtype, mode):
    S = small("general", dtype)
    W = S.w + 0.1 * torch.randn(3, len(S.w), dtype=dtype)
    B = torch.randn(3, 4, 2, dtype=dtype)
    for in_dims in ((0, 0), (None, 0), (0, None)):
        w, b = (W if in_dims[0] == 0 else S.w), (B if in_dims[1] == 0 else B[0])
        got = vmap(lambda w, b: S.solve(w, b, **mode), in_dims=in_dims)(w, b)
        true = vmap(lambda w, b: S.truth(w, b, **mode), in_dims=in_dims)(w, b)
        assert torch.allclose(got, true)


def test_5_jacobians_of_torch_autograd_functional():
    S = small("general")
    b = S.rhs(grad=False)
    J = torch.autograd.functional.jacobian
    true = J(lambda w: S.truth(w, b), S.w)
    for options in ({}, {"vectorize": True}, {"vectorize": True, "strategy": "forward-mode"}):
        assert torch.allclose(J(lambda w: S.solve(w, b), S.w, **options), true)
    H = torch.autograd.functional.hessian
    loss = lambda solve: lambda w: solve(w, b).pow(3).sum()  # noqa: E731
    assert torch.allclose(H(loss(S.solve), S.w, vectorize=True), H(loss(S.truth), S.w))


def test_a_matrix_is_an_argument_of_transforms():
    """SparseMatrix and Factor are pytrees."""
    S = small("general")
    A, b = S.matrix(S.w), S.rhs(grad=False)
    g = grad(lambda A: ss.solve(A, b).pow(3).sum())(A)
    assert isinstance(g, ss.SparseMatrix)
    v = A.values.clone().requires_grad_()
    (true,) = torch.autograd.grad(ss.solve(ss.SparseMatrix(A.pattern, v), b).pow(3).sum(), v)
    assert torch.allclose(g.values, true)
    F = ss.factorize(A)
    B = torch.randn(3, 4, dtype=torch.float64)
    X = vmap(lambda F, b: F.solve(b), in_dims=(None, 0))(F, B)
    assert torch.allclose(X, S.truth(S.w, B.T).T)
    batch = ss.SparseMatrix(A.pattern, torch.stack([A.values, 2 * A.values]))
    X = vmap(lambda A, b: ss.solve(A, b), in_dims=(0, None))(batch, b)
    assert torch.allclose(X, torch.stack([S.truth(S.w, b), S.truth(S.w, b) / 2]))


def test_a_pattern_may_be_made_inside_a_transform():
    S = small("general")
    b = S.rhs(grad=False)

    def f(w):
        P = ss.Pattern(S.rows, S.cols, (S.n, S.n))
        return ss.solve(P.assemble(w), b)

    for transform in (jacrev, jacfwd):
        assert torch.allclose(transform(f)(S.w), transform(lambda w: S.truth(w, b))(S.w))


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr, torch.strided])
def test_a_torch_matrix_may_be_a_constant_of_a_transform(layout):
    S = small("general")
    A, b = S.matrix(S.w).to_torch(layout), S.rhs(grad=False)
    inverse = torch.linalg.inv(S.dense(S.w))
    for transform in (jacrev, jacfwd):
        assert torch.allclose(transform(lambda b: ss.solve(A, b))(b), inverse)
    B = torch.randn(3, 4, dtype=torch.float64)
    assert torch.allclose(vmap(lambda b: ss.solve(A, b))(B), B @ inverse.T)
