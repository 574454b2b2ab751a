"""Whole steps in one compiled call: the same answers, errors, derivatives and owners as elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cases import grid, neumann
from reference import assert_solves
from small import small
from torch.autograd import gradcheck, gradgradcheck

import sparse_solver as ss
from sparse_solver.derivatives import step as quick
from sparse_solver.engines import simplicial
from sparse_solver.planning import Step, choose

pytestmark = pytest.mark.usefixtures("steps")


class Seen:
    def __init__(self) -> None:
        self.forward = self.backward = 0


@pytest.fixture
def seen(monkeypatch) -> Seen:
    """How many steps went the short way, there and back."""
    seen = Seen()

    def forward(step, *args, inner=Step.forward):
        out = inner(step, *args)
        seen.forward += out[0] >= 0
        return out

    def backward(step, *args, inner=Step.backward):
        out = inner(step, *args)
        seen.backward += out is not None
        return out

    monkeypatch.setattr(Step, "forward", forward)
    monkeypatch.setattr(Step, "backward", backward)
    return seen


def warm(S, **options):
    """The second factorisation is by the simplicial engine, and all that follow."""
    for k in (1, 2, 3):
        S.solve(k * S.w, S.rhs(grad=False), assume="auto", **options)
    assert S.pattern.recent().step is not None
    return S


@pytest.fixture
def S():
    return warm(small("spd", n=8))


def system_on(M, dtype=torch.float64):
    """A pattern in use, for a SciPy matrix."""
    A = ss.SparseMatrix.from_scipy(M).to(dtype)
    for k in (1, 2, 3):
        try:
            ss.solve(ss.SparseMatrix(A.pattern, k * A.values), torch.ones(A.shape[0], dtype=dtype))
        except torch.linalg.LinAlgError:
            pass
    return A


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("assume", ["auto", "symmetric", "hermitian", "spd"])
def test_answers_and_gradients(counts, seen, dtype, assume):
    S = small("spd", dtype, n=9)
    g = torch.Generator().manual_seed(1)
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {}
    for _ in range(12):
        w = (S.w * (1 + 0.1 * torch.randn(S.w.shape, generator=g, dtype=dtype))).requires_grad_()
        b = S.rhs()
        x = S.solve(w, b, assume=assume)
        assert torch.allclose(x, S.truth(w, b), **tolerance)
        found = torch.autograd.grad(x.square().sum(), (w, b))
        true = torch.autograd.grad(S.truth(w, b).square().sum(), (w, b))
        assert all(torch.allclose(f, t, **tolerance) for f, t in zip(found, true, strict=True))
    assert seen.forward >= 9 and seen.backward == seen.forward
    assert counts.factorisations == 12
    assert counts.solves == 24


def test_the_bits_are_those_of_the_engine(S):
    b = S.rhs(grad=False)
    A = S.matrix(S.w * 1.7)
    x = ss.solve(A, b)
    F = ss.factorize(A, method=ss.Direct(engine="simplicial"))
    assert torch.equal(F.solve(b), x)
    assert torch.equal(ss.solve(A, b), x)


def test_who_answers(S):
    b = S.rhs(grad=False)
    details = ss.solve_ex(S.matrix(S.w), b).details
    assert (details.engine, details.path, details.kind) == ("simplicial", "ldlt", "symmetric")
    assert "one compiled call" in details.reason


def test_the_same_values_are_factored_once(counts, S):
    A, b = S.matrix(S.w * 5), S.rhs(grad=False)
    counts.reset()
    for _ in range(3):
        ss.solve(A, b)
    ss.solve(A, S.rhs(3, grad=False))  # columns: the general path, on the same factor
    ss.solve(A, b, adjoint=True)
    ss.solve_ex(A, b)
    ss.solve(A, b)
    assert counts.factorisations == 1
    ss.solve(S.matrix(S.w), b)
    assert counts.factorisations == 2


def test_the_general_path_hands_its_factor_on(counts, S):
    A, b = S.matrix(S.w * 5), S.rhs(grad=False)
    counts.reset()
    ss.solve(A, b, transpose=True)
    ss.solve(A, b)
    assert counts.factorisations == 1


def test_derivatives(S, seen):
    w, b = S.param(), S.rhs()

    def solve(w, b):
        return S.solve(w, b, assume="auto")

    assert gradcheck(solve, (w, b), check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(solve, (w, b), check_fwd_over_rev=True)
    assert seen.forward > 20 and seen.backward > 20


def test_double_backward_uses_the_same_factor(counts, S):
    w, b = (S.w * 1.3).requires_grad_(), S.rhs()
    counts.reset()
    (g,) = torch.autograd.grad(S.solve(w, b, assume="auto").square().sum(), w, create_graph=True)
    (h,) = torch.autograd.grad(g.square().sum(), w)
    (g,) = torch.autograd.grad(S.truth(w, b).square().sum(), w, create_graph=True)
    assert torch.allclose(h, torch.autograd.grad(g.square().sum(), w)[0])
    assert counts.factorisations == 1


def test_transforms_and_compilers_take_the_general_path(S, seen):
    b = S.rhs(grad=False)
    f = lambda w: S.solve(w, b, assume="auto").square().sum()  # noqa: E731
    true = lambda w: S.truth(w, b).square().sum()  # noqa: E731
    before = seen.forward
    assert torch.allclose(torch.func.grad(f)(S.w), torch.func.grad(true)(S.w))
    assert torch.allclose(torch.func.hessian(f)(S.w), torch.func.hessian(true)(S.w))
    ws = torch.stack([S.w, 1.1 * S.w])
    assert torch.allclose(torch.vmap(f)(ws), torch.stack([true(w) for w in ws]))
    y, dy = torch.func.jvp(f, (S.w,), (torch.ones_like(S.w),))
    assert torch.allclose(dy, torch.func.jvp(true, (S.w,), (torch.ones_like(S.w),))[1])
    with torch.inference_mode():
        assert torch.allclose(f(S.w), true(S.w))
    assert seen.forward == before
    f(S.w)
    assert seen.forward == before + 1


def test_compiled(S):
    b = S.rhs(grad=False)
    f = torch.compile(lambda w: S.solve(w, b, assume="auto").square().sum(), backend="aot_eager")
    for k in (1.0, 1.2):
        w = (k * S.w).requires_grad_()
        f(w).backward()
        (true,) = torch.autograd.grad(S.truth(w, b).square().sum(), w)
        assert torch.allclose(w.grad, true)


def test_a_tangent_through_backward(S):
    """Backward inside a dual level, of a graph made outside."""
    import torch.autograd.forward_ad as fw

    w, b, t = S.param(), S.rhs(grad=False), torch.randn(8, dtype=torch.float64)
    x = S.solve(w, b, assume="auto")
    with fw.dual_level():
        g = fw.make_dual(torch.ones(8, dtype=torch.float64), t)
        (gw,) = torch.autograd.grad(x, w, g)
        tangent = fw.unpack_dual(gw).tangent
    (true,) = torch.autograd.grad(S.truth(w, b), w, t)
    assert torch.allclose(tangent, true)


def test_checkpoints(S):
    from torch.utils.checkpoint import checkpoint

    w, b = S.param(), S.rhs(grad=False)
    x = checkpoint(lambda w: S.solve(w, b, assume="auto"), w, use_reentrant=False)
    S.pattern.recent().step = None  # what comes between
    x.square().sum().backward()
    (true,) = torch.autograd.grad(S.truth(w, b).square().sum(), w)
    assert torch.allclose(w.grad, true)


def test_many_right_hand_sides_and_strides(S):
    A = S.matrix(S.w * 1.1)
    for b in (S.rhs(11, grad=False), S.rhs(8, grad=False), S.rhs(1, grad=False)):
        assert_solves(A.to_dense(), ss.solve(A, b), b)
    b = torch.randn(16, dtype=torch.float64)[::2]
    assert_solves(A.to_dense(), ss.solve(A, b), b)
    v = torch.randn(2 * S.pattern.nnz, dtype=torch.float64)[::2]
    v.copy_(A.values)
    assert_solves(A.to_dense(), ss.solve(ss.SparseMatrix(S.pattern, v), b), b)
    w = S.param()
    S.solve(w, b, assume="auto").sum().backward()  # a gradient of stride 0
    (true,) = torch.autograd.grad(S.truth(w, b).sum(), w)
    assert torch.allclose(w.grad, true)


# ---- what is not usual is said as elsewhere ----


def test_bad_numbers(S):
    A, b = S.matrix(S.w), S.rhs(grad=False)
    for bad in (float("nan"), float("inf")):
        c = b.clone()
        c[3] = bad
        with pytest.raises(ValueError, match="b .* holds 1 entries that are NaN or infinite"):
            ss.solve(A, c)
        v = A.values.clone()
        v[2] = bad
        with pytest.raises(ValueError, match="A has 1 entries that are NaN or infinite"):
            ss.solve(ss.SparseMatrix(S.pattern, v), b)
    assert_solves(A.to_dense(), ss.solve(A, b), b)
    with pytest.raises(ValueError, match="assume='nonsense'"):
        ss.solve(A, b, assume="nonsense")
    with pytest.raises(ValueError, match=r"shape \(8, 8\) and b has shape \(7,\)"):
        ss.solve(A, b[:7])
    with pytest.raises(TypeError, match="float32"):
        ss.solve(A, b.float())


def test_other_kinds_on_the_same_pattern(S, seen):
    """Unsymmetric, indefinite and slightly unsymmetric values among definite ones."""
    A, b = S.matrix(S.w), S.rhs(grad=False)
    rows, cols = S.pattern.rows, S.pattern.cols
    for k in range(4):
        v = A.values * (1 + 0.1 * k)
        unsymmetric = torch.where(rows < cols, 0.5 * v, v)
        indefinite = torch.where((rows == cols) & (rows == 3), -v, v)
        rounded = torch.where(rows < cols, v * (1 + 2e-16), v)
        for values in (v, unsymmetric, v, indefinite, v, rounded):
            M = ss.SparseMatrix(S.pattern, values.clone().requires_grad_())
            x = ss.solve(M, b)
            assert_solves(M.to_dense().detach(), x.detach(), b)
            (g,) = torch.autograd.grad(x.square().sum(), M.values)
            D = M.to_dense().detach()
            y = torch.linalg.solve(D.T, 2 * x.detach())
            assert torch.allclose(g, -y[rows] * x.detach()[cols])
    assert seen.forward >= 8


def test_assumptions_are_verified(S):
    warm(S)
    A, b = S.matrix(S.w), S.rhs(grad=False)
    rows, cols = S.pattern.rows, S.pattern.cols
    for k in (1, 2, 3):
        ss.solve(ss.SparseMatrix(S.pattern, k * A.values), b, assume="spd")
    assert S.pattern.recent().step.assume == "spd"
    indefinite = torch.where((rows == cols) & (rows == 3), -A.values, A.values)
    with pytest.raises(ss.NotPositiveDefiniteError, match="leading block up to unknown 3"):
        ss.solve(ss.SparseMatrix(S.pattern, indefinite), b, assume="spd")
    unsymmetric = torch.where(rows < cols, 0.5 * A.values, A.values)
    with pytest.raises(ValueError, match='assume="spd" but'):
        ss.solve(ss.SparseMatrix(S.pattern, unsymmetric), b, assume="spd")


def test_singular_matrices():
    regular = system_on(grid(5) + 0.0 * neumann(5))
    b = torch.randn(25, dtype=torch.float64)
    singular = ss.SparseMatrix.from_scipy(neumann(5))
    assert singular.pattern == regular.pattern
    for _ in range(3):
        assert_solves(regular.to_dense(), ss.solve(regular, b), b)  # not dominant: probed
        with pytest.raises(ss.SingularMatrixError):
            ss.solve(ss.SparseMatrix(regular.pattern, singular.values), b)
        x, info = ss.solve_ex(ss.SparseMatrix(regular.pattern, singular.values), b)
        assert int(info) > 0 and x.isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_badly_scaled_matrices_are_refined_or_refused(dtype):
    rng = np.random.default_rng(3)
    A = system_on(grid(6), dtype)
    eps = torch.finfo(dtype).eps
    for _ in range(40):
        d = torch.from_numpy(10.0 ** rng.uniform(-5, 5, 36)).to(dtype)
        v = A.values * d[A.pattern.rows] * d[A.pattern.cols]
        M = ss.SparseMatrix(A.pattern, v)
        b = torch.from_numpy(rng.standard_normal(36)).to(dtype) * d
        x = ss.solve(M, b).double()
        D, c = M.to_dense().double(), b.double()
        r = (D @ x - c).abs()
        assert r.max() <= 1e3 * eps * (D.abs().sum(1).max() * x.abs().max() + c.abs().max())
        assert (r <= 1e7 * eps * (D.abs() @ x.abs() + c.abs())).all()


# ---- when ----


def test_without_checks_or_reuse_there_are_no_steps(seen):
    S = small("spd", n=8)
    for method in (ss.Direct(check=False), ss.Direct(reuse=False), ss.Direct(engine="superlu")):
        for k in (1, 2, 3, 4):
            b = S.rhs(grad=False)
            assert torch.allclose(S.solve(k * S.w, b, method=method), S.truth(k * S.w, b))
    assert seen.forward == 0


def test_asked_for_by_name(seen):
    S = small("spd", n=8)
    b = S.rhs(grad=False)
    for k in (1, 2, 3):
        S.solve(k * S.w, b, method=ss.Direct(engine="simplicial"))
    assert seen.forward == 2
    with pytest.raises(ValueError, match="factors float32 and float64"):
        ss.solve(S.matrix(S.w).to(torch.complex128), b + 0j, method=ss.Direct(engine="simplicial"))


def test_when_they_pay():
    choices, Work, Future = choose.choices, choose.Work, choose.Future

    def first(uses=10**6, flops=1e5, n=900, kind="symmetric", dtype="float64", **future):
        given = choices(n, 5 * n, kind, dtype, "auto", Work("klu", flops, 9000), Future(uses, **future))
        return given[0].engine

    assert first() == "simplicial"
    assert first(uses=0) != "simplicial"
    assert first(flops=1e7) != "simplicial"
    assert first(n=10_000) != "simplicial"
    assert first(kind="general") != "simplicial"
    assert first(dtype="complex128") != "simplicial"
    assert first(promised=True) != "simplicial"


def test_states():
    assert simplicial.state("float64") in ("compiled", "loaded", "on disk", "cold")
    simplicial.warm_up("float64")
    assert simplicial.state("float64") == "compiled"
    assert simplicial.state("complex128") == "cold"


def test_quick_needs_a_step(S):
    A, b = S.matrix(S.w), S.rhs(grad=False)
    assert quick.quick(A, b, "auto", ss.Direct()) is not None
    assert quick.quick(A.T, b, "auto", ss.Direct()) is None
    assert quick.quick(A, b, "general", ss.Direct()) is None
    assert quick.quick(A.to_dense(), b, "auto", ss.Direct()) is None
    assert quick.quick(A, b.tolist(), "auto", ss.Direct()) is None
