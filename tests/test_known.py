"""Repeated solves for one vector take a short way, to the answers and errors of the general one."""

from __future__ import annotations

import pytest
import torch
from reference import assert_solves
from small import small
from torch.autograd import gradcheck, gradgradcheck

import sparse_solver as ss
from sparse_solver.derivatives import step as short

KINDS = [("spd", torch.float64), ("unsymmetric", torch.float64), ("unsymmetric", torch.complex128)]


@pytest.fixture
def taken(monkeypatch):
    """How many solves went the short way."""
    seen = []

    def counted(*args, inner=short._apply_known):
        seen.append(len(args))
        return inner(*args)

    monkeypatch.setattr(short, "_apply_known", counted)
    return seen


@pytest.mark.parametrize(("kind", "dtype"), KINDS)
@pytest.mark.parametrize("engine", ["auto", "superlu"])
def test_answers_and_gradients(taken, counts, kind, dtype, engine):
    S, method = small(kind, dtype, n=9), ss.Direct(engine=engine)
    for k in (1.0, 1.3, 0.7):
        w, b = (k * S.w).requires_grad_(), S.rhs()
        x = S.solve(w, b, assume="auto", method=method)
        assert torch.allclose(x, S.truth(w, b))
        found = torch.autograd.grad(x.abs().square().sum(), (w, b))
        true = torch.autograd.grad(S.truth(w, b).abs().square().sum(), (w, b))
        assert all(torch.allclose(f, t) for f, t in zip(found, true, strict=True))
    assert len(taken) == 2  # the first made the slot
    assert counts.factorisations == 3 and counts.solves == 6


@pytest.mark.parametrize(("kind", "dtype"), KINDS)
def test_derivatives(taken, kind, dtype):
    S = small(kind, dtype, n=5)
    w, b = S.param(), S.rhs()

    def solve(w, b):
        return S.solve(w, b, assume="auto")

    solve(w, b)
    assert gradcheck(solve, (w, b), check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(solve, (w, b), check_fwd_over_rev=True)
    assert len(taken) > 20


def test_transforms_and_hooks_take_the_general_way(taken):
    S = small("spd", n=6)
    b = S.rhs(grad=False)
    S.solve(S.w, b, assume="auto")
    f = lambda w: S.solve(w, b, assume="auto").square().sum()  # noqa: E731
    true = lambda w: S.truth(w, b).square().sum()  # noqa: E731
    assert torch.allclose(torch.func.hessian(f)(S.w), torch.func.hessian(true)(S.w))
    with torch.autograd.graph.save_on_cpu():
        f(S.param())
    with torch.inference_mode():
        f(S.w)
    assert not taken
    f(S.w)
    assert taken


def test_large_symmetric_gradients_in_one_pass(taken):
    """With mirrored entries known, one pass judges lambda and writes the gradient."""
    P = ss.gallery.grid_laplacian((30, 30)).pattern
    rows, cols = P.rows, P.cols
    g = torch.Generator().manual_seed(1)
    for k in range(3):
        d = torch.rand(P.shape[0], dtype=torch.float64, generator=g) + 5 + k
        v = torch.where(rows == cols, d[rows], -1.0).requires_grad_()
        b = torch.rand(P.shape[0], dtype=torch.float64, generator=g)
        x = ss.solve(ss.SparseMatrix(P, v), b)
        D = ss.SparseMatrix(P, v.detach()).to_dense()
        assert_solves(D, x.detach(), b)
        (A_bar,) = torch.autograd.grad(x.square().sum(), v)
        y = torch.linalg.solve(D.T, 2 * x.detach())
        assert torch.allclose(A_bar, -y[rows] * x.detach()[cols])
    assert len(taken) == 2


def test_bad_gradients_are_refused():
    S = small("spd", n=8)
    w, b = S.param(), S.rhs(grad=False)
    for _ in range(2):
        x = S.solve(w, b, assume="auto")
        g = torch.ones_like(x)
        g[3] = float("nan")
        with pytest.raises(ValueError, match="holds 1 entries that are NaN or infinite"):
            x.backward(g)


def test_nothing_wrong_is_accepted():
    S = small("spd", n=8)
    A, b = S.matrix(S.w), S.rhs(grad=False)
    for _ in range(2):
        ss.solve(A, b)
        with pytest.raises(ValueError, match=r"shape \(8, 8\) and b has shape \(7,\)"):
            ss.solve(A, b[:7])
        with pytest.raises(TypeError, match="float32"):
            ss.solve(A, b.float())
        with pytest.raises(TypeError, match="method"):
            ss.solve(A, b, method="direct")
        with pytest.raises(ValueError, match="assume='no'"):
            ss.solve(A, b, assume="no")


@pytest.mark.parametrize("engine", ["auto", "superlu", "multifrontal"])
def test_hooks_on_what_was_saved(engine):
    """They may give back copies, which own no factor, in other strides."""
    if engine == "multifrontal":
        pytest.importorskip("numba")
    S, method = small("spd", n=30), ss.Direct(engine=engine)
    g = torch.randn(30, dtype=torch.float64)
    copies = torch.Tensor.clone, lambda t: torch.stack([t, t], -1)[..., 0]
    for k in range(6):
        for unpack in copies:
            w, b = S.param(), S.rhs()
            x = S.solve(w, b, assume="auto", method=method)
            for saved in x.grad_fn._raw_saved_tensors:
                saved.register_hooks(torch.Tensor.clone, unpack)
            found = torch.autograd.grad(x, (w, b), g * (k + 1))
            true = torch.autograd.grad(S.truth(w, b), (w, b), g * (k + 1))
            assert all(torch.allclose(f, t) for f, t in zip(found, true, strict=True))


def test_transposed_views():
    """One whose pattern was looked at has no values of its own yet."""
    S = small("unsymmetric", n=8)
    b = S.rhs(grad=False)
    A = S.matrix(S.w)
    for _ in range(3):
        B = A.mT
        ss.solve(ss.SparseMatrix(B.pattern, B.values), b)
        assert_solves(S.dense(S.w).mT, ss.solve(B, b), b)
