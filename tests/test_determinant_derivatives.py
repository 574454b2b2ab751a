"""Derivatives of logdet and slogdet: of every order, in every mode, against those of dense matrices."""

from __future__ import annotations

import pytest
import torch
from cases import BY_NAME, DTYPES
from conformance import GENERAL, each_case, system
from reference import wide
from small import EXACT, KINDS, small
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

import sparse_solver as ss
from sparse_solver.planning import answers

f64 = torch.float64
ANY_MATRIX = GENERAL
each_exact = pytest.mark.parametrize("dtype", EXACT, ids=["float64", "complex128"])
each_kind = pytest.mark.parametrize("kind", KINDS)


def log_of(S, **options):
    """A function of w with a derivative: complex logdet, real log|det|."""
    return lambda w: (
        ss.slogdet(S.matrix(w), assume=S.kind, **options)[1]
        if not w.is_complex()
        else ss.logdet(S.matrix(w), assume=S.kind, **options)
    )


def true_log(S):
    def f(w):
        sign, log = torch.linalg.slogdet(S.dense(w))
        return log + 1j * sign.angle() if w.is_complex() else log

    return f


def _checks():
    """The rule does not see which engine solves: complex matrices of every kind by one of them."""
    for engine in ANY_MATRIX:
        for kind in KINDS:
            for dtype in EXACT:
                slow = dtype.is_complex and kind != "general" and engine != ANY_MATRIX[0]
                yield pytest.param(engine, kind, dtype, marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize(("engine", "kind", "dtype"), list(_checks()), ids=str)
def test_gradcheck(engine, kind, dtype):
    S = small(kind, dtype)
    f = log_of(S, method=ss.Direct(engine=engine))
    assert gradcheck(f, (S.param(),), check_forward_ad=True, check_batched_grad=True)
    S = small(kind, dtype, n=3)
    f = log_of(S, method=ss.Direct(engine=engine))
    assert gradgradcheck(f, (S.param(),), check_fwd_over_rev=True)


@each_kind
def test_sign_and_logabs_of_complex_matrices(kind):
    S = small(kind, torch.complex128)

    def f(w):
        return ss.slogdet(S.matrix(w), assume=kind)

    assert gradcheck(f, (S.param(),), check_forward_ad=True)
    assert gradgradcheck(f, (S.param(),))
    for got, true in zip(f(S.w), torch.linalg.slogdet(S.dense(S.w)), strict=True):
        assert torch.allclose(got, true)


@each_exact
def test_third_derivatives(dtype):
    S = small("general", dtype, n=3)
    w1, w2, w3 = (torch.randn_like(S.w) for _ in range(3))

    def first(w):
        return jvp(log_of(S), (w,), (w1,))[1]

    def second(w):
        return jvp(first, (w,), (w2,))[1]

    third = jvp(second, (S.w,), (w3,))[1]
    N, D1, D2, D3 = torch.linalg.inv(S.dense(S.w)), *(S.dense(d) for d in (w1, w2, w3))
    words = [N @ D1 @ N @ D2 @ N @ D3, N @ D1 @ N @ D3 @ N @ D2]
    true = sum(word.trace() for word in words)
    assert torch.allclose(third, true)
    h = 1e-5
    assert torch.allclose(third, (second(S.w + h * w3) - second(S.w - h * w3)) / (2 * h), rtol=1e-6)
    if not dtype.is_complex:
        assert torch.allclose(grad(second)(S.w) @ w3, true)


@each_case
def test_the_gradient_is_the_inverse_at_the_transposed_nonzeros(case, monkeypatch):
    """Through triangular factors, which small matrices otherwise bypass, from every engine."""
    monkeypatch.setattr(answers, "SMALL", 0)
    for dtype in DTYPES:
        A, D, _ = system(case, dtype)
        inverse = torch.linalg.inv(wide(D))
        rows, cols = A.pattern.rows, A.pattern.cols
        scale = torch.finfo(dtype).eps * torch.linalg.cond(wide(D)).clamp(max=1e4)
        for engine in ANY_MATRIX:
            ss.clear_cache()
            v = A.values.clone().requires_grad_()
            log = ss.slogdet(ss.SparseMatrix(A.pattern, v), method=ss.Direct(engine=engine)).logabsdet
            (g,) = torch.autograd.grad(log, v)
            true = inverse[cols, rows].conj()
            assert ((wide(g) - true).abs() <= 1e4 * scale * true.abs().max()).all()


@each_exact
@pytest.mark.parametrize("name", ["general", "unsymmetric_pattern", "many_blocks", "kkt", "spd_zeros"])
def test_second_derivatives_through_factors(name, dtype, monkeypatch):
    A, D, _ = system(BY_NAME[name], dtype)
    M = torch.randn(A.nnz, dtype=dtype)
    Q = torch.linalg.inv(D) @ ss.SparseMatrix(A.pattern, M).to_dense() @ torch.linalg.inv(D)
    true = -Q[A.pattern.cols, A.pattern.rows]
    for small_ones in (0, 64):
        monkeypatch.setattr(answers, "SMALL", small_ones)
        for engine in ANY_MATRIX:
            ss.clear_cache()
            _, got = jvp(
                grad(
                    lambda v, e=engine: ss.slogdet(
                        ss.SparseMatrix(A.pattern, v), method=ss.Direct(engine=e)
                    )[1]
                ),
                (A.values,),
                (M,),
            )
            assert torch.allclose(got, true.conj(), rtol=1e-7, atol=1e-9 * true.abs().max().item())


@each_exact
def test_transforms(dtype):
    S = small("general", dtype)
    f, true = log_of(S), true_log(S)

    def loss(f):
        return lambda w: f(w).abs().square()

    W = S.w + 0.1 * torch.randn(3, len(S.w), dtype=dtype)
    for got, dense in (
        (grad(loss(f))(S.w), grad(loss(true))(S.w)),
        (vmap(f)(W), vmap(true)(W)),
        (vmap(grad(loss(f)))(W), vmap(grad(loss(true)))(W)),
        (vmap(f, in_dims=1)(W.T), vmap(true)(W)),
    ):
        assert torch.allclose(got, dense)
    if not dtype.is_complex:
        assert torch.allclose(jacrev(f)(S.w), jacrev(true)(S.w))
        assert torch.allclose(hessian(f)(S.w), hessian(true)(S.w))
        assert torch.allclose(jacfwd(jacfwd(f))(S.w), jacfwd(jacrev(true))(S.w))
        assert torch.allclose(jacrev(jacfwd(f))(S.w), jacfwd(jacrev(true))(S.w))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@each_exact
def test_compile(dtype, counts):
    torch._dynamo.reset()
    S = small("general", dtype)
    f = torch.compile(
        lambda w: ss.slogdet(S.pattern.assemble(w))[1].square(), backend="aot_eager", fullgraph=True
    )
    w = S.param()
    y = f(w)
    (g,) = torch.autograd.grad(y, w)
    assert counts.factorisations == 1
    assert torch.allclose(g, torch.autograd.grad(torch.linalg.slogdet(S.dense(w))[1].square(), w)[0])
    inside = torch.compile(
        grad(lambda w: ss.logdet(S.pattern.assemble(w * w)).real), backend="aot_eager", fullgraph=True
    )
    true = grad(lambda w: torch.linalg.slogdet(S.dense(w * w))[1])
    assert torch.allclose(inside(S.w), true(S.w))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_operators():
    from sparse_solver.derivatives.items import explicit_factor

    S = small("general")
    A = S.matrix(S.w)
    token = explicit_factor(A.values, A.pattern, "auto" + ss.Direct().key)
    rest = (token, A.pattern.handle, "auto" + ss.Direct().key)
    ops = torch.ops.sparse_solver
    checks = ("test_schema", "test_faketensor")
    M = torch.randn(2, A.nnz, dtype=f64)
    torch.library.opcheck(ops.log_det.default, (A.values, *rest), test_utils=checks)
    torch.library.opcheck(ops.sign.default, (A.values, *rest), test_utils=checks)
    torch.library.opcheck(ops.chain.default, (A.values, M, *rest), test_utils=checks)
    torch.library.opcheck(ops.explicit_factor.default, (A.values, *rest[1:]), test_utils=checks)


@each_exact
def test_batches(dtype):
    S = small("general", dtype)
    W = (S.w + 0.1 * torch.randn(2, 3, len(S.w), dtype=dtype)).requires_grad_()
    for f in (ss.slogdet, lambda A: ss.factorize(A).slogdet()):
        got = f(S.pattern.assemble(W))
        D = torch.stack([S.dense(w) for w in W.reshape(6, -1)]).reshape(2, 3, 4, 4)
        true = torch.linalg.slogdet(D)
        assert torch.allclose(got[0], true[0])
        assert torch.allclose(got[1], true[1])
        c = torch.randn(2, 3, dtype=f64)
        (g,) = torch.autograd.grad((got[1] * c).sum(), W)
        (h,) = torch.autograd.grad((true[1] * c).sum(), W)
        assert torch.allclose(g, h)
