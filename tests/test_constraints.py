"""constraints=(C, d): A x + C^H mu = b, C x = d."""

from __future__ import annotations

import pytest
import torch
from reference import assert_says
from small import EXACT, small
from torch.autograd import gradcheck, gradgradcheck
from torch.func import hessian, jacfwd, jacrev, vmap

import sparse_solver as ss

each_dtype = pytest.mark.parametrize("dtype", EXACT, ids=["float64", "complex128"])
N, M = 6, 2
P = ss.Pattern([0, 0, 1, 1, 1], [0, 3, 1, 2, 5], (M, N))


def truth(S, w, v, b, d, adjoint=False, transpose=False):
    A, C = S.dense(w), P.assemble(v).to_dense()
    A = A.mH if adjoint else A.mT if transpose else A
    dtype = torch.promote_types(A.dtype, C.dtype)
    K = torch.cat([torch.cat([A, C.mH], 1), torch.cat([C, C.new_zeros(M, M)], 1)]).to(dtype)
    columns = b.ndim == 2 or d.ndim == 2
    b, d = (t if t.ndim == 2 else t[:, None] for t in (b, d))
    k = max(b.shape[1], d.shape[1])
    x = (torch.linalg.inv(K) @ torch.cat([b.expand(-1, k), d.expand(-1, k)]).to(dtype))[:N]
    return x if columns else x[:, 0]


def solve(S, w, v, b, d, **options):
    return ss.solve(S.matrix(w), b, constraints=(P.assemble(v), d), **options)


def inputs(kind, dtype=torch.float64, b_shape=(), d_shape=()):
    S = small(kind, dtype, n=N)
    v = torch.randn(5, dtype=dtype, requires_grad=True)
    d = torch.randn(M, *d_shape, dtype=dtype, requires_grad=True)
    return S, (S.param(), v, S.rhs(*b_shape), d)


@pytest.mark.parametrize("kind", ["general", "spd"])
@each_dtype
@pytest.mark.parametrize(
    ("b_shape", "d_shape"), [((), ()), ((3,), ()), ((), (3,)), ((3,), (3,)), ((1,), ())]
)
def test_values_and_first_derivatives(kind, dtype, b_shape, d_shape):
    S, given = inputs(kind, dtype, b_shape, d_shape)
    for mode in ({}, {"adjoint": True}, *([] if dtype.is_complex else [{"transpose": True}])):
        x, y = solve(S, *given, **mode), truth(S, *given, **mode)
        assert x.shape == y.shape
        assert torch.allclose(x, y)
        g = torch.randn_like(y)
        got = torch.autograd.grad(x, given, g)
        for p, q in zip(got, torch.autograd.grad(y, given, g), strict=True):
            assert torch.allclose(p, q)


@each_dtype
def test_gradcheck(dtype):
    S, given = inputs("spd", dtype)
    assert gradcheck(lambda *a: solve(S, *a), given, check_forward_ad=True)


@pytest.mark.parametrize(
    "dtype", [torch.float64, pytest.param(torch.complex128, marks=pytest.mark.slow)], ids=str
)
def test_gradgradcheck(dtype):
    S, given = inputs("general", dtype)
    assert gradgradcheck(lambda *a: solve(S, *a), given, check_fwd_over_rev=True)


def test_transforms_and_compile():
    S, given = inputs("spd")
    given = tuple(t.detach() for t in given)
    for argnums in range(4):
        J = jacrev(lambda *a: solve(S, *a), argnums=argnums)(*given)
        assert torch.allclose(J, jacfwd(lambda *a: solve(S, *a), argnums=argnums)(*given))
    w, v, b, d = given
    H = hessian(lambda d: solve(S, w, v, b, d).pow(3).sum())(d)
    assert torch.allclose(H, hessian(lambda d: truth(S, w, v, b, d).pow(3).sum())(d))
    D = torch.randn(4, M, dtype=d.dtype)
    X = vmap(lambda d: solve(S, w, v, b, d))(D)
    assert torch.allclose(X, torch.stack([truth(S, w, v, b, d) for d in D]))
    compiled = torch.compile(lambda *a: solve(S, *a), backend="aot_eager", fullgraph=True)
    assert torch.allclose(compiled(*given), truth(S, *given))


def test_minimises_among_what_is_allowed():
    S, (w, v, b, d) = inputs("spd")
    x = solve(S, w, v, b, d).detach()
    A, C = S.dense(w).detach(), P.assemble(v).to_dense().detach()
    assert torch.allclose(C @ x, d)
    energy = lambda x: x @ A @ x / 2 - b.detach() @ x  # noqa: E731
    allowed = torch.linalg.svd(C)[2][M:].mT
    for _ in range(20):
        assert energy(x + allowed @ torch.randn(N - M, dtype=x.dtype)) > energy(x)


@pytest.mark.parametrize("layout", [torch.strided, torch.sparse_coo, torch.sparse_csr])
def test_torch_matrices_and_singular_blocks(layout):
    """A alone is singular; the constraint of zero mean makes the system regular."""
    n = 7
    A = ss.gallery.grid_laplacian((n,), boundary="neumann")
    C = torch.ones(1, n, dtype=torch.float64)
    C = C if layout == torch.strided else ss.SparseMatrix.from_torch(C).to_torch(layout)
    b = torch.randn(n, dtype=torch.float64)
    d = torch.tensor([3.0], dtype=torch.float64)
    x = ss.solve(A, b, constraints=(C, d))
    assert torch.allclose(x.sum(), d)
    assert torch.allclose(A @ x, b - b.mean())


def test_with_fixed_unknowns():
    S, (w, v, b, d) = inputs("spd")
    x = solve(S, w, v, b, d, fixed=([1], torch.tensor([2.0], dtype=torch.float64)))
    C, A = P.assemble(v).to_dense(), S.dense(w)
    assert x[1] == 2
    assert torch.allclose(C @ x, d)
    r = (A @ x - b)[[0, 2, 3, 4, 5]]
    c = C.mT[[0, 2, 3, 4, 5]]
    mu = torch.linalg.lstsq(c, -r[:, None]).solution
    assert torch.allclose(c @ mu, -r[:, None])


def test_batches_factor_and_ex(counts):
    S, (w, v, b, d) = inputs("general")
    W = torch.stack([w, 2 * w]).detach()
    A = ss.SparseMatrix(S.pattern, torch.stack([S.matrix(u).values for u in W]))
    C = P.assemble(v)
    x = ss.solve(A, b, constraints=(C, d))
    assert torch.allclose(x, torch.stack([truth(S, u, v, b, d) for u in W]))
    x, info = ss.solve_ex(A, b.expand(2, -1), constraints=(C, d))
    assert info.tolist() == [0, 0]
    assert torch.allclose(x, torch.stack([truth(S, u, v, b, d) for u in W]))
    counts.reset()
    F = ss.factorize(A[0], constraints=(C, d))
    g = torch.autograd.grad(F.solve(b).sum() + F.solve(2 * b, adjoint=True).sum(), d)[0]
    assert counts.factorisations == 1
    y = truth(S, W[0], v, b, d).sum() + truth(S, W[0], v, 2 * b, d, adjoint=True).sum()
    assert torch.allclose(g, torch.autograd.grad(y, d)[0])
    assert "constraints" in repr(F) and F.info.n == N + M and F.shape == (N, N)


def test_dependent_constraints_are_named():
    S, (w, v, b, d) = inputs("spd")
    C = torch.zeros(2, N, dtype=torch.float64)
    C[:, 0] = 1
    with pytest.raises(ss.SingularMatrixError) as error:
        ss.solve(S.matrix(w), b, constraints=(C, d))
    assert error.value.index is None or error.value.index < N
    x, info = ss.solve_ex(S.matrix(w), b, constraints=(C, d))
    assert int(info) != 0 and int(info) <= N and x.isnan().all()


def test_refusals():
    S, (w, v, b, d) = inputs("spd")
    C = P.assemble(v)
    cases = [
        (dict(constraints=C), ValueError, ("constraints", "(C, d)")),
        (dict(constraints=(C, d, d)), ValueError, ("constraints",)),
        (dict(constraints=(C, d[:1])), ValueError, ((M, N), (1,), "(2,)")),
        (dict(constraints=(torch.ones(1, 3).double(), d)), ValueError, ((1, 3), (N, N))),
        (dict(constraints=(C, [1.0, 2.0])), TypeError, ("list", "torch.Tensor")),
        (dict(constraints=([[1.0]], d)), TypeError, ("list", "SparseMatrix")),
        (dict(constraints=(C.to(torch.float32), d)), TypeError, ("float32", "float64")),
        (dict(constraints=(C, d), assume="spd"), ValueError, ("spd", "symmetric")),
        (dict(constraints=(C, d), nullspace="constant"), ValueError, ("nullspace", "constraints")),
        (dict(constraints=(C, torch.ones(M, 2).double())), ValueError, ((N, 3), (M, 2))),
    ]
    for options, kind, words in cases:
        rhs = S.rhs(3) if (N, 3) in words else b
        with pytest.raises(kind) as error:
            ss.solve(S.matrix(w), rhs, **options)
        assert_says(error.value, *words)
