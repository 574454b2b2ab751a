"""fixed=(indices, values): prescribed unknowns."""

from __future__ import annotations

import pytest
import torch
from reference import assert_says
from small import EXACT, KINDS, small
from torch.autograd import gradcheck, gradgradcheck
from torch.func import hessian, jacfwd, jacrev, vmap

import sparse_solver as ss

MODES = ({}, {"transpose": True}, {"adjoint": True})
each_dtype = pytest.mark.parametrize("dtype", EXACT, ids=["float64", "complex128"])
each_mode = pytest.mark.parametrize("mode", MODES, ids=["N", "T", "H"])
INDICES = torch.tensor([4, 1])  # neither sorted nor contiguous


def truth(S, w, b, c, indices=INDICES, **mode):
    """By blocks of the dense matrix: x_f = A_ff^-1 (b_f - A_fc c)."""
    D = S.dense(w)
    D = D.mH if mode.get("adjoint") else D.mT if mode.get("transpose") else D
    free = torch.tensor([i for i in range(S.n) if i not in indices.tolist()], dtype=torch.int64)
    dtype = torch.promote_types(torch.promote_types(D.dtype, b.dtype), c.dtype)
    D = D.to(dtype)
    columns = b.ndim == 2 or c.ndim == 2
    b, c = (t.to(dtype) if t.ndim == 2 else t.to(dtype)[:, None] for t in (b, c))
    k = max(b.shape[1], c.shape[1])
    c = c.expand(-1, k)
    x_f = torch.linalg.inv(D[free][:, free]) @ (b[free] - D[free][:, indices] @ c)
    x = torch.zeros(S.n, k, dtype=dtype).index_put((free,), x_f).index_put((indices,), c)
    return x if columns else x[:, 0]


def inputs(S, b_shape=(), c_shape=()):
    c = torch.randn(len(INDICES), *c_shape, dtype=S.w.dtype, requires_grad=True)
    return S.param(), S.rhs(*b_shape), c


def solve(S, w, b, c, indices=INDICES, **options):
    return S.solve(w, b, fixed=(indices, c), **options)


@pytest.mark.parametrize("kind", KINDS)
@each_dtype
@each_mode
@pytest.mark.parametrize(
    ("b_shape", "c_shape"),
    [((), ()), ((3,), ()), ((), (3,)), ((3,), (3,)), ((1,), ()), ((), (1,)), ((1,), (3,))],
)
def test_values_and_first_derivatives(kind, dtype, mode, b_shape, c_shape):
    S = small(kind, dtype, n=6)
    given = inputs(S, b_shape, c_shape)
    x, y = solve(S, *given, **mode), truth(S, *given, **mode)
    assert x.shape == y.shape
    assert torch.allclose(x, y)
    assert torch.equal(x[INDICES], y[INDICES])
    g = torch.randn_like(y)
    got = torch.autograd.grad(x, given, g)
    for p, q in zip(got, torch.autograd.grad(y, given, g), strict=True):
        assert p.dtype == q.dtype
        assert torch.allclose(p, q)
    assert torch.equal(got[1][INDICES], torch.zeros_like(got[1][INDICES]))


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("general", torch.float64),
        ("general", torch.complex128),
        ("spd", torch.float64),
        pytest.param("spd", torch.complex128, marks=pytest.mark.slow),
    ],
    ids=str,
)
@each_mode
def test_gradcheck(kind, dtype, mode):
    S = small(kind, dtype, n=5)
    given = inputs(S, (2,), ())
    assert gradcheck(lambda *a: solve(S, *a, **mode), given, check_forward_ad=True)


@each_dtype
def test_gradgradcheck(dtype):
    S = small("general", dtype, n=5)
    assert gradgradcheck(lambda *a: solve(S, *a), inputs(S), check_fwd_over_rev=True)


def test_transforms():
    S = small("general", n=6)
    w, b, c = (t.detach() for t in inputs(S))
    for transform in (jacrev, jacfwd):
        for argnums in range(3):
            J = transform(lambda w, b, c: solve(S, w, b, c), argnums=argnums)(w, b, c)
            true = transform(lambda w, b, c: truth(S, w, b, c), argnums=argnums)(w, b, c)
            assert torch.allclose(J, true)
    H = hessian(lambda c: solve(S, w, b, c).pow(3).sum())(c)
    assert torch.allclose(H, hessian(lambda c: truth(S, w, b, c).pow(3).sum())(c))
    C = torch.randn(4, len(c), dtype=c.dtype)
    X = vmap(lambda c: solve(S, w, b, c))(C)
    assert torch.allclose(X, truth(S, w, b, C.T).T)


@each_dtype
def test_b_is_not_read_at_fixed_unknowns(dtype):
    S = small("general", dtype, n=6)
    w, b, c = inputs(S)
    b2 = b.detach().clone()
    b2[INDICES] = torch.tensor([float("nan"), float("inf")], dtype=dtype)
    b2.requires_grad_()
    x, y = solve(S, w, b, c), solve(S, w, b2, c)
    assert torch.equal(x, y)
    g = torch.autograd.grad(y.abs().sum(), (w, b2, c))
    for p, q in zip(g, torch.autograd.grad(x.abs().sum(), (w, b, c)), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("assume", ["spd", "symmetric"])
def test_assume_is_said_of_the_reduced_matrix(assume):
    """A Neumann Laplacian with an unsymmetric, indefinite row at the fixed unknown."""
    n = 8
    i = torch.arange(n - 1)
    rows, cols = torch.cat([i, i + 1, i, i + 1]), torch.cat([i, i + 1, i + 1, i])
    P = ss.Pattern(rows, cols, (n, n))
    v = torch.cat([torch.ones(2 * n - 2), -torch.ones(2 * n - 2)]).double()
    A = P.assemble(v)
    A.values[:2] = torch.tensor([-7.0, 3.0])
    b = torch.zeros(n, dtype=torch.float64)
    with pytest.raises((torch.linalg.LinAlgError, ValueError)):
        ss.solve(A, b, assume=assume)
    ends = torch.tensor([0, n - 1])
    x = ss.solve(A, b, assume=assume, fixed=(ends, torch.tensor([0.0, 7.0]).double()))
    assert torch.allclose(x, torch.arange(n, dtype=torch.float64))


def test_a_reduced_matrix_that_is_singular_is_told_in_the_users_numbering():
    """Unknowns 3 and 5 float once 0 is fixed: the index is of the whole system."""
    D = 2 * torch.eye(6, dtype=torch.float64)
    for i in (3, 5):
        for j in (3, 5):
            D[i, j] = 1.0
    A = ss.SparseMatrix.from_torch(D.to_sparse_coo())
    fixed = (torch.tensor([0, 1]), torch.zeros(2, dtype=torch.float64))
    with pytest.raises(ss.SingularMatrixError) as info:
        ss.solve(A, torch.ones(6).double(), fixed=fixed)
    assert info.value.index in (3, 5)
    x, code = ss.solve_ex(A, torch.ones(6).double(), fixed=fixed)
    assert code.item() - 1 in (3, 5)
    assert x.shape == (6,)


def test_a_reduced_matrix_that_is_not_definite_is_told_in_the_users_numbering():
    D = torch.diag(torch.tensor([-1.0, 2.0, -1.0, 3.0, -5.0, 1.0], dtype=torch.float64))
    A = ss.SparseMatrix.from_torch(D.to_sparse_coo())
    fixed = (torch.tensor([2, 0]), torch.zeros(2, dtype=torch.float64))
    with pytest.raises(ss.NotPositiveDefiniteError) as info:
        ss.solve(A, torch.ones(6).double(), assume="spd", fixed=fixed)
    assert info.value.index == 4


def test_everything_fixed():
    S = small("general", n=4)
    order = torch.tensor([2, 0, 3, 1])
    c = torch.randn(4, dtype=torch.float64, requires_grad=True)
    w, b = S.param(), S.rhs()
    x = S.solve(w, b, fixed=(order, c))
    assert torch.equal(x[order], c)
    g = torch.autograd.grad(x.sum(), (w, b, c), allow_unused=True)
    assert all(t is None or torch.equal(t, torch.zeros_like(t)) for t in g[:2])
    assert torch.equal(g[2], torch.ones_like(c))


def test_nothing_fixed():
    S = small("general", n=4)
    w, b = S.param(), S.rhs(2)
    for none in (torch.tensor([], dtype=torch.int64), torch.tensor([])):
        x = S.solve(w, b, fixed=(none, torch.zeros(0, dtype=torch.float64)))
        assert torch.allclose(x, S.truth(w, b))


@pytest.mark.parametrize("kind", [torch.int32, torch.int64, "list"])
def test_indices_of_any_integer_kind(kind):
    S = small("general", n=6)
    w, b, c = inputs(S)
    indices = INDICES.tolist() if kind == "list" else INDICES.to(kind)
    assert torch.allclose(solve(S, w, b, c, indices), truth(S, w, b, c))


@each_mode
def test_factors_and_plans_with_fixed_unknowns(mode, counts):
    S = small("general", n=6)
    w, b, c = inputs(S)
    A = S.matrix(w)
    F = ss.factorize(A, fixed=(INDICES, c))
    plan = ss.analyze(A, fixed=(INDICES, c))
    G = plan.factorize(A)
    factored = counts.factorisations
    for factor in (F, G):
        for rhs in (b, S.rhs(3)):
            x, y = factor.solve(rhs, **mode), truth(S, w, rhs, c, **mode)
            assert torch.allclose(x, y)
            g = torch.randn_like(y)
            for p, q in zip(
                torch.autograd.grad(x, (w, rhs, c), g, retain_graph=True),
                torch.autograd.grad(y, (w, rhs, c), g),
                strict=True,
            ):
                assert torch.allclose(p, q)
    assert counts.factorisations == factored


def test_counts_over_steps(counts):
    S = small("general", n=6)
    b, c = S.rhs(), torch.randn(2, dtype=torch.float64, requires_grad=True)
    for step in range(10):
        w = ((1 + 0.1 * step) * S.w).requires_grad_()
        x = solve(S, w, b, c)
        x.square().sum().backward()
        solve(S, w, b, 2 * c)  # other values, the same matrix
    assert counts.analyses == 1
    assert counts.factorisations == 10


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
def test_torch_matrices(layout):
    S = small("general", n=6)
    _, b, c = inputs(S)
    A = S.matrix(S.w).to_torch(layout).requires_grad_()
    x = ss.solve(A, b, fixed=(INDICES, c))
    w = S.param()
    y = truth(S, w, b, c)
    assert torch.allclose(x, y)
    (G,) = torch.autograd.grad(x.square().sum(), A)
    assert G.layout == layout
    v = S.matrix(S.w).values.clone().requires_grad_()
    z = ss.solve(ss.SparseMatrix(S.pattern, v), b, fixed=(INDICES, c))
    (g,) = torch.autograd.grad(z.square().sum(), v)
    assert torch.allclose(G.values() if layout != torch.sparse_coo else G.coalesce().values(), g)


def test_complex_values_prescribed_to_a_real_matrix():
    S = small("general", n=6)
    w, b = S.param(), S.rhs()
    c = torch.randn(2, dtype=torch.complex128, requires_grad=True)
    x, y = solve(S, w, b, c), truth(S, w, b, c)
    assert x.dtype == torch.complex128
    assert torch.allclose(x, y)
    g = torch.autograd.grad(x.abs().sum(), (w, b, c))
    for p, q in zip(g, torch.autograd.grad(y.abs().sum(), (w, b, c)), strict=True):
        assert p.dtype == q.dtype
        assert torch.allclose(p, q)


@pytest.mark.parametrize(
    ("indices", "values", "error", "words"),
    [
        (torch.tensor([1, 4, 1]), torch.ones(3), ValueError, ["repeat", "1"]),
        (torch.tensor([1, 6]), torch.ones(2), ValueError, ["6", "out of range"]),
        (torch.tensor([-1, 2]), torch.ones(2), ValueError, ["-1", "out of range"]),
        (torch.tensor([1, 2]), torch.ones(3), ValueError, [(3,), "(2,)"]),
        (torch.tensor([1, 2]), torch.ones(2, 1, 1), ValueError, [(2, 1, 1)]),
        (torch.tensor([[1, 2]]), torch.ones(2), ValueError, [(1, 2)]),
        (torch.tensor([1.0, 2.0]), torch.ones(2), (ValueError, TypeError), ["integer"]),
        (torch.ones(6, dtype=torch.bool), torch.ones(6), (ValueError, TypeError), ["nonzero"]),
        (torch.tensor([1]), torch.ones(1, dtype=torch.float32), TypeError, ["float32", "float64"]),
        (torch.tensor([1]), torch.tensor([float("nan")]), ValueError, ["nan"]),
    ],
)
def test_wrong_arguments(indices, values, error, words):
    S = small("general", n=6)
    if "float32" not in words:
        values = values.double()
    with pytest.raises(error) as info:
        S.solve(S.w, S.rhs(), fixed=(indices, values))
    assert_says(info.value, *words)


@pytest.mark.parametrize("fixed", [torch.tensor([0]), (torch.tensor([0]),), ([0], [1.0]), 3])
def test_what_is_no_pair(fixed):
    S = small("general", n=6)
    with pytest.raises((ValueError, TypeError), match="fixed"):
        S.solve(S.w, S.rhs(), fixed=fixed)


def test_columns_that_do_not_match():
    S = small("general", n=6)
    with pytest.raises(ValueError) as info:
        S.solve(S.w, S.rhs(3), fixed=(INDICES, torch.ones(2, 2, dtype=torch.float64)))
    assert_says(info.value, (6, 3), (2, 2))
