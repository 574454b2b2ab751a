"""Draws with a sparse precision: the right distribution, and the derivative of the very map."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cases import BY_NAME, grid
from conformance import GENERAL, each_dtype, system
from reference import assert_says, wide
from small import EXACT, small
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, jacfwd, jacrev, vmap

import sparse_solver as ss
from sparse_solver.planning import halves
from sparse_solver.planning.halves import Halves

f64 = torch.float64
ANY_MATRIX = GENERAL
each_exact = pytest.mark.parametrize("dtype", EXACT, ids=["float64", "complex128"])
DEFINITE = pytest.mark.parametrize("name", ["spd_grid", "spd_zeros", "spd_badly_scaled", "arrow"])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def half_solves(A, **options):
    F = ss.factorize(A, **options)
    (f,) = F._token.untyped_storage()._sparse_solver_factors
    return halves(f)


# ---- the distribution ----


@DEFINITE
@each_dtype
@pytest.mark.parametrize("assume", ["auto", "spd"])
def test_half_solves_make_the_inverse(name, dtype, assume):
    A, D, _ = system(BY_NAME[name], dtype)
    for method in (ss.Direct(), *(ss.Direct(engine=e) for e in ANY_MATRIX)):
        h = half_solves(A, assume=assume, method=method)
        eye = np.eye(A.shape[0], dtype=A.values.numpy().dtype)
        W, W_adjoint = h.solve(eye), h.solve(eye, True)
        assert W.dtype == eye.dtype
        assert np.abs(W.conj().T - W_adjoint).max() <= 1e3 * torch.finfo(dtype).eps * np.abs(W).max()
        inverse = torch.linalg.inv(wide(D)).numpy()
        d = np.sqrt(np.abs(np.diag(inverse)))
        apart = np.abs(W_adjoint @ W - inverse) / np.outer(d, d)
        assert apart.max() <= 1e4 * torch.finfo(dtype).eps


@each_exact
def test_an_engine_with_half_solves_that_keeps_its_factor(dtype, monkeypatch):
    from sparse_solver.engines import Declined
    from sparse_solver.engines.superlu import _SuperLUNumeric

    def half_solve(self, b, adjoint=False):
        W = np.linalg.inv(
            np.linalg.cholesky(np.linalg.inv(self.solve(np.eye(len(self.scales[0]), dtype=b.dtype))))
        )
        return (W.conj().T if adjoint else W) @ b

    def factors(self):
        raise Declined("kept")

    monkeypatch.setattr(_SuperLUNumeric, "half_solve", half_solve)
    monkeypatch.setattr(_SuperLUNumeric, "factors", factors)
    S = small("spd", dtype)
    z = torch.randn(4, 2, dtype=dtype, generator=generator(0))

    def f(w):
        F = ss.factorize(S.matrix(w), assume="spd", method=ss.Direct(engine="superlu"))
        return F.rsample((2,), generator=generator(0))

    D = S.dense(S.w)
    D = (D + D.mH) / 2
    true = torch.linalg.solve_triangular(torch.linalg.cholesky(D).mH, z, upper=True).mT
    assert torch.allclose(f(S.w), true)
    assert gradcheck(f, (S.param(),), check_forward_ad=True)


@each_exact
def test_factors_from_an_engines_own_cholesky_factor(dtype):
    """As a multifrontal engine would hand them out: L by columns, and where each unknown went."""
    import scipy.sparse

    from sparse_solver.engines import Triangles
    from sparse_solver.planning import inverse

    A, D, _ = system(BY_NAME["spd_zeros"], dtype)
    n, place = A.shape[0], torch.randperm(A.shape[0])
    order = torch.argsort(place)
    L = torch.linalg.cholesky(D[order][:, order]).numpy()
    csc = scipy.sparse.csc_array(np.tril(np.ones((n, n), L.dtype)))  # zeros of L stored
    csc.sort_indices()
    csc.data = L[csc.indices, np.repeat(np.arange(n), np.diff(csc.indptr))]
    T = Triangles.from_cholesky(csc.indptr, csc.indices, csc.data, place.numpy())
    N = torch.linalg.inv(D).numpy()
    assert np.allclose(inverse.entries(T, A.pattern), N[A.pattern.cols, A.pattern.rows])
    W = Halves(half_solves(A).eq, None, T).solve(np.eye(n, dtype=L.dtype))
    assert np.allclose(W, np.linalg.inv(L)[:, place.numpy()])


@each_exact
def test_moments_of_many_draws(dtype):
    A, D, _ = system(BY_NAME["spd_grid"], dtype)
    F = ss.factorize(A)
    mean = torch.randn(49, dtype=dtype)
    x = F.sample((100, 1000), mean, generator())
    assert x.shape == (100, 1000, 49)
    assert not x.requires_grad
    r = x.reshape(-1, 49) - mean
    assert (r.mean(0).abs() < 0.02).all()
    covariance = r.mT @ r.conj() / len(r)
    assert (covariance - torch.linalg.inv(D)).abs().max() < 0.01
    if dtype.is_complex:  # circular
        assert (r.mT @ r / len(r)).abs().max() < 0.01


@each_dtype
def test_shapes_and_seeds(dtype):
    A, _, _ = system(BY_NAME["spd_grid"], dtype)
    F = ss.factorize(A)
    for shape, expected in (
        ((), (49,)),
        (3, (3, 49)),
        ((2, 3), (2, 3, 49)),
        ((0,), (0, 49)),
        ([2], (2, 49)),
    ):
        x = F.rsample(shape, generator=generator(1))
        assert x.shape == expected
        assert x.dtype == dtype
        assert torch.equal(x, F.sample(shape, generator=generator(1)))
    torch.manual_seed(3)
    x = F.sample()
    torch.manual_seed(3)
    assert torch.equal(x, F.sample())
    batch = ss.SparseMatrix(A.pattern, torch.stack([A.values, 4 * A.values]))
    assert ss.factorize(batch).sample((5,)).shape == (5, 2, 49)
    mean = torch.ones(2, 49, dtype=dtype)
    one, two = ss.factorize(batch).sample((), mean, generator(5))
    assert one.shape == two.shape


def test_draws_given_prescribed_values():
    A, D, _ = system(BY_NAME["spd_grid"], f64)
    at, given = torch.tensor([30, 2]), torch.tensor([1.0, -2.0], dtype=f64)
    free = [i for i in range(49) if i not in (2, 30)]
    mean = torch.randn(49, dtype=f64)
    F = ss.factorize(A, fixed=(at, given))
    x = F.sample((100_000,), mean, generator())
    assert torch.equal(x[:, at], given.expand(100_000, 2))
    whole = torch.linalg.inv(D)
    gain = whole[free][:, at] @ torch.linalg.inv(whole[at][:, at])
    assert (x[:, free].mean(0) - (mean[free] + gain @ (given - mean[at]))).abs().max() < 0.01
    conditional = whole[free][:, free] - gain @ whole[at][:, free]
    assert (x[:, free].T.cov() - conditional).abs().max() < 0.01
    centred = F.sample((50_000,), generator=generator())
    assert (centred[:, free].mean(0) - gain @ given).abs().max() < 0.01


# ---- derivatives ----


@each_exact
def test_gradcheck(dtype):
    S = small("spd", dtype, n=3)
    mean = torch.randn(3, dtype=dtype, requires_grad=True)

    def f(w, mean, *shape):
        F = ss.factorize(S.matrix(w), assume="spd")
        return F.rsample(shape, mean, generator())

    two = lambda w, mean: f(w, mean, 2)  # noqa: E731
    assert gradcheck(two, (S.param(), mean), check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(f, (S.param(), mean), check_fwd_over_rev=True)


@DEFINITE
@each_exact
@pytest.mark.parametrize("route", ["factors", "half solves"])
def test_pull_and_push(name, dtype, route):
    """By the sparse recursions, and by half solves alone, as engines without factors have it."""
    A, D, _ = system(BY_NAME[name], dtype)
    h, n = half_solves(A), A.shape[0]
    W = h.solve(np.eye(n, dtype=A.values.numpy().dtype))
    if route == "half solves":
        h.T = None

        class Own:
            def half_solve(self, b, adjoint=False):
                return (W.conj().T if adjoint else W) @ b

        h.own = Own()
    M, u, v = (torch.randn(*s, dtype=dtype) for s in ((A.nnz,), (n, 2), (n, 2)))
    H = ss.SparseMatrix(A.pattern, M).to_dense().numpy()
    B = W @ (H + H.conj().T) / 2 @ W.conj().T
    phi = np.tril(B, -1) + np.diag(np.diag(B)) / 2
    M, u, v = M.numpy(), u.numpy(), v.numpy()
    size = np.abs(phi).max() * 10
    assert np.abs(h.push(M, v) + phi @ v).max() <= 1e-12 * size
    assert np.abs(h.push(M, v, True) + phi.conj().T @ v).max() <= 1e-12 * size
    g = h.pull(u, v)
    assert abs(np.vdot(g, M).real + np.vdot(u, phi @ v).real) <= 1e-11 * size * n
    mirrored = g[A.pattern.transposed_order].conj()
    assert np.allclose(g, mirrored)


def test_the_gradient_of_an_expectation():
    """E[x_i x_j] over exact quadrature of z: with x = W^H z its derivative is that of A^-1."""
    A, D, _ = system(BY_NAME["spd_grid"], f64)
    v = A.values.clone().requires_grad_()
    F = ss.factorize(ss.SparseMatrix(A.pattern, v))
    from sparse_solver.derivatives.half import half_solve

    eye = torch.eye(49, dtype=f64)  # E[z z^T] = I is all that a quadratic test function sees
    x = half_solve(F.matrix.values, eye, F._token, A.pattern.handle, F._how, True)
    C = torch.randn(49, 49, dtype=f64)
    C = C + C.T
    (g,) = torch.autograd.grad((x * (C @ x)).sum(), v)
    N = torch.linalg.inv(D)
    true = -(N @ C @ N)[A.pattern.rows, A.pattern.cols]
    assert torch.allclose(g, true, rtol=1e-9, atol=1e-12)


def test_transforms():
    S = small("spd")
    z = generator(0)

    def f(w):
        return (
            ss.factorize(S.matrix(w), assume="spd").rsample((2,), generator=z.manual_seed(0)).flatten()
        )

    def loss(w):
        return f(w).pow(3).sum()

    J, w = torch.autograd.functional.jacobian(f, S.w), S.param()
    assert torch.allclose(jacrev(f)(S.w), J)
    assert torch.allclose(jacfwd(f, randomness="same")(S.w), J)
    (g,) = torch.autograd.grad(loss(w), w)
    assert torch.allclose(grad(loss)(S.w), g)
    assert torch.allclose(
        jacfwd(jacrev(loss), randomness="same")(S.w), torch.autograd.functional.hessian(loss, S.w)
    )
    W = S.w + 0.1 * torch.randn(3, len(S.w), dtype=f64)
    got = vmap(grad(loss), randomness="same")(W)
    assert torch.allclose(got, torch.stack([grad(loss)(w) for w in W]))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_compile(counts):
    torch._dynamo.reset()
    from sparse_solver.derivatives.half import half_solve
    from sparse_solver.derivatives.items import explicit_factor

    S, how = small("spd"), "spd" + ss.Direct().key
    z = torch.randn(4, 2, dtype=f64)

    def f(w):
        A = S.pattern.assemble(S.values(w))
        token = explicit_factor(A.values, A.pattern, how)
        return half_solve(A.values, z, token, A.pattern.handle, how, True).pow(3).sum()

    w = S.param()
    (true,) = torch.autograd.grad(f(w), w)
    ss.clear_cache()
    counts.reset()
    (g,) = torch.autograd.grad(torch.compile(f, backend="aot_eager", fullgraph=True)(w), w)
    assert torch.allclose(g, true)
    assert counts.factorisations == 1


def test_operators():
    from sparse_solver.derivatives.items import explicit_factor

    S, how = small("spd"), "spd" + ss.Direct().key
    A = S.matrix(S.w)
    rest = (explicit_factor(A.values, A.pattern, how), A.pattern.handle, how)
    u, v = torch.randn(2, 4, 3, dtype=f64)
    checks = ("test_schema", "test_faketensor")
    ops = torch.ops.sparse_solver
    torch.library.opcheck(ops.half.default, (A.values, u, *rest, True), test_utils=checks)
    torch.library.opcheck(ops.half_pull.default, (A.values, u, v, *rest), test_utils=checks)
    torch.library.opcheck(
        ops.half_push.default, (A.values, A.values, v, *rest, False), test_utils=checks
    )


def test_batched_values():
    S = small("spd", n=3)
    W = (S.w + 0.1 * torch.randn(2, len(S.w), dtype=f64)).requires_grad_()

    def f(W):
        values = torch.stack([S.values(w) for w in W])
        F = ss.factorize(S.pattern.assemble(values), assume="spd")
        return F.rsample((2,), generator=generator())

    assert gradcheck(f, (W,), check_forward_ad=True)


def test_one_factorisation_for_draws_and_gradients(counts):
    A = ss.SparseMatrix.from_scipy(grid(10)).requires_grad_()
    F = ss.factorize(A)
    for _ in range(3):
        F.rsample((5,)).square().sum().backward()
    F.sample((2,))
    assert counts.factorisations <= 2  # one more where the first only solves


# ---- refusals ----


def test_wrong_matrices():
    general, _, _ = system(BY_NAME["general"], f64)
    with pytest.raises(ValueError, match="spd"):
        ss.factorize(general).sample()
    indefinite, _, _ = system(BY_NAME["symmetric_indefinite"], f64)
    with pytest.raises(ss.NotPositiveDefiniteError) as info:
        ss.factorize(indefinite).sample()
    assert info.value.index is not None
    A, _, _ = system(BY_NAME["spd_grid"], f64)
    with pytest.raises(ValueError) as wrong:
        ss.factorize(A).sample((), torch.zeros(7, dtype=f64))
    assert_says(wrong.value, (49, 49), (7,))
    F = ss.factorize(A, fixed=(torch.tensor([1]), torch.ones(1, 2, dtype=f64)))
    with pytest.raises(ValueError) as wrong:
        F.sample()
    assert_says(wrong.value, (1, 2), (1,))
